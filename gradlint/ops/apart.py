"""Ops that act on each part of an axis by itself.

A tensor may keep the laws of stretches of one axis apart (:class:`gradlint.moments.Parts`). A transfer function does not
know: :func:`by_parts` runs it once more on every stretch and puts the results together. Which arguments are cut, and along
which axes, is the op's *plan*, given to the decorator: ``@transfer(..., apart=broadcast)``. An op without a plan sees the
pooled law, and what it returns has no parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlint.moments import EMPTY, MAX_PARTS, Moments, boundaries, carried, cut, diagonal, join, pairs_of, tied, total

if TYPE_CHECKING:
    from gradlint.ops.registry import Call, Flow

__all__ = ["MAX_PAIRED", "Plan", "Planner", "Shared", "broadcast", "by_parts", "channels", "rows", "unreduced"]

MAX_PAIRED = 4
"""Two entries of two parts have laws of their own up to this many parts."""

_CANCELLED = 1e-9
"""Of what independent entries would add up to; less is rounding."""


@dataclass(frozen=True)
class Plan:
    """How a call falls into parts.

    Args:
        out: the axis of the output (of each member, where it returns several).
        along: the arguments to cut, each with its axis; the others are shared by all parts.
    """

    out: int
    along: Mapping[Moments, int]


_Run = tuple["Flow", dict[Moments, Moments]]
Planner = Callable[["Call", Sequence[Any], Mapping[str, Any], Moments], Plan | None]


def broadcast(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Entry by entry, with broadcasting: every argument that has the axis is cut."""
    if x.parts is None:
        return None
    from_right = len(x.dims) - x.parts.axis
    size = x.shape[x.parts.axis]
    rank = len(x.dims) if call.shape is None else len(call.shape)
    along = {m: len(m.dims) - from_right for m in moments_in((args, kwargs)) if len(m.dims) >= from_right}
    return Plan(rank - from_right, {m: axis for m, axis in along.items() if m.shape[axis] == size})


def rows(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Only the first argument is cut, along an axis that is not its last (a linear layer, queries of an attention)."""
    if x.parts is None or x is not next(iter(args), None) or x.parts.axis == len(x.dims) - 1 or call.shape is None:
        return None
    same = len(call.shape) == len(x.dims) and call.shape[x.parts.axis] == x.shape[x.parts.axis]
    return Plan(x.parts.axis, {x: x.parts.axis}) if same else None


def unreduced(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Statistics over other axes than that of the parts; weights belong to those axes and are shared."""
    if x.parts is None or x is not next(iter(args), None):
        return None
    over = args[1] if len(args) > 1 else kwargs.get("normalized_shape", kwargs.get("dim"))
    if over is None or isinstance(over, Moments):
        return None
    rank = len(x.dims)
    if "normalized_shape" in kwargs or isinstance(over, tuple | list):
        reduced = set(range(rank - len(over), rank))
    else:
        reduced = {int(over) % rank}
    return None if x.parts.axis in reduced else Plan(x.parts.axis, {x: x.parts.axis})


def channels(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Every channel (axis 1) by itself, with its own entry of each vector."""
    if x.parts is None or x is not next(iter(args), None) or x.parts.axis != 1:
        return None
    vectors = [m for m in moments_in((args, kwargs)) if m.shape == (x.shape[1],)]
    return Plan(1, {x: 1, **dict.fromkeys(vectors, 0)})


def by_parts(planner: Planner | None, function: Callable[..., Flow], call: Call, args: Sequence[Any],
             kwargs: Mapping[str, Any], whole: Flow) -> Flow:  # fmt: skip
    """The flow of a call with its parts kept apart; ``whole``, that of the pooled laws, where there are none.

    Args:
        planner: says how the call falls into parts; None: it does not.
        function: the transfer function.
        whole: what it made of the pooled laws.
    """
    parted = [] if planner is None else [m for m in moments_in((args, kwargs)) if m.parts is not None]
    for x in parted:
        plan = planner(call, args, kwargs, x) if planner is not None else None
        if plan is None or x not in plan.along:
            continue
        divisions = [m.parts.sizes for m, d in plan.along.items() if m.parts is not None and m.parts.axis == d]
        sizes = boundaries(divisions)
        if len(sizes) <= MAX_PARTS:
            runs, couples = _runs(plan, sizes, function, call, args, kwargs)
            return _together(runs, couples, plan, sizes, whole)
    return whole


def _run(plan: Plan, laws: Mapping[Moments, Moments], size: int, function: Callable[..., Flow], call: Call,
         args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Run:  # fmt: skip
    """The flow of one part, with the laws that stand for the cut arguments."""
    mine = {m: replace(law) for m, law in laws.items()}
    shape = None if call.shape is None else (*call.shape[: plan.out], size, *call.shape[plan.out + 1 :])
    given: Any = _replaced((tuple(args), dict(kwargs)), mine)
    return function(replace(call, shape=shape), *given[0], **given[1]), mine


def _runs(plan: Plan, sizes: Sequence[int], function: Callable[..., Flow], call: Call, args: Sequence[Any],
          kwargs: Mapping[str, Any]) -> tuple[list[_Run], list[Any] | None]:  # fmt: skip
    """One flow per part; and the outputs for two entries of every two parts, where there are few parts."""
    bare = {m: replace(m, grams=EMPTY) for m in plan.along}  # the pooled laws keep the structure
    pieces = {m: cut(bare[m], axis, sizes) for m, axis in plan.along.items()}
    runs = [_run(plan, {m: cuts[i] for m, cuts in pieces.items()}, size, function, call, args, kwargs)
            for i, size in enumerate(sizes)]  # fmt: skip
    if len(sizes) > MAX_PAIRED:
        return runs, None
    couples = {m: pairs_of(bare[m], axis, sizes) for m, axis in plan.along.items()}
    number = len(sizes) * (len(sizes) - 1) // 2
    return runs, [
        _run(plan, {m: laws[i] for m, laws in couples.items()}, 2, function, call, args, kwargs)[0].out for i in range(number)
    ]


def _together(runs: Sequence[_Run], couples: Sequence[Any] | None, plan: Plan, sizes: Sequence[int], whole: Flow) -> Flow:
    def joined(laws: Sequence[Any], axis: int, guide: Any, couples: Sequence[Any] | None) -> Any:
        if isinstance(guide, tuple):
            each = [None] * len(guide) if couples is None else zip(*couples, strict=True)
            members = zip(zip(*laws, strict=True), guide, each, strict=True)
            return tuple(joined(member, axis, g, c) for member, g, c in members)
        return join(laws, axis, guide, couples) if isinstance(guide, Moments) else guide

    out = joined([flow.out for flow, _ in runs], plan.out, whole.out, couples)

    def back(g: Any) -> dict[Moments, Moments]:
        shared = Shared(whole, g, plan.out, sizes)
        found = [flow.back(piece_) for (flow, _), piece_ in zip(runs, _cut_all(g, plan.out, sizes), strict=True)]
        grads = {}
        for x, guide in shared.guides.items():
            if x in plan.along:
                mine = [f.get(own[x], Moments.zeros(own[x].shape)) for f, (_, own) in zip(found, runs, strict=True)]
                grads[x] = carried(tied(join(mine, plan.along[x], guide), guide, plan.along[x]), guide)
            elif parts := [f[x] for f in found if x in f]:
                grads[x] = shared.gradient(x, total(parts))
        return grads

    return replace(whole, out=out, back=back)


class Shared:
    """Gradients of the arguments that all parts share: adds what pairs of entries in different parts do.

    Args:
        whole: the pooled flow.
        g: the gradient of its output.
        axis: of the output, that falls into parts.
        sizes: of the parts.
    """

    def __init__(self, whole: Flow, g: Any, axis: int, sizes: Sequence[int]) -> None:
        self._whole, self._g, self._axis = whole, g, axis
        n = sum(sizes)
        self._correlated = _correlated(g, axis, 1 / (20 * n))
        self._structured = _structured(g, axis)
        self._share = 1 - sum(size * (size - 1) for size in sizes) / (n * (n - 1))
        self.guides = whole.back(g)

    @cached_property
    def _plain(self) -> Mapping[Moments, Moments]:
        return self._whole.back(_each(self._g, lambda m: replace(m, grams=EMPTY))) if self._structured else self.guides

    @cached_property
    def _diagonal(self) -> Mapping[Moments, Moments]:
        return self._whole.back(_each(self._g, lambda m: replace(m, grams={a: diagonal(s) for a, s in m.grams.items()})))

    @cached_property
    def _alone(self) -> Mapping[Moments, Moments]:
        return self._whole.back(_each(self._g, lambda m: _uncorrelated(m, self._axis)))

    def gradient(self, x: Moments, out: Moments) -> Moments:
        """Of ``x``, from the sum of the parts' gradients ``out``, as if these were independent.

        Pairs in different parts are the share ``1 − Σ n_p(n_p − 1)/(n(n − 1))`` of what all pairs add to the pooled gradient;
        on top comes what a structure adds off its diagonal. What cancels in the pooled gradient is zero.
        """
        if not self._correlated and not self._structured:
            return out
        guide, alone = self.guides[x], self._alone[x]
        if guide.q <= _CANCELLED * alone.q:
            return guide.scale(0.0)
        paired = self._share * (self._plain[x].q - alone.q)
        if self._structured:
            paired += guide.q - self._diagonal[x].q
        if abs(paired) <= 1e-3 * out.q or out.q <= 0:
            return out
        return out.scale(math.sqrt(max(out.q + paired, min(out.q, guide.q)) / out.q))


def _each(g: Any, change: Callable[[Moments], Moments]) -> Any:
    """Every law in a gradient changed."""
    return tuple(_each(m, change) for m in g) if isinstance(g, tuple) else None if g is None else change(g)


def _structured(g: Any, axis: int) -> bool:
    """A gradient has a structure along an axis."""
    if isinstance(g, tuple):
        return any(_structured(m, axis) for m in g)
    return g is not None and any(a in g.grams for a in g.atoms(axis))


def _correlated(g: Any, axis: int, least: float) -> bool:
    """Entries of a gradient along an axis have more than ``least`` of their mean square in common."""
    if isinstance(g, tuple):
        return any(_correlated(m, axis, least) for m in g)
    return g is not None and abs(g.shared([axis])) > least * g.q


def _uncorrelated(g: Moments, axis: int) -> Moments:
    """The same gradient with independent entries along an axis."""
    x = g.whole(axis)
    if not x.dims[axis]:
        return x
    at = x.atoms(axis)[0]
    v = np.moveaxis(x.v, at, 0)
    return replace(x, v=np.moveaxis(np.stack([np.zeros_like(v[0]), v[0] + v[1]]), 0, at), parts=None, grams=EMPTY)


def _cut_all(g: Any, axis: int, sizes: Sequence[int]) -> list[Any]:
    if isinstance(g, tuple):
        return [tuple(members) for members in zip(*(_cut_all(m, axis, sizes) for m in g), strict=True)]
    return [None] * len(sizes) if g is None else cut(g, axis, sizes)


def moments_in(tree: Any) -> list[Moments]:
    """The laws in nested arguments."""
    if isinstance(tree, Moments):
        return [tree]
    if isinstance(tree, Mapping):
        return [m for x in tree.values() for m in moments_in(x)]
    return [m for x in tree for m in moments_in(x)] if isinstance(tree, list | tuple) else []


def _replaced(tree: Any, by: Mapping[Moments, Moments]) -> Any:
    if isinstance(tree, Moments):
        return by.get(tree, tree)
    if isinstance(tree, Mapping):
        return {key: _replaced(x, by) for key, x in tree.items()}
    if isinstance(tree, list | tuple):  # fx has lists of its own
        return (list if isinstance(tree, list) else tuple)(_replaced(x, by) for x in tree)
    return tree
