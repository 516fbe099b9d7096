"""Prediction beside reality: what real backward passes give, and how far a prediction is from it.

:func:`measure` builds the model a few times from different seeds, feeds it random inputs and a random cotangent, and
averages squares: the definition of ``rms`` and ``grad_rms``, carried out. :func:`compare` lays an analysis beside it,
:func:`judge` does so for what a finding claims.

Errors are in bits, ``|log2(predicted / measured)|``. Tensors whose measured rms is below ``floor`` times the largest
are not counted: there a gradient that is zero by symmetry is rounding noise. Where such a zero stands beside a tensor
of its own layer that is not zero, the prediction must be (nearly) zero as well.
"""

from gradlint.comparison import Claim, Comparison, Entry, Errors, Place, Zero
from gradlint.verification.compare import Predicted, compare
from gradlint.verification.measure import Measured, Size, backward, duplicate, measure
from gradlint.verification.memory import precisions
from gradlint.verification.verdict import Verification, judge, overlooked

__all__ = [
    "Claim",
    "Comparison",
    "Entry",
    "Errors",
    "Measured",
    "Place",
    "Predicted",
    "Size",
    "Verification",
    "Zero",
    "backward",
    "compare",
    "duplicate",
    "judge",
    "measure",
    "overlooked",
    "precisions",
]
