"""Forward: steps of a loop that leave what the step before has left."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary import Covariances, Loop
from gradlint.handles import Inputs
from gradlint.moments import Moments
from gradlint.ops import Flow
from gradlint.recognise import Cone

__all__ = ["Resting", "same"]

_FIRST = 4
"""Step from which on a loop may be at rest."""

_SAME = 1e-7
"""Relative difference of two moments that are the same."""


class Resting:
    """Which steps are at rest, and what they take over from the step before.

    Args:
        covariances: of the model; they know its loops and the values so far.
        flows: every call with the inputs of its flow.
        cones: by member.
        how: node name to how it was understood.
        fixed: nodes made of weights alone.
        apart: nodes that are always worked out.
    """

    def __init__(
        self,
        covariances: Covariances,
        flows: dict[fx.Node, tuple[Flow, Inputs]],
        cones: Mapping[fx.Node, Cone],
        how: dict[str, str],
        fixed: set[fx.Node],
        apart: Container[fx.Node],
    ) -> None:
        self._covariances, self._flows, self._cones = covariances, flows, cones
        self._how, self._fixed, self._apart = how, fixed, apart
        self._repeats, self._values = covariances.ledger.repeats, covariances.ledger.values
        self._known: dict[tuple[Loop, int], bool] = {}
        self._shown: dict[fx.Node, str] = {}

    def repeated(self, node: fx.Node, known: Callable[[fx.Node], Any]) -> Any:
        """The value of an op in a loop that has come to rest, taken over from the step before; None: it is to be worked out.

        Args:
            known: works a node out. A member of a cone needs it for the grid of its own root.
        """
        before = None if node in self._apart else self.before(node)
        if before is None:
            return None
        if node in self._cones:
            if before not in self._cones or known(node) is None or node not in self._cones:
                return None
        elif before in self._flows and not self._handed_on(before, node):
            return None
        if before in self._fixed:
            self._fixed.add(node)
        self._how[node.name] = self._how[before.name]
        self._covariances.repeated(node)
        return self._values[before]

    def _handed_on(self, before: fx.Node, node: fx.Node) -> bool:
        """The flow of a call, between the tensors of another; False where these do not correspond."""
        flow, inputs = self._flows[before]
        moved = dict(zip(before.all_input_nodes, node.all_input_nodes, strict=True))
        own: Inputs = {handle: moved[n] for handle, n in inputs.items() if isinstance(n, fx.Node) and n in moved}
        if len(own) < len(inputs):
            return False
        records = self._covariances.ledger.records
        self._flows[node] = flow, own
        if before in records:
            records[node] = replace(records[before], inputs=own)
        return True

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
    if (a.value is None) != (b.value is None):
        return False
    if a.value is not None and b.value is not None and not np.array_equal(a.value, b.value):
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
