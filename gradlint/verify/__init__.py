"""Prediction beside reality: what one real backward pass gives, and how far a prediction is from it.

:func:`measure` builds the model a few times from different seeds, feeds it random inputs and a random cotangent, and
averages squares: the definition of ``rms`` and ``grad_rms``, carried out. :func:`compare` lays an analysis beside it.

Errors are in bits, ``|log2(predicted / measured)|``. Tensors whose measured rms is below ``floor`` times the largest
are not counted: there a gradient that is zero by symmetry is rounding noise. Where such a zero stands beside a tensor
of its own layer that is not zero, the prediction must be (nearly) zero as well.
"""

from gradlint.verify.compare import Comparison, Entry, Errors, Predicted, Zero, compare
from gradlint.verify.measure import Measured, Size, backward, measure

__all__ = ["Comparison", "Entry", "Errors", "Measured", "Predicted", "Size", "Zero", "backward", "compare", "measure"]
