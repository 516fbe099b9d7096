"""Forward: steps of a loop that leave what the step before has left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary import Loop, Repeats
from gradlint.moments import Moments

__all__ = ["Resting", "same"]

_FIRST = 4
"""Step from which on a loop may be at rest."""

_SAME = 1e-7
"""Relative difference of two moments that are the same."""


class Resting:
    """Which steps are at rest.

    Args:
        repeats: the loops of a graph.
        values: moments of the nodes so far.
    """

    def __init__(self, repeats: Repeats, values: Mapping[fx.Node, Any]) -> None:
        self._repeats, self._values = repeats, values
        self._known: dict[tuple[Loop, int], bool] = {}
        self._shown: dict[fx.Node, str] = {}

    def before(self, node: fx.Node) -> fx.Node | None:
        """The op of the step before that has the same value; None where there is none, or the value is to be worked out."""
        place = self._repeats.place(node)
        if place is None or place[1] < _FIRST or not node.op.startswith("call_") or node.op == "call_module":
            return None
        loop, k = place
        before = self._repeats.moved(node, -loop.period)
        if before is None or self._values[before] is None or not self.rests(loop, k - 1) or not self._alike(node, before):
            return None
        return before

    def rests(self, loop: Loop, k: int) -> bool:
        """Step k, which is done, has left what the step before it has left."""
        if k < _FIRST - 1:
            return False
        if (loop, k) not in self._known:
            self._known[loop, k] = all(self._stays(node, loop.period) for node in self._repeats.nodes(loop, k))
        return self._known[loop, k]

    def _stays(self, node: fx.Node, period: int) -> bool:
        before = self._repeats.moved(node, -period)
        return before is not None and same(self._values[node], self._values[before])

    def _alike(self, node: fx.Node, before: fx.Node) -> bool:
        """The same call, on tensors of the same moments; on the same parameters."""
        inputs = zip(node.all_input_nodes, before.all_input_nodes, strict=True)
        fed = all(a is b or (a.op != "get_attr" and same(self._values[a], self._values[b])) for a, b in inputs)
        return fed and self._text(node) == self._text(before)

    def _text(self, node: fx.Node) -> str:
        """The arguments without the tensors."""
        if node not in self._shown:
            self._shown[node] = repr(fx.node.map_arg((node.args, node.kwargs), lambda _: "·"))
        return self._shown[node]


def same(a: Any, b: Any) -> bool:
    """Moments that differ by rounding."""
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if not isinstance(a, Moments) or not isinstance(b, Moments) or a.dims != b.dims:
        return False
    if (a.value is None) != (b.value is None) or (a.value is not None and not np.array_equal(a.value, b.value)):
        return False
    if (a.parts is None) != (b.parts is None) or a.grams.keys() != b.grams.keys():
        return False
    if a.parts is not None and b.parts is not None:
        if (a.parts.axis, tuple(a.parts.sizes)) != (b.parts.axis, tuple(b.parts.sizes)):
            return False
        if not all(map(same, a.parts.laws, b.parts.laws)):
            return False
    if not all(np.allclose(a.grams[axis], b.grams[axis], _SAME, 0.0) for axis in a.grams):
        return False
    scale = max(a.q, b.q)
    return abs(a.mean - b.mean) <= _SAME * scale**0.5 and bool(np.abs(a.v - b.v).max(initial=0.0) <= _SAME * scale)
