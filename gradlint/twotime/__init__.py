"""Recurrent layers by the second moments of pairs of time steps. No torch.

One weight at every step makes steps depend on one another: gradients along a gate that carries the state add up coherently, a
bias is integrated for as long as the state remembers. In the limit of many units everything at two steps is jointly Gaussian, and
moments of pairs of steps close among themselves, forward (:mod:`~gradlint.twotime.cells`) and backward
(:mod:`~gradlint.twotime.gradients`). A layer that has come to rest costs nothing more per step going forward.
"""

from gradlint.twotime.cells import CELLS, Cell, Drive
from gradlint.twotime.gradients import Backward, Seeds, backward, extrapolated
from gradlint.twotime.layer import Forward, forward
from gradlint.twotime.tables import Even, Known, Settled, Table, in_unit
from gradlint.twotime.views import Masked, Mirrored, Mixed, Rows

__all__ = [
    "CELLS",
    "Backward",
    "Cell",
    "Drive",
    "Even",
    "Forward",
    "Known",
    "Masked",
    "Mirrored",
    "Mixed",
    "Rows",
    "Seeds",
    "Settled",
    "Table",
    "backward",
    "extrapolated",
    "forward",
    "in_unit",
]
