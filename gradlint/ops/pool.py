"""Pooling and resampling of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, from_pairs, take
from gradlint.ops.maximum import Windows, maximum
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _tuple(x: Any, n: int) -> tuple[int, ...]:
    return (int(x),) * n if isinstance(x, int) else tuple(int(y) for y in x)


def _window(x: Moments, dim: int, out: int, sums: tuple[float, float], column: float) -> Moments:
    """A linear window along one axis: ``y_o = Σ_i w_oi x_i``.

    ``sums`` are ``Σ_i w_oi`` and ``Σ_i w_oi²`` averaged over outputs, ``column`` is ``Σ_o w_oi`` averaged over inputs. Equal
    outputs: ``s₂ K[same] + (s₁² − s₂) K[differ]``; differing ones by the sum over all outputs, ``Σ_o y_o = Σ_i column·x_i``.
    """
    x = x.whole(dim)
    size = x.shape[dim]
    table = x.pairs()
    a = sum(map(len, x.dims[:dim]))
    same, differ = (take(table, a, 1), take(table, a, 0)) if x.dims[dim] else (table, table)
    s1, s2 = sums
    y_same = s2 * same + (s1**2 - s2) * differ
    mean = x.mean * s1
    if out == 1:
        y = y_same
    else:
        everything = column**2 * (size * same + size * (size - 1) * differ)
        y = np.stack([(everything - out * y_same) / (out * (out - 1)), y_same], a)
    return from_pairs((*x.dims[:dim], (out,) if out > 1 else (), *x.dims[dim + 1 :]), mean, y)


def _linear(x: Moments, spatial: Sequence[tuple[int, int, float, float]]) -> Flow:
    """Separable windows: per axis (dim, out, Σw, Σw²); the adjoint has ``Σ_o`` in the place of ``Σ_i``."""
    y = x
    for dim, out, s1, s2 in spatial:
        y = _window(y, dim, out, (s1, s2), s1 * out / x.shape[dim])

    def back(g: Moments) -> dict[Moments, Moments]:
        for dim, out, s1, s2 in spatial:
            ratio = out / x.shape[dim]
            g = _window(g, dim, x.shape[dim], (s1 * ratio, s2 * ratio), s1)
        return {x: g}

    return Flow(y, back)


def _average(call: Call, x: Moments, n: int, kernel: Any, stride: Any, padding: Any) -> Flow:
    if call.shape is None or len(x.dims) < n + 1:
        raise NotImplementedError("pooling of this rank")
    kernel = _tuple(kernel, n)
    stride = kernel if stride in (None, (), []) else _tuple(stride, n)
    padding = _tuple(padding, n)
    spatial = []
    for i in range(n):
        dim = len(x.dims) - n + i
        size, out, k = x.shape[dim], call.shape[dim], kernel[i]
        starts = np.arange(out) * stride[i] - padding[i]
        taps = float(np.mean(np.minimum(starts + k, size) - np.maximum(starts, 0)))
        spatial.append((dim, out, taps / k, taps / k**2))
    return _linear(x, spatial)


@transfer(F.avg_pool1d)
def avg_pool1d(call: Call, input: Moments, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, **__: Any) -> Flow:
    """Mean over windows of one axis."""
    return _average(call, input, 1, kernel_size, stride, padding)


@transfer(F.avg_pool2d)
def avg_pool2d(call: Call, input: Moments, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, **__: Any) -> Flow:
    """Mean over windows of two axes."""
    return _average(call, input, 2, kernel_size, stride, padding)


@transfer(F.avg_pool3d)
def avg_pool3d(call: Call, input: Moments, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, **__: Any) -> Flow:
    """Mean over windows of three axes."""
    return _average(call, input, 3, kernel_size, stride, padding)


@transfer(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, torch.adaptive_avg_pool1d)
def adaptive_avg_pool(call: Call, input: Moments, output_size: Any) -> Flow:
    """Mean over bins ``⌊iI/O⌋ … ⌈(i+1)I/O⌉``."""
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    spatial = []
    for dim in range(2, len(input.dims)):
        size, out = input.shape[dim], call.shape[dim]
        widths = [-(-(i + 1) * size // out) - i * size // out for i in range(out)]
        spatial.append((dim, out, 1.0, float(np.mean([1 / w for w in widths]))))
    return _linear(input, spatial)


@transfer(F.interpolate, F.upsample)
def interpolate(call: Call, input: Moments, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool | None = None, *_: Any, **__: Any) -> Flow:  # fmt: skip
    """Nearest copies; (bi)linear weights by their mean square along each axis."""
    if call.shape is None or mode not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area"):
        raise NotImplementedError(f"interpolation mode {mode}")
    spatial = []
    for dim in range(2, len(input.dims)):
        n, out = input.shape[dim], call.shape[dim]
        square = 1.0
        if mode.endswith("linear") and n != out:
            place = np.arange(out) * ((n - 1) / max(out - 1, 1)) if align_corners else (np.arange(out) + 0.5) * n / out - 0.5
            part = np.clip(place, 0, n - 1) % 1.0
            square = float(np.mean(part**2 + (1 - part) ** 2))
        elif mode == "area" and n > out:
            square = out / n
        spatial.append((dim, out, 1.0, square))
    return _linear(input, spatial)


def _max(call: Call, x: Moments, n: int, kernel: Any, stride: Any = None, *_: Any, **__: Any) -> Flow:
    if call.shape is None:
        raise NotImplementedError("max pooling that returns indices")
    kernel = _tuple(kernel, n)
    stride = kernel if stride in (None, (), []) else _tuple(stride, n)
    first = len(x.dims) - n
    return maximum(x, [Windows(first + i, call.shape[first + i], kernel[i], stride[i]) for i in range(n)])


@transfer(F.max_pool1d, torch.max_pool1d)
def max_pool1d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Largest entry of windows of one axis."""
    return _max(call, input, 1, kernel_size, *args, **kw)


@transfer(F.max_pool2d, torch.max_pool2d)
def max_pool2d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Largest entry of windows of two axes."""
    return _max(call, input, 2, kernel_size, *args, **kw)


@transfer(F.max_pool3d, torch.max_pool3d)
def max_pool3d(call: Call, input: Moments, kernel_size: Any, *args: Any, **kw: Any) -> Flow:
    """Largest entry of windows of three axes."""
    return _max(call, input, 3, kernel_size, *args, **kw)


@transfer(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
def adaptive_max_pool(call: Call, input: Moments, output_size: Any, *_: Any, **__: Any) -> Flow:
    """Largest entry of adaptive bins."""
    if call.shape is None:
        raise NotImplementedError("max pooling that returns indices")
    widths = {d: math.ceil(input.shape[d] / call.shape[d]) for d in range(2, len(input.dims))}
    return maximum(input, [Windows(d, call.shape[d], width, width) for d, width in widths.items()])
