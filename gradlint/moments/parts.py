"""Parts: a tensor whose entries along one axis are exchangeable within stretches, not across them.

A class token in front of the patches, one scale per concatenated tensor, a gradient that is zero but at one position: one
average over the axis says too little of them. Beside its own (pooled) law such a tensor keeps the law of every stretch. Pairs
of entries in different stretches have the correlation of the pooled law.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from gradlint.moments.array import Moments, Parts, align, from_pairs
from gradlint.moments.tables import sum_subsets, take

__all__ = ["MAX_PARTS", "alike", "boundaries", "concat", "cut", "embed", "join", "piece"]

MAX_PARTS = 8
"""More stretches than this are merged with their likest neighbours."""

_ALIKE = 0.1
"""Stretches of one size whose pair moments differ by less than this share of their mean square are one."""


def concat(parts: Sequence[Moments], dim: int, guide: Moments | None = None) -> Moments:
    """Put tensors together along an axis; the result forgets which was which (:func:`join` remembers).

    Pairs within a part keep their moment, pairs across are ``m_i m_j`` plus what ``guide`` says of them.

    Args:
        guide: a law of the whole from which the correlation across parts is taken; None: they are independent.
    """
    dim %= len(parts[0].dims)
    sizes = [p.shape[dim] for p in parts]
    n = sum(sizes)
    bodies = [p.resize(dim, 1) for p in parts]
    common = _constant_along(guide, dim) if guide is not None and guide.var > 0 else None
    reference = bodies[0]
    for body in (*bodies[1:], *([] if common is None else [common])):
        reference = align(reference, body)[0]
    same = np.zeros((2,) * reference.v.ndim)
    differ = np.zeros_like(same)
    for part, body, size in zip(parts, bodies, sizes, strict=True):
        same = same + align(body, reference)[0].pairs() * (size / n)
        if size > 1:
            constant = _constant_along(part, dim)
            differ = differ + align(constant, reference)[0].pairs() * (size * (size - 1) / max(n * (n - 1), 1))
    mean = sum(p.mean * size for p, size in zip(parts, sizes, strict=True)) / n
    differ = differ + _across([p.mean for p in parts], sizes)
    if common is not None and guide is not None:
        covariance = sum_subsets(align(common, reference)[0].v) / guide.var
        differ = differ + covariance * _across([math.sqrt(p.var) for p in parts], sizes)
    if n == 1:
        return from_pairs(reference.dims, mean, same)
    at = sum(map(len, reference.dims[:dim]))
    return from_pairs((*reference.dims[:dim], (n,), *reference.dims[dim + 1 :]), mean, np.stack([differ, same], at)).capped()


def _across(values: Sequence[float], sizes: Sequence[int]) -> float:
    """``Σ x_i x_j / (n(n−1))`` over pairs of entries in different parts."""
    n = sum(sizes)
    total = sum(x * size for x, size in zip(values, sizes, strict=True))
    within = sum((x * size) ** 2 for x, size in zip(values, sizes, strict=True))
    return (total**2 - within) / max(n * (n - 1), 1)


def _constant_along(x: Moments, dim: int) -> Moments:
    """What an entry shares with the others of its axis, on an axis of size 1."""
    x = x.whole(dim)
    v = take(x.v, x.atoms(dim)[0], 0) if x.dims[dim] else x.v
    return Moments((*x.dims[:dim], (), *x.dims[dim + 1 :]), x.mean, v)


def join(laws: Sequence[Moments], axis: int, guide: Moments | None = None) -> Moments:
    """:func:`concat` that keeps the parts apart.

    Args:
        laws: of the parts, in their order along the axis.
        guide: as for :func:`concat`.
    """
    laws = [replace(law, parts=None, value=None) for law in laws]
    axis %= len(laws[0].dims)
    if len(laws) == 1:
        return laws[0]
    if len(laws) > MAX_PARTS:
        laws = [concat(laws[a:b], axis, guide) for a, b in pairwise(_merged([law.q for law in laws]))]
    return replace(concat(laws, axis, guide), parts=Parts(axis, tuple(laws)))


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
        return x.resize(axis, stop - start)
    laws, at = [], 0
    for law, size in zip(x.parts.laws, x.parts.sizes, strict=True):
        overlap = min(stop, at + size) - max(start, at)
        if overlap > 0:
            laws.append(law if overlap == size else law.resize(axis, overlap))
        at += size
    return join(laws, axis, x)


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

    return join([*nothing(start), x, *nothing(size - start - small)], axis, x)
