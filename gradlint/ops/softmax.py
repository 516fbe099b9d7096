"""Softmax.

A row of scores enters softmax by its within-row variance ``v`` alone (what a row shares cancels). The law of the weights is
its participation: ``IPR = E Σp²`` and the sums it needs beside it come from a seeded simulation, because the closed forms fail
(``e^v/L`` is wrong by 17 % at v = 1 and by 250 % at v = 3, L = 32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import MAX_GRAM, Array, Moments, from_pairs, standardised
from gradlint.ops.apart import Plan, unreduced
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["participation", "softmax_flow"]

_ROWS, _SEED = 400, 1706


@cache
def participation(length: int, variance: float) -> tuple[float, float]:
    """``E Σp²`` and ``w = E[Σp² − 2Σp³ + (Σp²)²]`` for softmax over ``length`` iid N(0, variance) scores."""
    if variance <= 0 or length == 1:
        p2, p3 = 1 / length, 1 / length**2
        return p2, p2 - 2 * p3 + p2**2
    rows = max(_ROWS, 20_000 // length)
    scores = math.sqrt(variance) * np.random.default_rng(_SEED).standard_normal((rows, length))
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p2, p3 = (p**2).sum(1), (p**3).sum(1)
    return float(p2.mean()), float((p2 - 2 * p3 + p2**2).mean())


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
    parts = {n: participation(n, float(f"{v:.4g}")) for n in sizes}
    ipr_of = {n: part[0] for n, part in parts.items()}
    ipr = sum(share * parts[n][0] for n, share in sizes.items())
    w = sum(share * parts[n][1] for n, share in sizes.items())
    column = s.atoms(len(order) - 2)[-1] if len(order) > 1 and s.dims[-2] else None
    rows = np.empty(cov.shape)
    for index in np.ndindex(*cov.shape):
        same_mask = alive is None or column is None or index[column] == 1
        base = sum(share / n for n, share in sizes.items()) if same_mask else overlap
        rows[index] = ipr if all(index) else min(ipr, base * math.exp(min(float(cov[index]), 50.0)))
    out = from_pairs(s.dims, 1 / length, np.stack([(1 - rows) / (length * (length - 1)), rows / length], -1))

    def back(g: Moments) -> dict[Moments, Moments]:
        both = g.whole(dim).permute(order) + Moments(s.dims, 0.0, np.zeros_like(s.v))
        if both.v.shape != s.v.shape:
            raise NotImplementedError("a gradient with finer axes than the scores")
        k = both.pairs()
        column_of_g, seen = both.grams.get(both.v.ndim - 1), None
        if column_of_g is not None or alive is not None:
            seen = _centred_by(_weights_of(alive, length), column_of_g, ipr_of)
        varying = (k[..., 1] - k[..., 0]) * (1.0 if seen is None else seen[1])
        energy = varying * np.where(np.indices(rows.shape).all(0) if rows.ndim else True, w, np.minimum(rows, w)) / length
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
