"""Parts: a tensor whose entries along one axis are exchangeable within stretches, not across them.

A class token in front of the patches, one scale per concatenated tensor, a gradient that is zero but at one position: one
average over the axis says too little of them. Beside its own (pooled) law such a tensor keeps the law of every stretch. Pairs
of entries in different stretches have laws of their own where something tells them, else the correlation of the pooled law.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import accumulate, combinations, pairwise

import numpy as np

from gradlint.moments import gram
from gradlint.moments.array import Moments, Parts, align, from_pairs
from gradlint.moments.marginal import Marginal
from gradlint.moments.quadrature import GRID
from gradlint.moments.structure import informed
from gradlint.moments.tables import Array, sum_subsets, take

__all__ = [
    "MAX_PARTS",
    "alike",
    "boundaries",
    "concat",
    "constant_along",
    "couple",
    "cut",
    "embed",
    "join",
    "moments_along",
    "on_common_atoms",
    "pairs_of",
    "piece",
]

MAX_PARTS = 8
"""More stretches than this are merged with their likest neighbours."""

_ALIKE = 0.1
"""Stretches of one size whose pair moments differ by less than this share of their mean square are one."""


def concat(parts: Sequence[Moments], dim: int, guide: Moments | None = None, pairs: Sequence[Moments] | None = None) -> Moments:
    """Put tensors together along an axis; the result forgets which was which (:func:`join` remembers).

    Pairs within a part keep their moment; pairs across are ``m_i m_j`` plus a covariance.

    Args:
        guide: a law of the whole from which the correlation across parts is taken; None: they are independent.
        pairs: the laws of two entries, one from each of two parts; then the guide is not needed.
    """
    dim %= len(parts[0].dims)
    sizes = [p.shape[dim] for p in parts]
    n = sum(sizes)
    bodies = [p.resize(dim, 1) for p in parts]
    common = constant_along(guide, dim) if pairs is None and guide is not None and guide.var > 0 else None
    mixed = [constant_along(pair, dim) for pair in pairs or ()]
    reference = bodies[0]
    for body in (*bodies[1:], *([] if common is None else [common]), *mixed):
        reference = align(reference, body)[0]
    same = np.zeros((2,) * reference.v.ndim)
    differ = np.zeros_like(same)
    for part, body, size in zip(parts, bodies, sizes, strict=True):
        same = same + align(body, reference)[0].pairs() * (size / n)
        if size > 1:
            constant = constant_along(part, dim)
            differ = differ + align(constant, reference)[0].pairs() * (size * (size - 1) / max(n * (n - 1), 1))
    mean = sum(p.mean * size for p, size in zip(parts, sizes, strict=True)) / n
    if pairs is None:
        differ = differ + _across([p.mean for p in parts], sizes)
    for (i, j), pair in zip(combinations(range(len(parts)), 2), mixed, strict=pairs is not None):
        differ = differ + align(pair, reference)[0].pairs() * (2 * sizes[i] * sizes[j] / (n * (n - 1)))
    if common is not None and guide is not None:
        covariance = sum_subsets(align(common, reference)[0].v) / guide.var
        differ = differ + covariance * _across([math.sqrt(p.var) for p in parts], sizes)
    grams = _structures([align(body, reference)[0] for body in bodies], sizes) if any(p.grams for p in parts) else gram.EMPTY
    if n == 1:
        return replace(from_pairs(reference.dims, mean, same), grams=grams)
    at = sum(map(len, reference.dims[:dim]))
    out = from_pairs((*reference.dims[:dim], (n,), *reference.dims[dim + 1 :]), mean, np.stack([differ, same], at))
    return replace(out, grams=gram.relaid(grams, [a + (a >= at) for a in range(reference.v.ndim)])).capped()


def _structures(bodies: Sequence[Moments], sizes: Sequence[int]) -> gram.Grams:
    """The structures along the other axes: the average of the parts'."""
    found = {}
    for a in sorted({a for body in bodies for a in body.grams}):
        terms = [(size * float(take(body.v, a, 1).sum()), body.grams.get(a)) for body, size in zip(bodies, sizes, strict=True)]
        s = gram.mixed(terms, bodies[0].sizes()[a])
        if s is not None:
            found[a] = s
    return found


def _across(values: Sequence[float], sizes: Sequence[int]) -> float:
    """``Σ x_i x_j / (n(n−1))`` over pairs of entries in different parts."""
    n = sum(sizes)
    total = sum(x * size for x, size in zip(values, sizes, strict=True))
    within = sum((x * size) ** 2 for x, size in zip(values, sizes, strict=True))
    return (total**2 - within) / max(n * (n - 1), 1)


def constant_along(x: Moments, dim: int) -> Moments:
    """What an entry shares with the others of its axis, on an axis of size 1."""
    x = x.whole(dim)
    v = take(x.v, x.atoms(dim)[0], 0) if x.dims[dim] else x.v
    return Moments((*x.dims[:dim], (), *x.dims[dim + 1 :]), x.mean, v)


def on_common_atoms(laws: Sequence[Moments]) -> list[Moments]:
    """Laws of one shape on the same atoms."""
    reference = reduce(lambda x, y: align(x, y)[0], laws)
    return [align(law, reference)[0] for law in laws]


def join(laws: Sequence[Moments], axis: int, guide: Moments | None = None, pairs: Sequence[Moments] | None = None) -> Moments:
    """:func:`concat` that keeps the parts apart.

    Args:
        laws: of the parts, in their order along the axis.
        guide: as for :func:`concat`.
        pairs: as for :func:`concat`.
    """
    laws = [replace(law, parts=None, value=None) for law in laws]
    axis %= len(laws[0].dims)
    if len(laws) == 1:
        return laws[0]
    out = _join(laws, axis, guide, pairs)
    return _guided(out, axis, guide) if guide is not None and guide.dims == out.dims else out


def _guided(out: Moments, axis: int, guide: Moments) -> Moments:
    """With the structures of a law of the whole, and the correlation along the axis that belongs to them."""
    at = out.atoms(axis).start
    if at not in guide.grams or len(out.dims[axis]) != 1:
        return replace(out, grams=guide.grams)
    differ, varying = gram.levels(guide.pairs(), at)
    law = from_pairs(out.dims, out.mean, gram.retuned(out.pairs(), at, differ / (differ + varying)))
    return replace(out, v=law.v, grams=guide.grams)


def _join(laws: Sequence[Moments], axis: int, guide: Moments | None, pairs: Sequence[Moments] | None) -> Moments:
    if len(laws) > MAX_PARTS:
        whole = concat(laws, axis, guide, pairs)
        laws = [concat(laws[a:b], axis, whole) for a, b in pairwise(_merged([law.q for law in laws]))]
        return replace(whole, parts=Parts(axis, tuple(laws)), law=_mixture(laws, axis))
    together = None
    if pairs is not None:
        sides = combinations(laws, 2)
        together = tuple(_on_scale(replace(pair, parts=None), x, y, axis) for pair, (x, y) in zip(pairs, sides, strict=True))
    law = _mixture(laws, axis)
    return replace(concat(laws, axis, guide, together), parts=Parts(axis, tuple(laws), together), law=law)


def _mixture(laws: Sequence[Moments], axis: int) -> Marginal | None:
    """The marginal law of an entry of any part."""
    if all(law.law is None and not _far(law.mean, laws[0].mean, law, laws[0]) for law in laws):
        deviations = [math.sqrt(law.var) for law in laws]
        if min(deviations) > (1 - _ALIKE) * max(deviations):
            return None
    n = sum(law.shape[axis] for law in laws)

    def values() -> tuple[Array, Array]:
        weights = [GRID.weights * (law.shape[axis] / n) for law in laws]
        return np.concatenate([law.on_grid() for law in laws]), np.concatenate(weights)

    return Marginal.weighted(values, 1 + max(law.law.depth if law.law is not None else 0 for law in laws))


def couple(x: Moments, y: Moments, axis: int, moment: Moments) -> Moments:
    """The law of one entry of ``x`` beside one of ``y`` along an axis of size 2.

    What both have in common with themselves is the geometric mean of the two, so that a norm divides their moment by both
    scales.

    Args:
        moment: a law on an axis of size 1 whose pair moments are ``E[x_i y_j]``.
    """
    a, b = x.resize(axis, 1), y.resize(axis, 1)
    reference = align(align(a, b)[0], moment)[0]
    a, b, m = (align(z, reference)[0] for z in (a, b, moment))
    same = np.sqrt(np.maximum(a.pairs() * b.pairs(), 0.0))
    mean = math.copysign(math.sqrt(max(x.mean * y.mean, 0.0)), x.mean)
    at = sum(map(len, reference.dims[:axis]))
    dims = (*reference.dims[:axis], (2,), *reference.dims[axis + 1 :])
    return from_pairs(dims, mean, np.stack([m.pairs(), same], at))


def _on_scale(pair: Moments, x: Moments, y: Moments, axis: int) -> Moments:
    """The law of two entries with the scales that they have now: a sum of geometric means is not that of the sums."""
    scale = math.sqrt(x.q * y.q)
    return pair if abs(pair.q - scale) <= 1e-3 * scale else couple(x, y, axis, constant_along(pair, axis))


def pairs_of(x: Moments, axis: int, sizes: Sequence[int]) -> list[Moments]:
    """For every two of consecutive pieces of an axis, the law of an entry of one beside an entry of the other."""
    if x.parts is None or x.parts.axis != axis:
        return [x.resize(axis, 2)] * (len(sizes) * (len(sizes) - 1) // 2)
    owner, at = [], 0
    ends = [*accumulate(x.parts.sizes)]
    for size in sizes:
        at += size
        owner.append(next(i for i, end in enumerate(ends) if at <= end))
    return [_pair(x, axis, p, q) for p, q in combinations(owner, 2)]


def _pair(x: Moments, axis: int, p: int, q: int) -> Moments:
    parts = x.parts
    if parts is None or p == q:
        return (x if parts is None else parts.laws[p]).resize(axis, 2)
    if parts.pairs is not None:
        return parts.pairs[[*combinations(range(len(parts.laws)), 2)].index((p, q))]
    a, b, common = parts.laws[p], parts.laws[q], constant_along(x, axis)
    share = math.sqrt(a.var * b.var) / x.var if x.var > 0 else 0.0
    covariance = from_pairs(common.dims, 0.0, sum_subsets(common.v) * share + a.mean * b.mean)
    return couple(a, b, axis, covariance)


def _merged(squares: list[float]) -> list[int]:
    """Boundaries that leave :data:`MAX_PARTS` runs: those between the likest neighbours go first."""
    steps = [abs(math.log((b + 1e-300) / (a + 1e-300))) for a, b in pairwise(squares)]
    kept = sorted(sorted(range(len(steps)), key=lambda i: (-steps[i], i))[: MAX_PARTS - 1])
    return [0, *(i + 1 for i in kept), len(squares)]


def alike(laws: Sequence[Moments], axis: int) -> bool:
    """Tensors of one size and (nearly) one law: put together they are exchangeable, no part needs to be kept."""
    first = laws[0]
    for law in laws[1:]:
        if law.shape[axis] != first.shape[axis]:
            return False
        x, y = align(first, law)
        if np.abs(x.pairs() - y.pairs()).max() > _ALIKE * max(first.q, law.q) or _far(first.mean, law.mean, first, law):
            return False
    return True


def _far(a: float, b: float, x: Moments, y: Moments) -> bool:
    return abs(a - b) > _ALIKE * max(x.rms, y.rms)


def boundaries(sizes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Sizes of the common refinement of several divisions of one axis."""
    ends = sorted({end for division in sizes for end in accumulate(division)})
    return tuple(b - a for a, b in pairwise([0, *ends]))


def piece(x: Moments, axis: int, start: int, stop: int) -> Moments:
    """The law of ``x[start:stop]`` along an axis."""
    axis %= len(x.dims)
    if x.shape[axis] == stop - start:
        return x
    if x.parts is None or x.parts.axis != axis:
        return _within(x, axis, start, stop)
    laws, at = [], 0
    for law, size in zip(x.parts.laws, x.parts.sizes, strict=True):
        overlap = min(stop, at + size) - max(start, at)
        if overlap > 0:
            laws.append(law if overlap == size else law.resize(axis, overlap))
        at += size
    return _structured(join(laws, axis, x), axis, x, slice(start, stop))


def _within(x: Moments, axis: int, start: int, stop: int) -> Moments:
    """A stretch of an axis without parts; where it has a structure its entries are larger or smaller than the rest."""
    out, at = x.resize(axis, stop - start), x.atoms(axis).start
    s = x.grams.get(at) if len(x.dims[axis]) == 1 else None
    if s is None:
        return out
    own = float(np.diagonal(s)[start:stop].mean())
    table = x.pairs()
    differ, same = take(table, at, 0), take(table, at, 1)
    same = differ + (same - differ) * own
    law = from_pairs(out.dims, x.mean, same if stop - start == 1 else np.stack([differ, same], at))
    return _structured(replace(out, v=law.v), axis, x, slice(start, stop))


def _structured(out: Moments, axis: int, x: Moments, stretch: slice) -> Moments:
    """A stretch of x with its share of the structure that x has along the axis."""
    axis %= len(x.dims)
    if len(x.dims[axis]) != 1 or len(out.dims[axis]) != 1 or (s := x.grams.get(x.atoms(axis).start)) is None:
        return out
    differ, varying = gram.levels(x.pairs(), x.atoms(axis).start)
    return informed(out, axis, gram.spread(differ, varying, s, len(s))[stretch, stretch])


def moments_along(x: Moments, axis: int) -> Array:
    """The moments of every two entries along an axis of one atom that share all others."""
    at, n = x.atoms(axis).start, x.shape[axis]
    if at in x.grams or x.parts is None or x.parts.axis != axis:
        return gram.spread(*gram.levels(x.pairs(), at), x.grams.get(at), n)
    sizes = x.parts.sizes
    ends = [0, *accumulate(sizes)]
    out = np.zeros((n, n))
    for law, (a, b) in zip(x.parts.laws, pairwise(ends), strict=True):
        whole = law.whole(axis)
        out[a:b, a:b] = gram.spread(*gram.levels(whole.pairs(), whole.atoms(axis).start), None, b - a) if b - a > 1 else law.q
    for (i, j), pair in zip(combinations(range(len(sizes)), 2), pairs_of(x, axis, sizes), strict=True):
        block = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        out[block] = out.T[block] = pair.shared([axis])
    return out


def cut(x: Moments, axis: int, sizes: Sequence[int]) -> list[Moments]:
    """The laws of consecutive pieces of an axis."""
    ends = [0, *accumulate(sizes)]
    return [replace(piece(x, axis, a, b), parts=None) for a, b in pairwise(ends)]


def embed(x: Moments, axis: int, start: int, size: int) -> Moments:
    """Place in an axis of ``size`` entries from ``start`` on, zero elsewhere: the adjoint of :func:`piece`."""
    axis %= len(x.dims)
    small = x.shape[axis]
    if small == size:
        return x

    def nothing(n: int) -> list[Moments]:
        return [Moments.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]))] if n else []

    out = join([*nothing(start), x, *nothing(size - start - small)], axis, x)
    at = x.atoms(axis).start
    if len(x.dims[axis]) != 1 or len(out.dims[axis]) != 1 or at not in x.grams:
        return out
    placed = gram.at_places(x.grams[at], gram.levels(x.pairs(), at), start, size)
    return out if placed is None else replace(out, grams={**out.grams, out.atoms(axis).start: placed})
