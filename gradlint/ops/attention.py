"""Attention as torch has it: scaled dot products, and the whole multi-head module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.nn import functional as F

from gradlint.moments import Moments, cut, join
from gradlint.ops.apart import Plan, by_parts, rows
from gradlint.ops.attend import attend
from gradlint.ops.primitives import Tape, affine, reindex
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


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

    def project(x: Moments, weight: Moments, bias: Moments | None) -> Moments:
        n = x.shape[0]
        y = tape(_by_position(x, weight, bias))
        return tape(reindex(y, lambda m: m.reshape((n, b, num_heads, width)).permute((1, 2, 0, 3)),
                            lambda g: g.permute((2, 0, 1, 3)).reshape((n, b, e))))  # fmt: skip

    weights: list[Moments]
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        if in_proj_weight is None:
            raise NotImplementedError("no projection weights")
        weights = cut(in_proj_weight, 0, (e, e, e))
    biases = [None] * 3 if in_proj_bias is None else cut(in_proj_bias, 0, (e, e, e))
    q, k, v = (project(x, w, b_) for x, w, b_ in zip((query, key, value), weights, biases, strict=True))
    alive, bias = _mask(attn_mask, causal=False, shape=(t, s))
    if key_padding_mask is not None and key_padding_mask.value is not None:
        padding = np.asarray(key_padding_mask.value)
        live = (~padding if padding.dtype == np.bool_ else padding > -1e4)[:, None, None, :]
        alive = live if alive is None else alive & live
    if alive is not None and alive.ndim == 3:
        alive = alive.reshape(b, num_heads, t, s)
    if bias is not None and len(bias.dims) == 3:
        heads_apart, whole = (b, num_heads, t, s), bias.shape
        bias = tape(reindex(bias, lambda m: m.reshape(heads_apart), lambda g: g.reshape(whole)))
    inner, attention = attend(q, k, v, 1 / math.sqrt(width), alive, bias, dropout_p if training else 0.0, call.shared_width)
    outer, heads = Tape(), inner.out
    joined = outer(reindex(heads, lambda m: m.permute((2, 0, 1, 3)).reshape((t, b, e)),
                           lambda g: g.reshape((t, b, num_heads, width)).permute((1, 2, 0, 3))))  # fmt: skip
    out = outer(_by_position(joined, out_proj_weight, out_proj_bias))

    def back(g: tuple[Moments | None, ...] | Moments) -> dict[Moments, Moments]:
        first = g[0] if isinstance(g, tuple) else g
        if first is None:
            return {}
        grads = outer.back({out: first})
        grads.update(tape.back({x: y for x, y in inner.back(grads[heads]).items() if x in (q, k, v, bias)}))
        if not use_separate_proj_weight and in_proj_weight is not None:
            grads[in_proj_weight] = _third(in_proj_weight, [grads[w] for w in weights])
        if in_proj_bias is not None:
            grads[in_proj_bias] = _third(in_proj_bias, [grads[b_] for b_ in biases if b_ is not None])
        return grads

    return Flow((out, attention.average([1]) if need_weights else None), back)


def _by_position(x: Moments, weight: Moments, bias: Moments | None) -> Flow:
    """A linear layer on positions that may be kept apart."""

    def transfer_(_: Call, *given: Any) -> Flow:
        return affine(*given)

    call = Call((*x.shape[:-1], weight.shape[0]))
    return by_parts(rows, transfer_, call, (x, weight, bias), {}, affine(x, weight, bias))


def _third(whole: Moments, parts: list[Moments]) -> Moments:
    joined = join(parts, 0)
    return joined if joined.shape == whole.shape else joined.reshape(whole.shape)
