"""Loops and stacks of copies: the same piece of graph again and again.

The tables of all pairs of n steps are n²/2. What two steps have in common changes slowly when both move on together, so only
some pairs are worked out; the others continue the line through the correlations of the last two as far apart that were. Along
pairs d steps apart the i-th is worked out when (i + d)/8 steps have passed since the last: of the order of n pairs in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Generic, TypeVar

from torch import fx

from gradlint.trace.graph import step

__all__ = ["Loop", "Repeats", "Stand"]

_FEWEST = 8
_FINE = 8


T = TypeVar("T")


@dataclass(frozen=True)
class Stand(Generic[T]):
    """A pair whose correlation enters another's with a weight."""

    first: T
    second: T
    weight: float


@dataclass(frozen=True)
class Loop:
    """Steps of ``period`` nodes each; the first starts at node number ``start``."""

    start: int
    period: int
    steps: int


class Repeats:
    """Which step of a loop a node is in, and its counterpart in another step.

    Args:
        graph: the model's.
        drawn: parameter name to the first parameter with the same random values.
    """

    def __init__(self, graph: fx.Graph, drawn: Mapping[str, str]) -> None:
        self._nodes = list(graph.nodes)
        self._order = {node: i for i, node in enumerate(self._nodes)}
        self._loops = _loops(self._uses(drawn))
        self._kinds = [_kind(node) for node in self._nodes] if self._loops else []
        self._places: dict[fx.Node, tuple[Loop, int] | None] = {}

    def _uses(self, drawn: Mapping[str, str]) -> Iterable[Sequence[int]]:
        """For every draw the numbers of the nodes that use it."""
        uses: dict[str, list[int]] = {}
        for node in self._nodes:
            draw = drawn.get(str(node.target)) if node.op == "get_attr" else None
            if draw is not None:
                uses.setdefault(draw, []).extend(self._order[user] for user in node.users)
        return map(sorted, uses.values())

    def place(self, node: fx.Node) -> tuple[Loop, int] | None:
        """The loop and the number of the step that a node is in, from 1."""
        if node not in self._places:
            at = self._order[node]
            steps = ((loop, (at - loop.start) // loop.period + 1) for loop in self._loops)
            self._places[node] = next(((loop, k) for loop, k in steps if 1 <= k <= loop.steps), None)
        return self._places[node]

    def counterparts(self, later: fx.Node, earlier: fx.Node, *, mirrored: bool = False) -> Sequence[Stand[fx.Node]]:
        """Pairs as far apart whose correlations stand for that of these two; none if it is to be worked out.

        Args:
            mirrored: steps are counted from the last one (as gradients come).
        """
        if not self._loops:
            return ()
        a, b = self.place(later), self.place(earlier)
        if a is None or b is None or a[0] is not b[0]:
            return ()
        loop = a[0]
        first, second = (loop.steps + 1 - k if mirrored else k for _, k in (b, a))
        found = []
        for step_, weight in _stand_ins(first, abs(second - first)):
            shift = (first - step_ if mirrored else step_ - first) * loop.period
            nodes = [self.moved(node, shift) for node in (later, earlier)]
            if nodes[0] is None or nodes[1] is None:
                return ()
            found.append(Stand(nodes[0], nodes[1], weight))
        return found

    def nodes(self, loop: Loop, k: int) -> Sequence[fx.Node]:
        """Those of step k, from 1."""
        return self._nodes[loop.start + (k - 1) * loop.period : loop.start + k * loop.period]

    def moved(self, node: fx.Node, shift: int) -> fx.Node | None:
        """The node so many places later, if it is an op of the same kind."""
        before = self._order[node]
        at = before + shift
        return self._nodes[at] if 0 <= at < len(self._nodes) and self._kinds[at] == self._kinds[before] else None


def _loops(uses: Iterable[Sequence[int]]) -> tuple[Loop, ...]:
    """Runs of uses at equal distances, the longest first; the first use may be farther from the second (it fetches weights)."""
    found = set()
    for places in uses:
        gaps = [b - a for a, b in pairwise(places)][1:]
        if len(gaps) + 2 >= _FEWEST and len(set(gaps)) == 1 and gaps[0] > 0:
            found.add(Loop(places[1] - gaps[0], gaps[0], len(places)))
    return tuple(sorted(found, key=lambda loop: (-loop.steps, loop.start)))


@cache
def _worked_out(i: int, apart: int) -> tuple[int, ...]:
    """The last two steps up to ``i`` whose pairs so far apart are worked out."""
    last: tuple[int, ...] = (1,)
    while True:
        following = last[-1] + max(1, (last[-1] + apart) // _FINE)
        if following > i:
            return last
        last = (last[-1], following)


def _stand_ins(i: int, apart: int) -> tuple[tuple[int, float], ...]:
    """Steps and weights that make the straight line through the last two pairs worked out; none where ``i`` is one."""
    last = _worked_out(i, apart)
    if last[-1] == i:
        return ()
    if len(last) == 1:
        return ((last[0], 1.0),)
    beyond = (i - last[1]) / (last[1] - last[0])
    return (last[1], 1.0 + beyond), (last[0], -beyond)


def _kind(node: fx.Node) -> tuple[str, str, tuple[int, ...] | None]:
    return node.op, str(node.target) if node.op != "get_attr" else "", step(node).shape
