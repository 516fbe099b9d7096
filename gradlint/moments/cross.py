"""Covariances of two tensors: the table of a pair.

For tensors a and b of one shape (or shapes that broadcast) the table ``C[S] = E[a_i b_j] − m_a m_b`` over pairs of entries
that share exactly the axes in S is kept as a :class:`Moments` of mean 0, over the broadcast shape: the law of a tensor is the
table of its pair with itself. What acts linearly on both acts on the table as on a law of its own. What does not sees the
pair as two samples of one batch (:func:`paired`): equal weights make no difference between a call on two samples and two calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gradlint.moments.array import Moments, align
from gradlint.moments.profile import carried
from gradlint.moments.tables import differences, sum_subsets, take

__all__ = [
    "add_covariance",
    "averaged",
    "fitted",
    "joint",
    "multiply_covariance",
    "of_joint",
    "of_paired",
    "own",
    "paired",
    "weighted",
]


def own(x: Moments) -> Moments:
    """The table of a tensor with itself."""
    return Moments(x.dims, 0.0, x.v)


def weighted(c: Moments, factor: float) -> Moments:
    """The table of ``factor·a`` and b: tables are linear in either tensor."""
    return Moments(c.dims, 0.0, c.v * factor)


def add_covariance(x: Moments, c: Moments, factor: float) -> Moments:
    """The law of a sum whose terms are not independent: ``x`` (independent terms) plus ``factor`` times their table."""
    out = _plus(x, c, factor)
    if x.parts is not None and x.var > 0:
        axis = x.parts.axis

        def corrected(law: Moments) -> Moments:  # the correlation of a part is that of the whole
            mine = c if axis >= len(c.dims) or not c.dims[axis] else c.resize(axis, law.shape[axis])
            return _plus(law, mine, factor * law.var / x.var)

        out = replace(out, parts=x.parts.each(corrected))
    return out if x.profile is None else carried(out, x)


def _plus(x: Moments, c: Moments, factor: float) -> Moments:
    law, table = align(x, c)
    return replace(law, v=law.v + factor * table.v, value=None, profile=None)


def multiply_covariance(out: Moments, a: Moments, b: Moments, c: Moments) -> Moments:
    """The law of a product of jointly Gaussian factors, from that of independent ones (Isserlis 1918).

    ``E[ab] = m_a m_b + C[same]`` and ``cov((ab)_i, (ab)_j)`` has ``2 m_a m_b C[S] + C[S]²`` more.
    """
    table = sum_subsets(c.v)
    more = Moments(c.dims, 0.0, differences(2 * a.mean * b.mean * table + table**2))
    law, extra = align(replace(out, parts=None, law=None), more)
    return replace(law, mean=law.mean + float(table.flat[-1]), v=law.v + extra.v)


def fitted(c: Moments, shape: Sequence[int]) -> Moments:
    """The table over another broadcast shape: along an axis that neither tensor has any more, or only one has, it is constant."""
    lead = len(c.dims) - len(shape)
    dims, v = list(c.dims), c.v
    for d in reversed(range(len(dims))):
        if dims[d] and (d < lead or shape[d - lead] == 1):
            start = sum(map(len, dims[:d]))
            for _ in dims[d]:
                v = take(v, start, 0)
            dims[d] = ()
    while lead > 0:
        dims.pop(0)
        lead -= 1
    out = Moments(tuple(dims), 0.0, v)
    return out if lead == 0 and out.shape == tuple(shape) else out.expand(shape)


def averaged(c: Moments, dims: Iterable[int]) -> Moments:
    """The table of a's mean over axes (kept, of size 1) and b: for every entry of b, over all entries of a along them."""
    v = c.v
    for d in {d % len(c.dims) for d in dims}:
        for a in c.atoms(d):
            constant = take(v, a, 0) + take(v, a, 1) / c.sizes()[a]
            v = np.stack([constant, np.zeros_like(constant)], a)
    return Moments(c.dims, 0.0, v)


def _means(a: Moments, b: Moments) -> tuple[float, float]:
    """The mean of a joint law, and what is left of ``m_a m_b``."""
    both = a.mean * b.mean
    return (math.copysign(math.sqrt(both), a.mean), 0.0) if both > 0 else (0.0, both)


def _with_constant(c: Moments, mean: float, constant: float) -> Moments:
    v = c.v.copy()
    v[(0,) * v.ndim] += constant
    return Moments(c.dims, mean, v)


def joint(a: Moments, b: Moments, c: Moments | None) -> Moments:
    """``E[a_i b_j]`` as a law, for a multilinear op to act on; ``c`` None: independent."""
    if c is None:
        c = Moments(a.dims, 0.0, np.zeros_like(a.v))
    return replace(_with_constant(c, *_means(a, b)), alive=a.alive)


def of_joint(out: Moments, a: Moments, b: Moments) -> Moments:
    """The table of two outputs a and b from what a multilinear op made of :func:`joint` laws."""
    return _with_constant(out, 0.0, out.mean**2 - a.mean * b.mean)


def paired(a: Moments, b: Moments, c: Moments | None, axis: int) -> Moments:
    """A and b as two samples of one batch, an atom of size 2 in front of ``axis``; their variances are evened out."""
    x, y = align(a, b)
    middle = math.sqrt(a.var * b.var)
    v = 0.5 * middle * (x.v / a.var + y.v / b.var) if middle > 0 else 0.5 * (x.v + y.v)
    if c is None:
        c = Moments(x.dims, 0.0, np.zeros_like(x.v))
    law, table = align(Moments(x.dims, 0.0, v), c)
    mean, left = _means(a, b)
    shared = table.v.copy()
    shared[(0,) * shared.ndim] += left
    at = sum(map(len, law.dims[: axis % len(law.dims)]))
    axis %= len(law.dims)
    dims = (*law.dims[:axis], (2, *law.dims[axis]), *law.dims[axis + 1 :])
    alive = None if a.alive is None else _twice(a.alive, a.shape, axis)
    return Moments(dims, mean, np.stack([shared, law.v - shared], at), alive=alive)


def _twice(values: npt.NDArray[np.bool_], shape: Sequence[int], axis: int) -> npt.NDArray[np.bool_]:
    full = np.broadcast_to(values, shape)
    return np.concatenate([full, full], axis)


def of_paired(z: Moments, axis: int, a: Moments, b: Moments) -> Moments | None:
    """The table of a and b from the law of the pair, at the scale of their own variances; None if it fell apart."""
    axis %= len(z.dims)
    at = z.atoms(axis)
    if not at or z.sizes()[at[0]] != 2:
        return None
    shared = take(z.v, at[0], 0)
    dims = (*z.dims[:axis], z.dims[axis][1:], *z.dims[axis + 1 :])
    return Moments(dims, 0.0, shared * (math.sqrt(a.var * b.var) / z.var if z.var > 0 else 0.0))
