"""Where a function of single entries, or its derivative, is infinite or no number, and whether the tensor ever goes there.

The dangerous ones are silent: the value is finite and the gradient is not. ``sqrt`` at 0 has an infinite slope; ``where(x > 0,
sqrt(x), 0)`` multiplies the infinite slope of the branch that was not taken by zero, which is NaN. Every elementwise piece of
the graph is therefore run, forward and backward, by the user's own functions, on the values that its tensor takes: over its
law, at the zeros that happen, at the ends of its range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import fx

from gradlint.evidence.calls import Ops
from gradlint.evidence.probe import Probe
from gradlint.evidence.ranges import Range
from gradlint.flowed import Flowed
from gradlint.moments import GRID, Array, Moments
from gradlint.recognise import Cone, find_cones

__all__ = ["Singularity", "find_singularities"]

_REACH = 6.0  # standard deviations: about one entry in 5e8 lies beyond
_STEEP = 1e6
_DELIBERATE = ("masked_fill", "where", "nan_to_num")
_MOST = 4000


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Singularity:
    """A place where a value or a derivative is not finite.

    Args:
        node: the call that makes it so.
        op: what it calls.
        kind: ``value``: its result is infinite or NaN; ``slope``: only its derivative is; ``dead``: the result of a branch
            that is not taken is, and with it the gradient; ``steep``: the derivative is finite and above 1e6.
        share: of the entries that go there, by their law; 0 where it is possible and nothing says how often.
        at: a value of the tensor that does it.
        slope: the derivative there, of ``steep``.
        root: node of the tensor.
        why: how the tensor gets there; empty where it only may, in the limit.
    """

    node: str
    op: str
    kind: str
    share: float
    at: float
    slope: float
    root: str
    why: str


def find_singularities(flowed: Flowed, ops: Ops, ranges: Mapping[str, Range]) -> tuple[Singularity, ...]:
    """All that gradients come across, in order of execution, the first of each call."""
    cones = {cone.root: cone for cone in find_cones(flowed.traced.graph).values()}
    found: dict[tuple[str, str], Singularity] = {}
    for cone in cones.values():
        for s in _of_cone(flowed, ops, ranges, cone):
            known = found.get((s.node, s.kind))
            if known is None or (s.share, s.why) > (known.share, known.why):
                found[s.node, s.kind] = s
    place = {name: i for i, name in enumerate(ops.calls)}
    return tuple(sorted(found.values(), key=lambda s: (place[s.node], s.kind)))


def _of_cone(flowed: Flowed, ops: Ops, ranges: Mapping[str, Range], cone: Cone) -> Iterator[Singularity]:
    law = flowed.forward.get(cone.root.name)
    known = ranges.get(cone.root.name, Range())
    if not isinstance(law, Moments) or not ops.learned(cone.root.name):
        return
    points, shares = _points(law, known, _constants(cone))
    probe = Probe(cone, points.astype(np.float32))
    members = [n for n in cone.members if ops.dtype(n.name) != "bool"]
    for end in members:
        if set(end.users) <= set(cone.members) or not _trained_through(flowed, end):
            continue
        before = [n for n in members if n is end or n in _behind(end, cone)]
        value, slope = probe.values(end), probe.slopes(end)
        bad = ~np.isfinite(value)
        if bad.any():
            yield from _reported("value", bad, _first(before, bad, probe.values), points, shares, cone, known)
        lost = np.isfinite(value) & ~np.isfinite(slope)
        if lost.any():
            dead = _first(before, lost, probe.values)
            kind, guilty = ("dead", dead) if dead is not None else ("slope", _first(before, lost, probe.slopes))
            yield from _reported(kind, lost, guilty, points, shares, cone, known)
        steep = np.isfinite(slope) & (np.abs(slope) > _STEEP)
        if steep.any():
            guilty = next((n for n in before if (np.abs(probe.slopes(n)[steep]) > _STEEP).any()), end)
            size = float(np.abs(slope[steep]).max())
            yield from _reported("steep", steep, guilty, points, shares, cone, known, size)


def _trained_through(flowed: Flowed, node: fx.Node) -> bool:
    """A gradient arrives, or would if the moments had not overflown."""
    unknown = flowed.unknown
    return any(node.name in known for known in (flowed.backward, unknown.nodes, unknown.reasons, unknown.inner))


def _constants(cone: Cone) -> list[float]:
    """Numbers that the root is compared with or cut off at."""
    first = [n for n in cone.members if cone.root in n.all_input_nodes]
    return [float(x) for n in first for x in (*n.args, *n.kwargs.values()) if isinstance(x, int | float) and x != 0]


def _points(law: Moments, known: Range, constants: list[float]) -> tuple[Array, Array]:
    """Where to look, and the share of the entries there: over the law, at zero if it happens, at the ends of the range."""
    inside = np.abs(GRID.z) <= _REACH
    curve = law.on_grid()
    points, shares = (curve[inside], GRID.weights[inside]) if len(curve) == len(GRID.z) else (np.array([law.mean]), np.ones(1))
    if law.value is not None:
        points = np.unique(np.asarray(law.value, dtype=np.float64).ravel())[:_MOST]
        shares = np.full(len(points), 1 / len(points))
    elif law.var <= 0:
        points, shares = np.array([law.mean]), np.ones(1)
    kept = (points > known.low) & (points < known.high) & (points != 0.0)
    bounds = [end for end in (known.low, known.high) if np.isfinite(end)]
    ends = np.array([*bounds, *(c for c in constants if known.low < c < known.high)])
    zero = [known.zero] if known.zero > 0 or known.why else []
    ends = ends[ends != 0.0] if zero else ends
    points = np.concatenate([points[kept], ends, np.zeros(len(zero))])
    return points, np.concatenate([shares[kept], np.zeros(len(ends)), np.array(zero)])


def _reported(
    kind: str,
    bad: Mask,
    guilty: fx.Node | None,
    points: Array,
    shares: Array,
    cone: Cone,
    known: Range,
    slope: float = 0.0,
) -> Iterator[Singularity]:
    if guilty is None or getattr(guilty.target, "__name__", guilty.target) in _DELIBERATE:
        return
    at = points[bad]
    share = float(shares[bad].sum())
    at_zero = bool((at == 0.0).any()) and known.why != "" and not (shares[bad] > 0)[at != 0.0].any()
    chosen = 0.0 if at_zero else float(at[np.argmax(shares[bad])])
    why = known.why if at_zero else ("by its law" if share > 0 else "")
    name = guilty.target if isinstance(guilty.target, str) else str(getattr(guilty.target, "__name__", guilty.target))
    yield Singularity(guilty.name, name, kind, share, chosen, slope, cone.root.name, why)


def _first(members: list[fx.Node], bad: Mask, reading: Callable[[fx.Node], Array]) -> fx.Node | None:
    """The first member that is not finite where the end is lost."""
    return next((n for n in members if not np.isfinite(reading(n)[bad]).all()), None)


def _behind(end: fx.Node, cone: Cone) -> set[fx.Node]:
    """Members that a member is made of."""
    found: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        for n in waiting.pop().all_input_nodes:
            if n in cone.members and n not in found:
                found.add(n)
                waiting.append(n)
    return found
