"""Aten operators, as torch's dispatcher sees them, by the functions that a user writes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from gradlint.trace.names import Call
from gradlint.trace.private import operator_name

__all__ = ["translated"]

_CONVOLUTIONS = {
    (1, False): F.conv1d,
    (2, False): F.conv2d,
    (3, False): F.conv3d,
    (1, True): F.conv_transpose1d,
    (2, True): F.conv_transpose2d,
    (3, True): F.conv_transpose3d,
}


def translated(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Call, bool]:
    """The call that does the same, out of place; and whether it returns the first of the operator's results only."""
    name = operator_name(func)
    plain = name.rstrip("_") if not name.startswith("_") else name
    if plain in _SPECIAL:
        return _SPECIAL[plain](*args, **kwargs), plain in _FIRST_ONLY
    # Losses have another signature there: the reduction is a number.
    found = getattr(torch, plain, None) or (None if plain.endswith("_loss") else getattr(F, plain, None))
    if callable(found):
        return Call("call_function", found, args, kwargs), False
    if hasattr(torch.Tensor, plain) and args and isinstance(args[0], torch.Tensor):
        return Call("call_method", plain, args, kwargs), False
    return Call("call_function", func, args, kwargs), False


def _function(target: Any, *args: Any, **kwargs: Any) -> Call:
    return Call("call_function", target, args, kwargs)


def _convolution(
    x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> Call:
    target = _CONVOLUTIONS[w.dim() - 2, transposed]
    if transposed:
        return _function(target, x, w, b, tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))
    return _function(target, x, w, b, tuple(stride), tuple(padding), tuple(dilation), groups)


def _attention(q: Any, k: Any, v: Any, p: float = 0.0, is_causal: bool = False, **rest: Any) -> Call:
    mask, scale = rest.get("attn_mask"), rest.get("scale")
    return _function(F.scaled_dot_product_attention, q, k, v, attn_mask=mask, dropout_p=p, is_causal=is_causal, scale=scale)


def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Call:
    return _function(operator.getitem, x, (*[slice(None)] * (dim % x.dim()), slice(start, end, step)))


def _to_copy(x: Any, *, dtype: Any = None, **_: Any) -> Call:
    return Call("call_method", "to", (x, x.dtype if dtype is None else dtype), {})


_SPECIAL: dict[str, Callable[..., Call]] = {
    "_softmax": lambda x, dim, _: _function(F.softmax, x, dim),
    "_log_softmax": lambda x, dim, _: _function(F.log_softmax, x, dim),
    "_unsafe_view": lambda x, size: Call("call_method", "reshape", (x, tuple(size)), {}),
    "_to_copy": _to_copy,
    "alias": lambda x: Call("call_method", "view_as", (x, x), {}),
    "batch_norm": lambda x, w, b, mean, var, training, momentum, eps, *_: _function(
        F.batch_norm, x, mean, var, w, b, training, momentum, eps
    ),
    "instance_norm": lambda x, w, b, mean, var, own, momentum, eps, *_: _function(
        F.instance_norm, x, mean, var, w, b, own, momentum, eps
    ),
    "layer_norm": lambda x, shape, w=None, b=None, eps=1e-5, *_: _function(F.layer_norm, x, tuple(shape), w, b, eps),
    "group_norm": lambda x, groups, w=None, b=None, eps=1e-5, *_: _function(F.group_norm, x, groups, w, b, eps),
    "dropout": lambda x, p, training: _function(F.dropout, x, p, training),
    "convolution": _convolution,
    "embedding": lambda w, ids, *_, **__: _function(F.embedding, ids, w),
    "slice": _slice,
    "native_layer_norm": lambda x, shape, w, b, eps: _function(F.layer_norm, x, tuple(shape), w, b, eps),
    "native_group_norm": lambda x, w, b, _n, _c, _hw, groups, eps: _function(F.group_norm, x, groups, w, b, eps),
    "native_batch_norm": lambda x, w, b, mean, var, *rest: _function(F.batch_norm, x, mean, var, w, b, *rest),
    "max_pool2d_with_indices": lambda x, *rest: _function(F.max_pool2d, x, *rest),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
_FIRST_ONLY = frozenset(name for name in _SPECIAL if name.startswith(("native", "max_pool", "_scaled")))
