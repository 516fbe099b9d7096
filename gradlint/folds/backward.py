"""Backward: steps of a loop whose gradients are those of the step after it, times a factor.

Counted from the loss, the growth per step is constant where steps have little in common, and tends to a constant as a series in
1/k where a diagonal path leads through all of them (``J = aI + gG``: ``(a + g)^k/√k``, :func:`gradlint.twotime.extrapolated`).
Where every step is sent something from outside, gradients come to rest or are not folded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary import Covariances, Loop
from gradlint.flowed import Edge
from gradlint.folds.forward import Resting, same
from gradlint.gathered import Gathered, in_units
from gradlint.moments import Array, Moments, energy
from gradlint.twotime import extrapolated

__all__ = ["Returning"]

_FEWEST = 6
"""Steps, counted from the last, after which it is tried to tell the others from them."""

_LOOK = 24
"""Steps after which it is tried to tell a growth that changes from step to step."""

_WORTH = 8
"""Steps that are not worth folding."""

_STILL = 1e-8
"""Change of the growth per step, in bits, of a growth that is constant."""

_APART = 0.02
"""Bits per step that the growth of two ops of a step may differ by."""

_UNIT = 64
"""Bits beyond which a gradient is kept in a unit of its own."""


_NOTHING = 1e-3
"""Share of a gradient's mean square that need not be told from nothing."""

_SETTLED, _STEADY = 0.01, 1e-4
"""Bits per step by which that share may still change: where gradients grow or decay, and where they do not."""

_FADING = 0.1
"""Bits per step by which what gradients have in common with the last ones decays at least, and by which this may change."""


@dataclass(frozen=True)
class _Factor:
    """What a step has more than a later one.

    Args:
        bits: of every gradient.
        shares: bits per step of what a call's gradient has in common with those that others sent, as a share of its own.
        steps: number of steps between the two.
    """

    bits: float
    shares: Mapping[tuple[fx.Node, int], float]
    steps: int

    @property
    def unit(self) -> int:
        """The part of the bits that becomes a unit."""
        return round(self.bits) if abs(self.bits) > _UNIT else 0


@dataclass
class _Course:
    """What is known of one loop on the way back.

    Args:
        at: the step that the interpreter is in.
        levels: energies of the ops of the steps done, in bits, shape (nodes,) each; the last step of the loop first.
        outside: what every step was sent from outside of the loop: op number in the step to gradient.
        look: number of levels at which to look again.
    """

    at: int
    levels: list[Array] = field(default_factory=list)
    outside: dict[int, dict[int, Any]] = field(default_factory=dict)
    look: int = _LOOK


@dataclass
class Returning:
    """Finds the steps that need not be worked out, and fills them in.

    Args:
        covariances: of the model; they know its loops.
        resting: which steps are at rest.
        gathered: gradients at the nodes.
        inside: those at nodes within a cone.
        edges: how they got there.
        lost: names of nodes whose gradient is unknown.
    """

    covariances: Covariances
    resting: Resting
    gathered: Gathered[fx.Node]
    inside: Gathered[fx.Node]
    edges: list[Edge]
    lost: set[str]
    skipped: set[fx.Node] = field(default_factory=set)
    _courses: dict[Loop, _Course] = field(default_factory=dict)
    _sent: dict[fx.Node, list[tuple[fx.Node, Moments, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repeats = self.covariances.ledger.repeats

    def sent(self, consumer: fx.Node, target: fx.Node, grad: Moments, slot: int) -> None:
        """A call sent a gradient to its input number ``slot``."""
        if self.repeats.place(consumer) is not None:
            self._sent.setdefault(consumer, []).append((target, grad, slot))

    def reached(self, node: fx.Node) -> bool:
        """The interpreter comes to ``node`` on its way back; True where its gradient is known already."""
        if node in self.skipped:
            return True
        place = self.repeats.place(node)
        if place is None:
            return False
        loop, k = place
        course = self._courses.setdefault(loop, _Course(k))
        if k != course.at:
            course.at = k
            self._done(loop, k + 1, course)
        return node in self.skipped

    def _done(self, loop: Loop, k: int, course: _Course) -> None:
        """All of step k has been worked out."""
        if k == loop.steps:
            course.outside = {m: dict(self._arrived(loop, m)) for m in range(1, k - 1)}
            return  # what follows the loop may share its last step
        nodes = self.repeats.nodes(loop, k)
        course.levels.append(np.array([self._level(node) for node in nodes]))
        factors = None if len(course.levels) < _FEWEST else self._factors(loop, k, course)
        if factors is not None:
            self._fold(loop, k, factors)
            course.levels, course.at = [], k - len(factors)
        for node in self.repeats.nodes(loop, k + 2):
            self._sent.pop(node, None)

    def _arrived(self, loop: Loop, k: int) -> Iterator[tuple[int, Any]]:
        found = (
            (i, self.gathered.grads.get(node)) for i, node in enumerate(self.repeats.nodes(loop, k)) if node.op != "get_attr"
        )
        return ((i, grad) for i, grad in found if grad is not None)

    def _level(self, node: fx.Node) -> float:
        found = energy(self.gathered.grads.get(node)) if isinstance(self.gathered.grads.get(node), Moments) else 0.0
        return math.log2(found) + 2 * self.gathered.units[node] if found > 0 else -math.inf

    def _factors(self, loop: Loop, k: int, course: _Course) -> list[_Factor] | None:
        """What the steps before step k have more than it, as far as they are at rest; None: unknown."""
        first = k
        if self.resting.rests(loop, k):
            while self.resting.rests(loop, first - 1):
                first -= 1
        steps = k - first
        if steps < _WORTH or not self._closed(loop, k):
            return None
        levels = np.stack(course.levels)
        alive = np.isfinite(levels[-1])
        if not alive.any() or not np.array_equal(alive, np.isfinite(levels[-2])):
            return None
        growth = np.diff(levels[-3:, alive], axis=0)
        mean = float(growth[-1].mean())
        if np.ptp(growth[-1]) > _APART:
            return None
        constant = bool(np.abs(growth[-1] - growth[0]).max() < _STILL and np.ptp(growth[-1]) < _STILL)
        outside = [course.outside[m] for m in range(first, k)]
        if any(outside):
            here = course.outside.get(k, {})
            alike = all(x.keys() == here.keys() and all(same(x[i], here[i]) for i in here) for x in outside)
            if not alike or not constant or abs(mean) > _STILL:
                return None
            mean = 0.0
        if not constant and len(levels) < course.look:
            return None
        course.look = max(course.look, 2 * len(levels))
        whole = levels[:, alive].mean(1)
        ahead = np.full(steps, mean) if constant else extrapolated(whole[-(len(whole) // 2) - 1 :], len(whole) - 1, steps)
        shares = None if ahead is None else self._shares(loop, k, mean)
        if ahead is None or shares is None:
            return None
        return [_Factor(float(bits), shares, i + 1) for i, bits in enumerate(0.5 * np.cumsum(ahead))]

    def _shares(self, loop: Loop, k: int, growth: float) -> dict[tuple[fx.Node, int], float] | None:
        """Bits per step by which what gradients have in common with those before grows beyond their own; None: unsettled.

        A gradient that decays has most in common with the largest, the last ones: as much as the diagonal path hands on.
        """
        found: dict[tuple[fx.Node, int], float] = {}
        for node in self.repeats.nodes(loop, k):
            after = [self.repeats.moved(node, i * loop.period) for i in (0, 1, 2)]
            for target, _, slot in self._sent.get(node, ()):
                if self._place(loop, target) is not None:
                    continue
                x = [0.0 if n is None else self.covariances.excess(n, slot) for n in after]
                if max(map(abs, x)) < _NOTHING:
                    continue
                if min(x) <= 0 and max(x) >= 0:
                    return None
                now, then = math.log2(x[0] / x[1]), math.log2(x[1] / x[2])
                if abs(now) < (_SETTLED if growth else _STEADY):
                    continue
                if growth + now > -_FADING or abs(now - then) > _FADING:
                    return None
                found[node, slot] = now
        return found

    def _closed(self, loop: Loop, k: int) -> bool:
        """Step k is known, sends to itself, to the step before and to what lies outside of the loop."""
        for node in self.repeats.nodes(loop, k):
            if node.name in self.lost or not node.op.startswith("call_") or node.op == "call_module":
                return False
            for target, _, _ in self._sent.get(node, ()):
                place = self._place(loop, target)
                if place not in (k, k - 1) if place is not None else target not in node.all_input_nodes:
                    return False
        return True

    def _fold(self, loop: Loop, k: int, factors: Sequence[_Factor]) -> None:
        """Fill in the steps before step k."""
        template = list(reversed(self.repeats.nodes(loop, k)))
        last = k - len(factors)
        for factor in factors:
            shift = -factor.steps * loop.period
            for node in template:
                counterpart = self.repeats.moved(node, shift)
                assert counterpart is not None  # noqa: S101  (a step at rest has all of them)
                self.skipped.add(counterpart)
                for store in (self.gathered, self.inside):
                    store.repeat(counterpart, node, factor.bits - factor.unit, factor.unit)
                self._resent(loop, (node, counterpart), last, factor)

    def _place(self, loop: Loop, node: fx.Node) -> int | None:
        """The step that an op is in; None outside of the loop, and for a parameter that a step was the first to use."""
        place = None if node.op == "get_attr" else self.repeats.place(node)
        return place[1] if place is not None and place[0] is loop else None

    def _resent(self, loop: Loop, calls: tuple[fx.Node, fx.Node], last: int, factor: _Factor) -> None:
        """What the counterpart of a call sends to its inputs."""
        node, counterpart = calls
        inputs: Mapping[fx.Node, fx.Node] = dict(zip(node.all_input_nodes, counterpart.all_input_nodes, strict=True))
        unit = self.gathered.units.get(counterpart, 0)
        for target, grad, slot in self._sent.get(node, ()):
            to = inputs.get(target) or self.repeats.moved(target, -factor.steps * loop.period)
            assert to is not None  # noqa: S101  (as above: the root of a cone)
            scaled = in_units(grad, factor.bits - factor.unit)
            self.edges.append(Edge(counterpart.name, to.name, energy(scaled), unit))
            place = self._place(loop, to)
            if place is None or place < last:
                self.gathered.add(to, scaled, unit)
            self.covariances.sent(counterpart, slot, to, scaled)
            if place is None:
                share = factor.shares.get((node, slot), 0.0)
                self.covariances.stands(counterpart, node, slot, factor.bits + 0.5 * factor.steps * share)
