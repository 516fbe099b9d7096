"""Softmax and what is made of it.

A row of scores enters softmax by its within-row variance ``v`` alone (what a row shares cancels). The law of the weights is
its participation: ``IPR = E Σp²`` and the sums it needs beside it are integrals (:mod:`gradlint.ops.partition`), because the
closed forms fail (``e^v/L`` is wrong by 17 % at v = 1 and by 250 % at v = 3, L = 32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import MAX_GRAM, Array, Moments, from_pairs, product, standardised, take
from gradlint.moments.array import align
from gradlint.ops.apart import Plan, unreduced
from gradlint.ops.partition import log_partition, participation
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["log_softmax", "softmax_flow", "within"]


def _rows_of(alive: np.ndarray[Any, np.dtype[np.bool_]] | None, length: int) -> tuple[dict[int, float], float]:
    """Share of rows by their number of live entries, and the mean overlap ``Σ_j 1/(n_i n_i')`` of two rows."""
    if alive is None:
        return {length: 1.0}, 1 / length
    mask = alive.reshape(-1, *alive.shape[-2:])[0] if alive.ndim > 1 else alive[None]
    mask = np.broadcast_to(mask, (mask.shape[0], length)).astype(float)
    counts = mask.sum(1)
    live = counts > 0
    weights = mask[live] / counts[live, None]
    n = len(weights)
    sizes, numbers = np.unique(counts[live].astype(int), return_counts=True)
    column = weights.sum(0)
    overlap = 1 / length if n < 2 else float((column @ column - (weights**2).sum()) / (n * (n - 1)))
    if n < 2:
        overlap = float((weights**2).sum())
    return {int(s): float(c) / n for s, c in zip(sizes, numbers, strict=True)}, overlap


def _weights_of(alive: np.ndarray[Any, np.dtype[np.bool_]] | None, length: int) -> Array:
    """The mean weights of the rows, shape (rows, length): even over what each row sees."""
    if alive is None:
        return np.full((1, length), 1 / length)
    mask = alive.reshape(-1, *alive.shape[-2:])[0] if alive.ndim > 1 else alive[None]
    live = np.broadcast_to(mask, (mask.shape[0], length))[mask.any(1)].astype(np.float64)
    return np.asarray(live / live.sum(1, keepdims=True))


def _centred_by(p: Array, s: Array | None, ipr_of: Mapping[int, float]) -> tuple[Array | None, float] | None:
    """The structure of ``p_j (g_j − Σ p g)`` along a row, averaged over the rows, and its energy over that of exchangeable g.

    Args:
        p: mean weights, shape (rows, n).
        s: the structure of g along the row.
        ipr_of: number of keys in a row to its ``E Σp²``: what the weights vary about their mean sees no structure.
    """
    n = p.shape[1]
    if n > MAX_GRAM:
        return None

    def centred(s: Array, rows: Array) -> Array:
        seen = p @ s
        once = (p * rows[:, None]).T @ (p * seen)
        return np.asarray((p * rows[:, None]).T @ p * s - once - once.T + (p * (rows * (seen * p).sum(1))[:, None]).T @ p)

    counts = np.rint((p > 0).sum(1)).astype(int)
    ipr = np.array([ipr_of[int(c)] for c in counts])
    steady = np.where(counts > 1, (1 - ipr) / np.maximum(1 - 1 / counts, 1e-12) / (counts * ipr), 0.0)
    even = centred(np.eye(n), np.ones(len(p)))
    if s is None:
        return standardised(even), 1.0
    m = centred(s, steady) + centred(np.eye(n), 1 - steady)
    return standardised(m), float(np.trace(m) / np.trace(even)) if np.trace(even) > 0 else 1.0


def softmax_flow(x: Moments, dim: int) -> Flow:
    """Softmax over one axis, masked entries excluded."""
    dim %= len(x.dims)
    alive = x.alive
    x_whole = x.whole(dim)
    length = x.shape[dim]
    if length == 1:
        return Flow(Moments.iid(x.shape, 1.0, 0.0), lambda _: {x: Moments.zeros(x.shape)})
    order = [d for d in range(len(x.dims)) if d != dim] + [dim]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    s = x_whole.permute(order)
    if alive is not None:
        alive = np.asarray(s.alive)
    table = s.pairs()
    cov = table[..., 1] - table[..., 0]  # per pattern of shared row axes: covariance that varies within the row
    v = max(float(cov.flat[-1]), 0.0)
    sizes, overlap = _rows_of(alive, length)
    shares = np.array([*sizes.values()])
    parts = participation([*sizes], v)
    ipr_of = dict(zip(sizes, map(float, parts[0]), strict=True))
    ipr, w = (float(shares @ each) for each in parts)
    column = s.atoms(len(order) - 2)[-1] if len(order) > 1 and s.dims[-2] else None
    rows = np.empty(cov.shape)
    for index in np.ndindex(*cov.shape):
        same_mask = alive is None or column is None or index[column] == 1
        base = sum(share / n for n, share in sizes.items()) if same_mask else overlap
        rows[index] = ipr if all(index) else min(ipr, base * math.exp(min(float(cov[index]), 50.0)))
    out = from_pairs(s.dims, 1 / length, np.stack([(1 - rows) / (length * (length - 1)), rows / length], -1))

    def back(g: Moments) -> dict[Moments, Moments]:
        of_rows = from_pairs((*s.dims[:-1], ()), 0.0, rows)
        both, of_rows = align(g.whole(dim).permute(order), of_rows)  # the gradient may have finer axes than the scores
        k, shares = both.pairs(), of_rows.pairs()[..., 0]
        column_of_g, seen = both.grams.get(both.v.ndim - 1), None
        if column_of_g is not None or alive is not None:
            seen = _centred_by(_weights_of(alive, length), column_of_g, ipr_of)
        varying = (k[..., 1] - k[..., 0]) * (1.0 if seen is None else seen[1])
        energy = varying * np.where(np.indices(shares.shape).all(0) if shares.ndim else True, w, np.minimum(shares, w)) / length
        grad = from_pairs(both.dims, 0.0, np.stack([-energy / (length - 1), energy], -1))
        grams = {**both.grams} if seen is None or seen[0] is None else {**both.grams, both.v.ndim - 1: seen[0]}
        return {x: replace(grad, grams=grams).permute(inverse)}

    return Flow(out.permute(inverse), back)


def _by_row(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Rows whose scores no mask tells apart."""
    return None if x.alive is not None else unreduced(call, args, {"dim": -1, **kwargs}, x)


@transfer(F.softmax, torch.softmax, "softmax", torch.special.softmax, apart=_by_row)
def softmax(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """Softmax over one axis."""
    return softmax_flow(input, -1 if dim is None else dim)


def within(x: Moments, dim: int) -> float:
    """Variance of the logits within a row."""
    return max(x.q - x.shared([dim]), 0.0)


@transfer(F.log_softmax, torch.log_softmax, "log_softmax")
def log_softmax(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """``x − logsumexp x``: backward ``g − p Σ_j g_j``."""
    dim = (-1 if dim is None else dim) % len(input.dims)
    x, n = input.whole(dim), input.shape[dim]
    v = within(x, dim)
    loss = log_partition(n, v)[1]
    out = x.centre([dim]).shift(-loss)

    weights = softmax_flow(input, dim).out.whole(dim)

    def back(g: Moments) -> dict[Moments, Moments]:
        h = g.whole(dim) + weights.scale(0)
        p = weights + h.scale(0)
        if not h.dims[dim]:
            return {input: Moments.zeros(g.shape)}
        a = h.atoms(dim)[0]
        same, differ = (take(h.pairs(), a, i) for i in (1, 0))
        row = same + (n - 1) * differ  # one entry with the sum of its row
        alike, unlike = (take(p.pairs(), a, i) for i in (1, 0))
        new_same, new_differ = same - 2 / n * row + alike * n * row, differ - 2 / n * row + unlike * n * row
        return {input: from_pairs(h.dims, 0.0, np.stack([new_differ, new_same], a))}

    return Flow(out, back)


@transfer(F.softmin)
def softmin(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """The softmax of ``−x``, which has the law of x within a row."""
    return softmax_flow(input, -1 if dim is None else dim)


@transfer(F.gumbel_softmax)
def gumbel_softmax(_: Call, logits: Moments, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Flow:
    """Softmax of logits with Gumbel noise, variance π²/6 (Jang et al. 2017); ``hard`` picks one, with the soft gradient."""
    noisy = (logits + Moments.iid(logits.shape, 0.0, math.pi**2 / 6)).scale(1 / tau)
    flow = softmax_flow(noisy, dim)
    out = flow.out
    if hard:
        n = logits.shape[dim]
        soft = out.whole(dim)
        a = soft.atoms(dim)[0]
        table = soft.pairs()
        row = take(table, a, 1) + (n - 1) * take(table, a, 0)  # what two rows have in common stays
        same = np.where(np.indices(row.shape).all(0) if row.ndim else True, 1 / n, take(table, a, 1))
        out = from_pairs(soft.dims, soft.mean, np.stack([(row - same) / (n - 1), same], a))
    return Flow(out, lambda g: {logits: flow.back(g)[noisy].scale(1 / tau)})


@transfer(torch.logsumexp, "logsumexp")
def logsumexp(_: Call, input: Moments, dim: Any, keepdim: bool = False) -> Flow:
    """What a row shares plus the log-partition of the rest; the gradient is spread by the softmax."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    if len(dims) != 1:
        raise NotImplementedError("logsumexp over several axes")
    d = dims[0] % len(input.dims)
    v = within(input, d)
    n = input.shape[d]
    _p2, loss, spread = log_partition(n, v)  # of `logsumexp − x_target`; cov(logsumexp, x) = v/n
    out = input.average([d], keepdim=keepdim).shift(loss)
    rest = Moments.iid(out.shape, 0.0, max(spread - v + v / n, 0.0))
    weights = softmax_flow(input, d).out

    def back(g: Moments) -> dict[Moments, Moments]:
        wide = g.reshape([1 if i == d else size for i, size in enumerate(input.shape)]).expand(input.shape)
        return {input: product(wide, weights)}

    return Flow(out + rest, back)
