"""Functions of tensors whose moments say too little about them.

A sum along a known axis, a mask, a slice: their results are taken as Gaussian where no law is known. ``exp`` of such a tensor
may then live on a tail that the tensor does not have: the decays ``exp(Σ Δ·A)`` of a state-space model never exceed 1, their
Gaussian counterpart has no bound. And where a mask of infinities was put in, an entry is not what the moments describe. Such a
function is sampled together with the moves and sums in front of it, from the tensors whose laws are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx

from gradlint.moments import GRID, Array, Moments
from gradlint.ops import combine, index, lookup, pieces, scatter, shape
from gradlint.recognise import Cone, Grid
from gradlint.region import Region
from gradlint.trace.graph import step

__all__ = ["bounded", "source_of"]

_MOVES = {family.__name__ for family in (combine, index, pieces, scatter, shape)}
_SUMS = {"cumsum", "diff", "sum", "mean"}

_TAIL = 3.0
"""Standard deviations: beyond lie 0.3 % of the entries."""


def bounded(value: Any) -> bool:
    """The moments are numbers; those of a mask of infinities are not."""
    return not isinstance(value, Moments) or bool(np.isfinite(value.mean) and np.isfinite(value.v).all())


def source_of(node: fx.Node, cone: Cone, grid: Grid, values: Mapping[fx.Node, Any]) -> Callable[[fx.Node], bool] | None:
    """What to sample a cone's member together with; None where its curve on the grid tells enough.

    Args:
        node: the member.
        grid: of its cone.
        values: the moments of all nodes so far.
    """
    root: Moments = values[cone.root]
    if root.value is not None or not _moved(cone.root):
        return None

    def inside(n: fx.Node) -> bool:
        return n in cone.members or _moved(n)

    if root.alive is not None:
        return None if grid.affine(node) else inside
    if root.law is not None or not _on_tail(grid.curve(node)[0]):
        return None
    known = (isinstance(x := values[leaf], Moments) and (x.law or x.value) is not None for leaf in Region(node, inside).leaves)
    return inside if any(known) else None


def _on_tail(values: Array) -> bool:
    """More than half of the mean square comes from beyond the tail's edge."""
    squares = GRID.weights * (values / max(np.abs(values).max(), 1e-300)) ** 2
    return float(squares[np.abs(GRID.z) > _TAIL].sum()) > 0.5 * float(squares.sum())


def _moved(node: fx.Node) -> bool:
    """The entries of the result are entries of the arguments, or sums and products of them."""
    if node.op not in ("call_function", "call_method") or not step(node).floating:
        return False
    op = lookup(node.target)
    return op is not None and (op.function.__module__ in _MOVES or op.name in _SUMS)
