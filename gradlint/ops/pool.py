"""Pooling and resampling of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, Window, product
from gradlint.ops.maximum import Windows, maximum
from gradlint.ops.primitives import power, squared
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["average_windows"]


_DENSE = 20_000_000
"""A resampling matrix of more entries than this is not built."""


def _tuple(x: Any, n: int) -> tuple[int, ...]:
    return (int(x),) * n if isinstance(x, int) else tuple(int(y) for y in x)


def _linear(x: Moments, windows: Sequence[tuple[int, Window]]) -> Flow:
    """A known matrix along each of several axes."""
    y = x
    for dim, window in windows:
        y = window(y, dim)

    def back(g: Moments) -> dict[Moments, Moments]:
        for dim, window in windows:
            g = window.adjoint(g, dim)
        return {x: g}

    return Flow(y, back)


def average_windows(sizes: Sequence[int], outs: Sequence[int], kernel: Any, stride: Any = None, padding: Any = 0,
                    ceil_mode: bool = False, count_include_pad: bool = True,
                    divisor_override: int | None = None) -> tuple[list[Window], float]:  # fmt: skip
    """The matrices along the axes of an average pooling, and what they are multiplied by.

    Args:
        sizes: of the axes that are pooled.
        outs: what is left of them.
    """
    n = len(sizes)
    kernel = _tuple(kernel, n)
    stride = kernel if stride in (None, (), []) else _tuple(stride, n)
    padding = _tuple(padding, n)
    windows = []
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        places = (np.arange(out) * stride[i] - padding[i])[:, None] + np.arange(kernel[i])
        low, high = (-padding[i], size + padding[i]) if count_include_pad else (0, size)
        counted = ((places >= low) & (places < high)).sum(1, keepdims=True)
        weights = np.ones(places.shape) if divisor_override else np.broadcast_to(1.0 / counted, places.shape)
        windows.append(Window.of_taps(size, places, weights))
    return windows, 1 / divisor_override if divisor_override else 1.0


def _average(call: Call, x: Moments, n: int, *args: Any, **kw: Any) -> Flow:
    if call.shape is None or len(x.dims) < n + 1:
        raise NotImplementedError("pooling of this rank")
    windows, scale = average_windows(x.shape[-n:], call.shape[-n:], *args, **kw)
    flow = _linear(x, list(zip(range(len(x.dims) - n, len(x.dims)), windows, strict=True)))
    return flow if scale == 1.0 else Flow(flow.out.scale(scale), lambda g: flow.back(g.scale(scale)))


@transfer(F.avg_pool1d, torch.avg_pool1d)
def avg_pool1d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Mean over windows of one axis."""
    return _average(call, input, 1, kernel_size, *args, **kw)


@transfer(F.avg_pool2d)
def avg_pool2d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Mean over windows of two axes."""
    return _average(call, input, 2, kernel_size, *args, **kw)


@transfer(F.avg_pool3d)
def avg_pool3d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Mean over windows of three axes."""
    return _average(call, input, 3, kernel_size, *args, **kw)


def _lp_pool(n: int, function: Any) -> None:
    """Register the Euclidean pooling of n axes: the norm of a window; the gradient is ``x/‖window‖``."""

    def lp_pool(call: Call, input: Moments, norm_type: float, kernel_size: Any, stride: Any = None,
                ceil_mode: bool = False) -> Flow:  # fmt: skip
        if norm_type != 2:
            raise NotImplementedError("pooling by another norm than the Euclidean")
        squares = squared(input)
        flow = _average(call, squares, n, kernel_size, stride, 0, ceil_mode, divisor_override=1)
        out = power(flow.out, 0.5)
        direction = 1 / math.sqrt(flow.out.mean) if flow.out.mean > 0 else 0.0
        return Flow(out, lambda g: {input: product(flow.back(g)[squares], input).scale(direction)})

    lp_pool.__name__ = f"lp_pool{n}d"
    transfer(function)(lp_pool)


_lp_pool(1, F.lp_pool1d)
_lp_pool(2, F.lp_pool2d)
_lp_pool(3, F.lp_pool3d)


def _bins(size: int, out: int) -> list[range]:
    """Adaptive bins ``⌊iI/O⌋ … ⌈(i+1)I/O⌉``."""
    return [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _adaptive(call: Call, x: Moments, n: int) -> Flow:
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    windows = []
    for dim in range(len(x.dims) - n, len(x.dims)):
        bins = _bins(x.shape[dim], call.shape[dim])
        widest = max(map(len, bins))
        places = np.array([[*b, *[-1] * (widest - len(b))] for b in bins])
        weights = np.array([[1 / len(b)] * widest for b in bins])
        windows.append((dim, Window.of_taps(x.shape[dim], places, weights)))
    return _linear(x, windows)


@transfer(F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d)
def adaptive_avg_pool1d(call: Call, input: Moments, output_size: Any) -> Flow:
    """Mean over bins of one axis."""
    return _adaptive(call, input, 1)


@transfer(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(call: Call, input: Moments, output_size: Any) -> Flow:
    """Mean over bins of two axes."""
    return _adaptive(call, input, 2)


@transfer(F.adaptive_avg_pool3d)
def adaptive_avg_pool3d(call: Call, input: Moments, output_size: Any) -> Flow:
    """Mean over bins of three axes."""
    return _adaptive(call, input, 3)


@cache
def _resampling(n: int, scale: float | None, size: int | None, mode: str, align: bool | None, antialias: bool) -> Window:
    """What torch does to the columns of the identity, one axis at a time."""
    columns = torch.eye(n, dtype=torch.float64)[:, None]
    flat = mode in ("bicubic", "bilinear") and (antialias or mode == "bicubic")  # these know images only
    out = F.interpolate(
        columns[:, None] if flat else columns,
        size=None if size is None else (1, size) if flat else size,
        scale_factor=None if scale is None else (1.0, scale) if flat else scale,
        mode=mode if flat else {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode),
        align_corners=align,
        antialias=antialias,
    )
    return Window.of(out.reshape(n, -1).T.numpy())


@transfer(F.interpolate, F.upsample)
def interpolate(_: Call, input: Moments, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                antialias: bool = False) -> Flow:  # fmt: skip
    """Resampling of every mode: separable, so a known matrix along each axis."""
    axes = range(2, len(input.dims))
    given = size if size is not None else scale_factor
    parts = [given] * len(axes) if isinstance(given, (int, float)) else list(given)
    windows = []
    for dim, part in zip(axes, parts, strict=True):
        n = input.shape[dim]
        sized = size is not None or bool(recompute_scale_factor)
        target = int(part) if size is not None else int(n * part)
        if n * target > _DENSE:
            raise NotImplementedError("resampling of a very long axis")
        scale, goal = (None, target) if sized else (float(part), None)
        windows.append((dim, _resampling(n, scale, goal, mode, align_corners, antialias)))
    return _linear(input, windows)


def _indexed(function: Any, call: Call, x: Moments, windows: Callable[[Sequence[int]], Sequence[Windows]], args: Sequence[Any],
             kw: dict[str, Any]) -> Flow:  # fmt: skip
    """The largest entry of every window; the shape of a call that also returns indices is asked of torch."""
    if call.shape is not None:
        return maximum(x, windows(call.shape))
    flow = maximum(x, windows(tuple(function(torch.empty(x.shape, device="meta"), *args, **kw)[0].shape)))
    return Flow((flow.out, None), lambda g: flow.back(g[0]) if g[0] is not None else {})


def _max_pool(n: int, plain: Any, indexed: Any, *others: Any) -> None:
    """Register the pooling of n axes, with and without indices."""

    def max_pool(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
        kernel, given = _tuple(kernel_size, n), args[0] if args else kw.get("stride")
        stride = kernel if given in (None, (), []) else _tuple(given, n)
        first = len(input.dims) - n

        def windows(shape: Sequence[int]) -> list[Windows]:
            return [Windows(first + i, shape[first + i], kernel[i], stride[i]) for i in range(n)]

        return _indexed(indexed, call, input, windows, (kernel_size, *args), kw)

    max_pool.__name__ = f"max_pool{n}d"
    transfer(plain, indexed, *others)(max_pool)


def _adaptive_max_pool(n: int, plain: Any, indexed: Any, *others: Any) -> None:
    """Register the adaptive pooling of n axes, with and without indices."""

    def adaptive_max_pool(call: Call, input: Moments, output_size: Any, *args: Any, **kw: Any) -> Flow:
        first = len(input.dims) - n

        def windows(shape: Sequence[int]) -> list[Windows]:
            widths = {d: math.ceil(input.shape[d] / shape[d]) for d in range(first, len(shape))}
            return [Windows(d, shape[d], width, width) for d, width in widths.items()]

        return _indexed(indexed, call, input, windows, (output_size, *args), kw)

    adaptive_max_pool.__name__ = f"adaptive_max_pool{n}d"
    transfer(plain, indexed, *others)(adaptive_max_pool)


_max_pool(1, F.max_pool1d, F.max_pool1d_with_indices, torch.max_pool1d)
_max_pool(2, F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d)
_max_pool(3, F.max_pool3d, F.max_pool3d_with_indices, torch.max_pool3d)
_adaptive_max_pool(1, F.adaptive_max_pool1d, F.adaptive_max_pool1d_with_indices)
_adaptive_max_pool(2, F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices)
_adaptive_max_pool(3, F.adaptive_max_pool3d, F.adaptive_max_pool3d_with_indices)
