"""Order statistics: the largest, the k largest, the sorted entries of an axis; and the larger of two tensors.

The entries of a row are what the row shares plus ``√v`` times independent normals; the law of their order statistics, and how
often two correlated rows pick the same entry, come from a seeded simulation of pairs of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from gradlint.moments import Array, Moments, from_pairs, product
from gradlint.ops.maximum import Windows
from gradlint.ops.maximum import maximum as largest
from gradlint.ops.primitives import Tape, reindex
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []

_ENTRIES, _ROWS, _SEED = 400_000, 100, 1928


@dataclass(frozen=True)
class _Picked:
    """What a row and a correlated row give at k ranks.

    Args:
        mean: of the picked entries.
        same: mean product of entries of equal rank.
        differ: of different ranks.
        met: number of ranks at which both rows pick the same index.
        crossed: number of pairs of different ranks at which they do.
    """

    mean: float
    same: float
    differ: float
    met: float
    crossed: float


@cache
def _simulate(n: int, first: int, count: int, correlation: float) -> _Picked:
    """Ranks ``first … first + count`` from the top of n standard normals, beside those of a correlated row."""
    rng = np.random.default_rng(_SEED)
    rows = max(_ENTRIES // n, _ROWS)
    z = rng.standard_normal((rows, n))
    w = z if correlation >= 1 else correlation * z + math.sqrt(1 - correlation**2) * rng.standard_normal((rows, n))
    picks, values = [], []
    for x in (z, w):
        order = np.argsort(-x, axis=1)[:, first : first + count]
        picks.append(order)
        values.append(np.take_along_axis(x, order, 1))
    a, b = values
    aligned = float((a * b).sum(1).mean())
    every = float((a.sum(1) * b.sum(1)).mean())
    marks = np.zeros((2, rows, n), dtype=bool)
    for mark, order in zip(marks, picks, strict=True):
        np.put_along_axis(mark, order, values=True, axis=1)
    met = float((picks[0] == picks[1]).sum(1).mean())
    common = float((marks[0] & marks[1]).sum(1).mean())
    differ = (every - aligned) / (count * (count - 1)) if count > 1 else 0.0
    return _Picked(float(a.mean() + b.mean()) / 2, aligned / count, differ, met, common - met)


def _ranked(x: Moments, dim: int, first: int, count: int) -> Flow:
    """Entries of ``count`` ranks along one axis, from the largest down; the axis keeps its place."""
    dim %= len(x.dims)
    n = x.shape[dim]
    rank = len(x.dims)
    order = [*(d for d in range(rank) if d != dim), dim]
    inverse = [order.index(d) for d in range(rank)]
    if n == 1:
        return Flow(x, lambda g: {x: g})
    s = x.whole(dim).permute(order)
    table = s.pairs()
    shared, within = table[..., 0], table[..., 1] - table[..., 0]
    v = max(float(within.flat[-1]), 0.0)
    rho = np.clip(within / v, -1.0, 1.0) if v > 0 else np.ones_like(within)
    found = [_simulate(n, first, count, 1.0 if all(i) else round(float(rho[i]), 2)) for i in np.ndindex(*rho.shape)]

    def gather(read: Callable[[_Picked], float]) -> Array:
        return np.array([read(p) for p in found]).reshape(rho.shape)

    top = found[-1].mean
    base = shared + 2 * x.mean * math.sqrt(v) * top
    same, differ = (base + v * gather(read) for read in (lambda p: p.same, lambda p: p.differ))
    rows = s.dims[:-1]
    atoms = (count,) if count > 1 else ()
    pairs = np.stack([differ, same], -1) if count > 1 else same
    out = from_pairs((*rows, atoms), x.mean + math.sqrt(v) * top, pairs).permute(inverse)
    met, crossed = gather(lambda p: p.met), gather(lambda p: p.crossed)

    def back(g: Moments) -> dict[Moments, Moments]:
        like = Moments((*rows, g.permute(order).dims[-1]), 0.0, np.zeros((2,) * (sum(map(len, rows)) + len(atoms))))
        h = g.whole(dim).permute(order) + like.whole(rank - 1)
        if h.v.ndim != like.whole(rank - 1).v.ndim:
            raise NotImplementedError("a gradient with finer axes than what was ordered")
        k = h.pairs()
        equal, other = (k[..., 1], k[..., 0]) if count > 1 else (k, np.zeros_like(k))
        here = (met * equal + crossed * other) / n
        apart = ((count - met) * equal + (count * (count - 1) - crossed) * other) / (n * (n - 1))
        return {x: from_pairs((*h.dims[:-1], (n,)), h.mean * count / n, np.stack([apart, here], -1)).permute(inverse)}

    return Flow(out, back)


def _along(x: Moments, dims: Sequence[int], first: int, count: int, *, keepdim: bool, smallest: bool) -> Flow:
    """Ranks over several axes at once; from the smallest up if so wished."""
    tape, rank = Tape(), len(x.dims)
    sign = -1.0 if smallest else 1.0
    dims = [d % rank for d in dims]
    order = [*(d for d in range(rank) if d not in dims), *dims]
    inverse = [order.index(d) for d in range(rank)]
    apart = [x.shape[d] for d in order]
    joined = [*apart[: rank - len(dims)], math.prod(apart[rank - len(dims) :])]
    y = tape(reindex(x, lambda m: m.scale(sign).permute(order).reshape(joined),
                     lambda g: g.scale(sign).reshape(apart).permute(inverse)))  # fmt: skip
    if first == 0 and count == 1:
        y = tape(largest(y, [Windows(len(joined) - 1, 1, joined[-1], joined[-1])]))
    else:
        y = tape(_ranked(y, -1, first, count))
    kept = [n for d, n in enumerate(x.shape) if d not in dims]
    if len(dims) == 1 and (keepdim or count > 1):
        y = tape(reindex(y, lambda m: m.scale(sign).permute(inverse), lambda g: g.scale(sign).permute(order)))
    else:
        out = [1 if d in dims else n for d, n in enumerate(x.shape)] if keepdim else kept
        flat = y.shape
        y = tape(reindex(y, lambda m: m.scale(sign).reshape(out), lambda g: g.scale(sign).reshape(flat)))
    return Flow(y, lambda g: tape.back({y: g}))


def _pair(flow: Flow) -> Flow:
    """Values with their indices, which carry no moments."""
    return Flow((flow.out, None), lambda g: flow.back(g[0]) if g[0] is not None else {})


def _extreme(call: Call, input: Moments, other: Any, keepdim: bool, *, smallest: bool) -> Flow:
    if isinstance(other, Moments):
        return _larger(input, other, -1.0 if smallest else 1.0)
    dims = list(range(len(input.dims))) if other is None else [other]
    flow = _along(input, dims, 0, 1, keepdim=keepdim, smallest=smallest)
    return flow if other is None else _pair(flow)


@transfer(torch.max, "max")
def max_(call: Call, input: Moments, dim: Any = None, keepdim: bool = False, **kw: Any) -> Flow:
    """The largest entry (of an axis, with its index), or the larger of two tensors."""
    return _extreme(call, input, kw.get("other", dim), keepdim, smallest=False)


@transfer(torch.min, "min")
def min_(call: Call, input: Moments, dim: Any = None, keepdim: bool = False, **kw: Any) -> Flow:
    """The smallest entry, or the smaller of two tensors."""
    return _extreme(call, input, kw.get("other", dim), keepdim, smallest=True)


def _axes(x: Moments, dim: Any) -> list[int]:
    if dim is None or dim in ((), []):
        return list(range(len(x.dims)))
    return [dim] if isinstance(dim, int) else list(dim)


@transfer(torch.amax, "amax")
def amax(_: Call, input: Moments, dim: Any = None, keepdim: bool = False) -> Flow:
    """The largest entry over axes."""
    return _along(input, _axes(input, dim), 0, 1, keepdim=keepdim, smallest=False)


@transfer(torch.amin, "amin")
def amin(_: Call, input: Moments, dim: Any = None, keepdim: bool = False) -> Flow:
    """The smallest entry over axes."""
    return _along(input, _axes(input, dim), 0, 1, keepdim=keepdim, smallest=True)


@transfer(torch.topk, "topk")
def topk(_: Call, input: Moments, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Flow:
    """The k largest entries of an axis: the routing of a mixture of experts."""
    return _pair(_along(input, [dim], 0, k, keepdim=True, smallest=not largest))


@transfer(torch.sort, "sort")
def sort(_: Call, input: Moments, dim: int = -1, descending: bool = False, **_kw: Any) -> Flow:
    """All entries of an axis in order."""
    return _pair(_along(input, [dim], 0, input.shape[dim], keepdim=True, smallest=not descending))


@transfer(torch.kthvalue, "kthvalue")
def kthvalue(_: Call, input: Moments, k: int, dim: int = -1, keepdim: bool = False) -> Flow:
    """The k-th smallest entry of an axis."""
    return _pair(_along(input, [dim], k - 1, 1, keepdim=keepdim, smallest=True))


@transfer(torch.median, "median")
def median(_: Call, input: Moments, dim: int | None = None, keepdim: bool = False) -> Flow:
    """The lower middle entry."""
    dims = list(range(len(input.dims))) if dim is None else [dim]
    middle = (math.prod(input.shape[d] for d in dims) - 1) // 2
    flow = _along(input, dims, middle, 1, keepdim=keepdim, smallest=True)
    return flow if dim is None else _pair(flow)


def _larger(x: Moments, y: Moments, sign: float) -> Flow:
    """``max(x, y) = y + relu(x − y)`` of independent Gaussian tensors (min with ``sign`` -1).

    With d = x − y: ``K = K_y + 2 E[y relu(d')] + K_relu(d)``, ``E[y relu(d')] = m_y E relu − (K_y − m_y²) P(d > 0)`` (Stein).
    """
    a, b = x.scale(sign), y.scale(sign)
    d = a + b.scale(-1)
    wide = b + Moments(d.dims, 0.0, np.zeros_like(d.v))
    u = d.on_grid()
    above, chosen = d.map(np.maximum(u, 0.0)), d.map((u > 0).astype(float))
    table = wide.pairs() + above.pairs()
    table = table + 2 * (b.mean * above.mean - (wide.pairs() - b.mean**2) * chosen.mean)
    out = from_pairs(d.dims, b.mean + above.mean, table).scale(sign)
    left = d.map((u <= 0).astype(float))
    return Flow(out, lambda g: {x: product(g, chosen).fold(x.shape), y: product(g, left).fold(y.shape)})


@transfer(torch.maximum, "maximum", torch.fmax, "fmax")
def maximum(_: Call, input: Moments, other: Moments) -> Flow:
    """The larger of two tensors; the gradient goes to the one it came from."""
    return _larger(input, other, 1.0)


@transfer(torch.minimum, "minimum", torch.fmin, "fmin")
def minimum(_: Call, input: Moments, other: Moments) -> Flow:
    """The smaller of two tensors."""
    return _larger(input, other, -1.0)
