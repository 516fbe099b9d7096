"""Softmax and what is made of it.

A row of scores enters softmax by its within-row variance ``v`` alone (what a row shares cancels). The law of the weights is
its participation: ``IPR = E Σp²`` and the sums it needs beside it are integrals (:mod:`gradlint.ops.partition`), because the
closed forms fail (``e^v/L`` is wrong by 17 % at v = 1 and by 250 % at v = 3, L = 32).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from gradlint.moments import MAX_GRAM, Array, Moments, Pattern, Rows, from_pairs, moments_along, product, standardised, take
from gradlint.moments.array import align
from gradlint.ops.apart import Plan, unreduced
from gradlint.ops.partition import log_partition, participation
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["log_softmax", "rows_under", "softmax_flow", "within"]

MAX_PATTERNS = 16
"""Heads, windows or samples that a mask or a known bias tells apart; of more, some are looked at."""

_EFFORT = 500_000_000
"""Patterns times the cube of the keys: fewer patterns of long rows."""

_ALONE = 1e-9
"""A row that sees hardly more than one key has no gradient."""


def _patterns(x: Moments) -> tuple[Array, Array]:
    """Mean weights over the last axis, shape (patterns, rows, n), and the share of each pattern (rows: 1 where all are alike).

    Even but for what is known of the scores: entries that take no part, and a bias.
    """
    n = x.shape[-1]
    alive = np.ones((1, 1), dtype=bool) if x.alive is None else np.atleast_2d(x.alive)
    lean = np.zeros((1, 1)) if x.lean is None else np.atleast_2d(x.lean)
    known = np.where(_once(alive), _once(lean), -np.inf)
    known = np.broadcast_to(known, (*known.shape[:-1], n)).reshape(-1, known.shape[-2], n)
    alike = Counter(x.tobytes() for x in known)
    numbers = np.array([*alike.values()], dtype=np.float64)
    if len(alike) < len(known):
        known = np.stack([np.frombuffer(x).reshape(known.shape[1:]) for x in alike])
    if (few := max(min(MAX_PATTERNS, _EFFORT // n**3), 1)) < len(known):
        chosen = np.linspace(0, len(known) - 1, few).astype(int)
        known, numbers = known[chosen], numbers[chosen]
    highest = known.max(-1, keepdims=True)
    weights = np.exp(np.where(np.isfinite(highest), known - np.where(np.isfinite(highest), highest, 0.0), 0.0))
    return weights / weights.sum(-1, keepdims=True), numbers / numbers.sum()


def _once(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Without the repetitions of a broadcast."""
    return x[tuple(slice(None, 1 if step == 0 else None) for step in x.strides)]


def _counts(weights: Array) -> Array:
    """Over how many keys a row's mean weights are spread."""
    return np.asarray(1 / (weights**2).sum(-1))


def _participation(weights: Array, variance: float) -> tuple[Array, Array]:
    """:func:`participation` of every row."""
    counts, index = np.unique(np.round(_counts(weights), 9), return_inverse=True)
    ipr, energy = participation(counts, variance)
    return ipr[index].reshape(weights.shape[:-1]), energy[index].reshape(weights.shape[:-1])


def _overlap(weights: Array, shares: Array) -> float:
    """Mean of ``Σ_j p_ij p_i'j`` of two rows."""
    n = weights.shape[1]
    own, column = (weights**2).sum((1, 2)), weights.sum(1)
    each = own if n < 2 else ((column**2).sum(1) - own) / (n * (n - 1))
    return float(shares @ each)


def _centred_by(p: Array, shares: Array, s: Array | None, ipr: Array) -> tuple[Array | None, float] | None:
    """The structure of ``p_j (g_j − Σ p g)`` along a row, averaged over the rows, and its energy over that of exchangeable g.

    Args:
        p: mean weights, shape (rows, n).
        shares: of the rows.
        s: the structure of g along the row.
        ipr: of the rows: what the weights vary about their mean sees no structure.
    """
    n = p.shape[1]
    if n > MAX_GRAM:
        return None

    def centred(s: Array, rows: Array) -> Array:
        seen = p @ s
        once = (p * rows[:, None]).T @ (p * seen)
        return np.asarray((p * rows[:, None]).T @ p * s - once - once.T + (p * (rows * (seen * p).sum(1))[:, None]).T @ p)

    counts = _counts(p)
    steady = np.where(counts > 1 + _ALONE, (1 - ipr) / np.maximum(1 - 1 / counts, 1e-12) / (counts * ipr), 0.0)
    even = centred(np.eye(n), shares)
    if s is None:
        return standardised(even), 1.0
    m = centred(s, steady * shares) + centred(np.eye(n), (1 - steady) * shares)
    return standardised(m), float(np.trace(m) / np.trace(even)) if np.trace(even) > 0 else 1.0


def softmax_flow(x: Moments, dim: int) -> Flow:
    """Softmax over one axis, masked entries excluded."""
    dim %= len(x.dims)
    x_whole = x.whole(dim)
    length = x.shape[dim]
    if length == 1:
        return Flow(Moments.iid(x.shape, 1.0, 0.0), lambda _: {x: Moments.zeros(x.shape)})
    order = [d for d in range(len(x.dims)) if d != dim] + [dim]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    s = x_whole if dim == len(order) - 1 else x_whole.permute(order)
    table = s.drawn().over(s.dims).pairs()
    cov = table[..., 1] - table[..., 0]  # per pattern of shared row axes: covariance that varies within the row
    v = max(float(cov.flat[-1]), 0.0)
    weights, kinds = _patterns(s)
    iprs, powers = _participation(weights, v)
    ipr, w = (float(kinds @ each.mean(1)) for each in (iprs, powers))
    base, overlap = float(kinds @ (1 / _counts(weights)).mean(1)), _overlap(weights, kinds)
    column = s.atoms(len(order) - 2)[-1] if len(order) > 1 and s.dims[-2] else None
    rows = np.empty(cov.shape)
    for index in np.ndindex(*cov.shape):
        same_mask = weights.shape[1] == 1 or column is None or index[column] == 1
        met = base if same_mask else overlap
        rows[index] = ipr if all(index) else min(ipr, met * math.exp(min(float(cov[index]), 50.0)))
    out = from_pairs(s.dims, 1 / length, np.stack([(1 - rows) / (length * (length - 1)), rows / length], -1))

    def back(g: Moments) -> dict[Moments, Moments]:
        of_rows = from_pairs((*s.dims[:-1], ()), 0.0, rows)
        both, of_rows = align(g.whole(dim).permute(order), of_rows)  # the gradient may have finer axes than the scores
        k, shares = both.pairs(), of_rows.pairs()[..., 0]
        column_of_g, seen = both.grams.get(both.v.ndim - 1), None
        if column_of_g is not None or s.alive is not None or s.lean is not None:
            of_row = np.repeat(kinds / weights.shape[1], weights.shape[1])
            seen = _centred_by(weights.reshape(-1, length), of_row, column_of_g, iprs.ravel())
        varying = (k[..., 1] - k[..., 0]) * (1.0 if seen is None else seen[1])
        energy = varying * np.where(np.indices(shares.shape).all(0) if shares.ndim else True, w, np.minimum(shares, w)) / length
        grad = from_pairs(both.dims, 0.0, np.stack([-energy / (length - 1), energy], -1))
        grams = {**both.grams} if seen is None or seen[0] is None else {**both.grams, both.v.ndim - 1: seen[0]}
        return {x: replace(grad, grams=grams).permute(inverse)}

    return Flow(out.permute(inverse), back)


def rows_under(x: Moments, variance: float, between: Array | float, of_keys: Array, dropout: float = 0.0) -> Rows:
    """The weights of all rows.

    Args:
        x: the scores, for their mask and what else is known of them.
        variance: of the rest within a row.
        between: covariance of the scores of two rows.
        of_keys: moments of every two keys.
        dropout: probability that a weight is dropped.
    """
    weights, shares = _patterns(x)
    weights = np.broadcast_to(weights, (len(weights), *x.shape[-2:]))
    even = (1 - 1 / (counts := _counts(weights))) / counts
    ipr, energy = _participation(weights, variance)
    power = np.divide(energy, even, out=np.ones_like(energy), where=counts > 1 + _ALONE)
    each = [Pattern(*own, between, of_keys) for own in zip(weights, ipr, power, strict=True)]
    return Rows(tuple(each), tuple(map(float, shares))).dropped(dropout)


def _rows_apart(x: Moments) -> Rows | None:
    """The rows of weights that do not all see the same, or of scores that have a structure; None elsewhere."""
    if len(x.dims) < 2 or any(len(dim) != 1 for dim in x.dims[-2:]) or max(x.shape[-2:]) > MAX_GRAM:
        return None
    if x.alive is None and x.lean is None and not any(x.atoms(d).start in x.grams for d in (-2, -1)):
        return None
    drawn = x.drawn()
    between = max(drawn.shared([-2]) - drawn.shared([-1, -2]), 0.0)
    return rows_under(x, within(drawn, -1), between, moments_along(drawn, len(x.dims) - 1))


def _by_row(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Rows whose scores nothing known tells apart."""
    return None if x.alive is not None or x.lean is not None else unreduced(call, args, {"dim": -1, **kwargs}, x)


@transfer(F.softmax, torch.softmax, "softmax", torch.special.softmax, apart=_by_row)
def softmax(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """Softmax over one axis."""
    dim = (-1 if dim is None else dim) % len(input.dims)
    flow = softmax_flow(input, dim)
    rows = _rows_apart(input) if dim == len(input.dims) - 1 else None
    return flow if rows is None else Flow(replace(flow.out, rows=rows), flow.back)


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
