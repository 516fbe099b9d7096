"""Recurrence: weights that act on their own output, in time or in depth, each as one object whose verdict is a function of T.

* loops written in Python, recognised in the traced graph (:mod:`~gradlint.recurrence.body`) and unrolled again to a length of
  gradlint's own (:mod:`~gradlint.recurrence.unroll`);
* ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and loops over their cells, written out gate by gate (:mod:`~gradlint.recurrence.cells`).

Either way the gradient of the last state is followed back by the interpreter itself, so a loop by hand and the module agree.
"""

from __future__ import annotations

from gradlint.recurrence.curve import Curve
from gradlint.recurrence.found import Recurrence, find_recurrences

__all__ = ["Curve", "Recurrence", "find_recurrences"]
