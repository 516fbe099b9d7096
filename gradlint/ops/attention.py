"""Softmax and attention.

A row of scores enters softmax by its within-row variance ``v`` alone (what a row shares cancels). The law of the weights is
its participation: ``IPR = E Σp²`` and the sums it needs beside it come from a seeded simulation, because the closed forms fail
(``e^v/L`` is wrong by 17 % at v = 1 and by 250 % at v = 3, L = 32).
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import MAX_PARTS, Moments, concat, cut, einsum, embed, from_pairs, join, meet, piece
from gradlint.ops.apart import Plan, across, unreduced
from gradlint.ops.primitives import Tape, affine, contract, multiply, plus, reindex
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["softmax_flow"]

_ROWS, _SEED = 400, 1706
_LIKE = 4


@cache
def _participation(length: int, variance: float) -> tuple[float, float]:
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
    parts = {n: _participation(n, float(f"{v:.4g}")) for n in sizes}
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
        varying = k[..., 1] - k[..., 0]
        energy = varying * np.where(np.indices(rows.shape).all(0) if rows.ndim else True, w, np.minimum(rows, w)) / length
        return {x: from_pairs(both.dims, 0.0, np.stack([-energy / (length - 1), energy], -1)).permute(inverse)}

    return Flow(out.permute(inverse), back)


def _by_row(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Rows whose scores no mask tells apart."""
    return None if x.alive is not None else unreduced(call, args, {"dim": -1, **kwargs}, x)


@transfer(F.softmax, torch.softmax, "softmax", torch.special.softmax, apart=_by_row)
def softmax(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """Softmax over one axis."""
    return softmax_flow(input, -1 if dim is None else dim)


def _stretches(alive: np.ndarray[Any, np.dtype[np.bool_]] | None, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Runs of rows that see about as many columns: a run ends where the number leaves a factor of four.

    One run where no mask tells the rows apart, or where it does so differently per sample or head.
    """
    rows, columns = shape
    if alive is None or alive.shape[-2] != rows or alive.shape[-1] != columns or rows == 1:
        return [(0, rows)]
    masks = alive.reshape(-1, rows, columns)
    if (masks != masks[0]).any():
        return [(0, rows)]
    counts = np.maximum(masks[0].sum(1), 1)
    ends, first = [], counts[0]
    for i, n in enumerate(counts):
        if not first / _LIKE <= n <= first * _LIKE or n == first * _LIKE:
            ends.append(i)
            first = n
    ends = [0, *ends, rows]
    return list(pairwise(ends)) if len(ends) <= MAX_PARTS + 1 else [(0, rows)]


def attend(
    q: Moments, k: Moments, v: Moments, scale: float, alive: Any, bias: Moments | None, p: float, width: int | None
) -> tuple[Flow, Moments]:
    """``softmax(scale·QKᵀ + bias) V`` over the last two axes, and the attention weights.

    Under a causal mask the first rows average over few values and the last over many: runs of rows are kept apart, each with
    the stretch of keys and values that it sees.
    """
    whole, weights = _attend(q, k, v, scale, alive, bias, p, width)
    runs = _stretches(alive, (q.shape[-2], k.shape[-2]))
    if len(runs) == 1:
        return whole, weights
    axis, mask = len(q.dims) - 2, alive.reshape(-1, *alive.shape[-2:])[0]
    flows = []
    for a, b in runs:
        seen = np.flatnonzero(mask[a:b].any(0))
        lo, hi = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 1)
        mine = mask[a:b, lo:hi]
        keys, values = (replace(piece(x, axis, lo, hi), parts=None) for x in (k, v))
        queries = replace(piece(q, axis, a, b), parts=None)
        lean = None if bias is None else _block(bias, (a, b), (lo, hi))
        flow, _ = _attend(queries, keys, values, scale, None if mine.all() else mine, lean, p, width)
        flows.append((flow, queries, keys, values, lean, lo))
    sizes = [b - a for a, b in runs]

    def back(g: Moments) -> dict[Moments, Moments]:
        guides = whole.back(g)
        found = [f[0].back(own) for f, own in zip(flows, cut(g, axis, sizes), strict=True)]
        grads = {q: join([grad[f[1]] for grad, f in zip(found, flows, strict=True)], axis, guides[q])}
        for x, place in ((k, 2), (v, 3)):
            each = [embed(grad[f[place]], axis, f[5], x.shape[axis]) for grad, f in zip(found, flows, strict=True)]
            grads[x] = across(reduce(meet, each), guides[x], whole, g, x, axis, sizes)
        if bias is not None:
            grads[bias] = guides[bias]
        return grads

    return Flow(join([f[0].out for f in flows], axis, whole.out), back), weights


def _block(bias: Moments, rows: tuple[int, int], columns: tuple[int, int]) -> Moments:
    """A bias on some rows and columns."""
    if bias.value is not None:
        value = np.asarray(bias.value)
        value = value[..., slice(*rows), :] if value.shape[-2] > 1 else value
        return Moments.of_array(value[..., slice(*columns)] if value.shape[-1] > 1 else value)
    out = bias if bias.shape[-2] == 1 else piece(bias, -2, *rows)
    return replace(out if out.shape[-1] == 1 else piece(out, -1, *columns), parts=None)


def _attend(
    q: Moments, k: Moments, v: Moments, scale: float, alive: Any, bias: Moments | None, p: float, width: int | None
) -> tuple[Flow, Moments]:
    """Attention of exchangeable rows.

    ``width`` is that of the tensor whose projections both keys and values are (None: they are independent). Then a row's
    weights are aligned with the values they pick, ``Σ_j p_ij v_j ∝ W_v Σ_x W_kᵀ q_i``: the output gains
    ``v_S (1 − IPR)(q_v − k_v)/width`` and the query's gradient ``scale² (K_G[same] − K_G[other key])(1 − IPR)(q_k − k_k)/width``
    (Kedia et al. 2024, arXiv:2403.09635, the single-head-attention term).
    """
    lead = string.ascii_lowercase[: len(q.dims) - 2]
    tape = Tape()
    scores = tape(contract([lead + "xz", lead + "yz"], lead + "xy", q, k))
    scaled = tape(reindex(scores, lambda x: x.scale(scale), lambda g: g.scale(scale)))
    if bias is not None:
        scaled = tape(plus(scaled, bias))
    if alive is not None:
        scaled = tape(reindex(scaled, lambda x: replace(x, alive=alive), lambda g: g))
    weights = tape(softmax_flow(scaled, -1))
    participation = min(weights.q * weights.shape[-1], 1.0)
    if p > 0:
        weights = tape(multiply(weights, Moments.iid(weights.shape, 1.0, p / (1 - p))))
    out = tape(contract([lead + "xy", lead + "yz"], lead + "xz", weights, v))
    if width is None:
        return Flow(out, lambda g: tape.back({out: g})), weights

    def spread(x: Moments, axis: int) -> float:
        return max(x.q - x.shared([axis]), 0.0)

    aligned = (1 - participation) / width
    row_variance = spread(scaled, -1)
    result = out + Moments.iid(out.shape, 0.0, row_variance * aligned * spread(v, -2))

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = tape.back({out: g})
        heard = einsum([lead + "xz", lead + "yz"], lead + "xy", g, v)
        extra = scale**2 * spread(heard, -1) * aligned * spread(k, -2)
        grads[q] = grads[q] + Moments.iid(q.shape, 0.0, extra)
        return grads

    return Flow(result, back), weights


def _mask(mask: Moments | None, causal: bool, shape: tuple[int, int]) -> tuple[Any, Moments | None]:
    """Live entries and the additive bias that is left."""
    if causal:
        return np.tril(np.ones(shape, dtype=bool)), None
    if mask is None:
        return None, None
    if mask.value is None:
        return None, mask
    value = np.asarray(mask.value)
    if value.dtype == np.bool_:
        return value, None
    alive = value > -1e4
    rest = np.where(alive, value, 0.0)
    return (None if alive.all() else alive), (Moments.of_array(rest) if rest.any() else None)


def _queries(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
    """Each query reads all keys; no mask tells the rows apart."""
    query, axis = args[0], len(args[0].dims) - 2 if call.shape is not None else 0
    masks = (kwargs.get("attn_mask"), args[3] if call.shape is not None and len(args) > 3 else None)
    if x is not query or x.parts is None or x.parts.axis != axis or kwargs.get("is_causal") or any(m is not None for m in masks):
        return None
    return Plan(axis, {x: axis})


@transfer(F.scaled_dot_product_attention, apart=_queries)
def scaled_dot_product_attention(call: Call, query: Moments, key: Moments, value: Moments, attn_mask: Moments | None = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None,
                                 enable_gqa: bool = False) -> Flow:  # fmt: skip
    """Scaled dot-product attention (Vaswani et al. 2017), grouped queries by repetition of keys and values."""
    tape0 = Tape()
    k, v = key, value
    if not enable_gqa and not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:  # one key head for all queries
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])

        def widened(x: Moments) -> Moments:
            shape = (*lead, *x.shape[-2:])
            return x if shape == x.shape else tape0(reindex(x, lambda y: y.expand(shape), lambda g: g.fold(x.shape)))

        query, k, v = widened(query), widened(key), widened(value)
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]

        def spread(x: Moments) -> Flow:
            ones = (*x.shape[:-2], 1, *x.shape[-2:])
            many = (*x.shape[:-2], times, *x.shape[-2:])
            out = (*x.shape[:-3], x.shape[-3] * times, *x.shape[-2:])
            return reindex(x, lambda y: y.reshape(ones).expand(many).reshape(out),
                           lambda g: g.reshape(many).sum([len(many) - 3]))  # fmt: skip

        k, v = tape0(spread(key)), tape0(spread(value))
    alive, bias = _mask(attn_mask, is_causal, (query.shape[-2], key.shape[-2]))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    flow, _weights = attend(query, k, v, factor, alive, bias, dropout_p, call.shared_width)
    return Flow(flow.out, lambda g: tape0.back(dict(flow.back(g))))


@transfer(F.multi_head_attention_forward, apart=_queries)
def multi_head_attention_forward(
    call: Call, query: Moments, key: Moments, value: Moments, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Moments | None, in_proj_bias: Moments | None, bias_k: Any, bias_v: Any, add_zero_attn: bool,
    dropout_p: float, out_proj_weight: Moments, out_proj_bias: Moments | None, training: bool = True,
    key_padding_mask: Moments | None = None, need_weights: bool = True, attn_mask: Moments | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Any = None, k_proj_weight: Any = None,
    v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Flow:  # fmt: skip
    """``nn.MultiheadAttention``: in-projections, heads, attention, out-projection, on (T, B, E) tensors."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or len(query.dims) != 3:
        raise NotImplementedError("extra key/value rows or unbatched input")
    tape = Tape()
    t, b, e = query.shape
    s, width = key.shape[0], e // num_heads

    def project(x: Moments, weight: Moments, rows: Moments | None) -> Moments:
        y = tape(affine(x, weight, rows))
        n = x.shape[0]
        return tape(reindex(y, lambda m: m.reshape((n, b, num_heads, width)).permute((1, 2, 0, 3)),
                            lambda g: g.permute((2, 0, 1, 3)).reshape((n, b, e))))  # fmt: skip

    weights: list[Moments]
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        if in_proj_weight is None:
            raise NotImplementedError("no projection weights")
        weights = [in_proj_weight.resize(0, e) for _ in range(3)]
    rows = [None if in_proj_bias is None else in_proj_bias.resize(0, e) for _ in range(3)]
    q, k, v = (project(x, w, r) for x, w, r in zip((query, key, value), weights, rows, strict=True))
    alive, bias = _mask(attn_mask, causal=False, shape=(t, s))
    if key_padding_mask is not None and key_padding_mask.value is not None:
        padding = np.asarray(key_padding_mask.value)
        live = (~padding if padding.dtype == np.bool_ else padding > -1e4)[:, None, None, :]
        alive = live if alive is None else alive & live
    if alive is not None and alive.ndim == 3:
        alive = alive.reshape(b, num_heads, t, s)
    inner, attention = attend(q, k, v, 1 / math.sqrt(width), alive, bias, dropout_p if training else 0.0, call.shared_width)
    outer, heads = Tape(), inner.out
    joined = outer(reindex(heads, lambda m: m.permute((2, 0, 1, 3)).reshape((t, b, e)),
                           lambda g: g.reshape((t, b, num_heads, width)).permute((1, 2, 0, 3))))  # fmt: skip
    out = outer(affine(joined, out_proj_weight, out_proj_bias))

    def back(g: tuple[Moments | None, ...] | Moments) -> dict[Moments, Moments]:
        first = g[0] if isinstance(g, tuple) else g
        if first is None:
            return {}
        grads = outer.back({out: first})
        grads.update(tape.back({x: y for x, y in inner.back(grads[heads]).items() if x in (q, k, v)}))
        if not use_separate_proj_weight and in_proj_weight is not None:
            grads[in_proj_weight] = _third(in_proj_weight, [grads[w] for w in weights])
            if in_proj_bias is not None:
                grads[in_proj_bias] = _third(in_proj_bias, [grads[r] for r in rows if r is not None])
        return grads

    return Flow((out, attention.average([1]) if need_weights else None), back)


def _third(whole: Moments, parts: list[Moments]) -> Moments:
    joined = concat(parts, 0)
    return joined if joined.shape == whole.shape else joined.reshape(whole.shape)
