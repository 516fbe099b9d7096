"""Convolutions of any dimension, stride, padding, dilation and groups, and their transposes.

Padding is exact on average: per spatial axis ``n_δ`` counts the outputs whose tap δ is in bounds, ``S1 = Σ n_δ`` and
``S2 = Σ n_δ²``. A pair of equal positions shares ``S1/P`` taps, a pair of different ones ``(S2 − S1)/(P(P−1))``: fewer, which
is what makes a position-constant component decay at padded borders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradlint.moments import Array, Moments, from_pairs, linear_part, take
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _tuple(x: Any, n: int) -> tuple[int, ...]:
    return (int(x),) * n if isinstance(x, int) else tuple(int(y) for y in x) * (n if len(x) == 1 else 1)


class _Taps:
    """Pair counts between a *dense* side (size ``dense``) and a *window* side (size ``windows``) of one spatial axis."""

    def __init__(self, dense: int, windows: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
        i = np.arange(windows)
        counts = np.array(
            [np.sum((i * stride - padding + d * dilation >= 0) & (i * stride - padding + d * dilation < dense))
             for d in range(kernel)], dtype=float)  # fmt: skip
        self.same, self.pairs = float(counts.sum()), float((counts**2).sum() - counts.sum())
        self.dense, self.windows, self.kernel = dense, windows, kernel

    def mix(self, table: Array, axis: int, positions: int) -> Array:
        """Sum over the shared tap: rows ``[differ, same]`` of the result from those of ``table`` along ``axis``."""
        same = self.same / positions
        if positions == 1:
            return take(table, axis, 1) * same
        differ = self.pairs / (positions * (positions - 1))
        return np.stack([take(table, axis, 0) * differ, take(table, axis, 1) * same], axis)

    def weight_pairs(self, gx: Array, axis: int) -> Array:
        """Sum over positions of a tap's gradient, averaged over taps: Σ over pairs of positions of ``K_g K_x``."""
        return (take(gx, axis, 1) * self.same + take(gx, axis, 0) * self.pairs) / self.kernel


def _spatial(x: Moments) -> Moments:
    """One atom for every spatial axis and for the channels."""
    for d in range(1, len(x.dims)):
        x = x.whole(d)
    return x


def _pass(x: Moments, weight: Moments, taps: Sequence[_Taps], fan: float, out: tuple[int, ...], *, to_dense: bool) -> Moments:
    """One direction: fresh zero-mean weights decorrelate the output channels; equal taps are shared between positions."""
    x = _spatial(x)
    n_samples = len(x.dims[0])
    table = x.pairs()
    # channels: zero-mean weights sum K over the channel's own index only
    channel = x.atoms(1)
    table = take(table, n_samples, 1) if len(channel) else table
    axis = n_samples
    dims: list[tuple[int, ...]] = [x.dims[0], (out[1],) if out[1] > 1 else ()]
    for d, tap in enumerate(taps):
        positions = tap.dense if to_dense else tap.windows
        if not x.dims[2 + d]:
            table = np.stack([table, table], axis)
        table = tap.mix(table, axis, positions)
        axis += positions > 1
        dims.append((positions,) if positions > 1 else ())
    variance = weight.q - weight.shared(range(len(weight.dims)))
    table = table * fan * max(variance, 0.0)
    if dims[1]:
        table = np.stack([np.zeros_like(table), table], n_samples)
    return from_pairs(tuple(dims), 0.0, table)


def _coherent(
    x: Moments, weight: Moments, taps: Sequence[_Taps], fan: float, out: tuple[int, ...], *, to_dense: bool
) -> Moments | None:
    """What the mean of the weights adds: μ times the sum over channels and window, the same for every output channel."""
    mean = weight.shared(range(len(weight.dims)))
    if mean <= 1e-9 * weight.q:
        return None
    y = _spatial(x).resize(1, round(fan)).sum([1], keepdim=True)
    for d, tap in enumerate(taps):
        positions = tap.dense if to_dense else tap.windows
        reach = tap.same / positions
        y = y.resize(2 + d, max(positions, 2))
        axis = y.atoms(2 + d)[0]
        v = np.stack([take(y.v, axis, 0) * reach**2, take(y.v, axis, 1) * reach], axis)
        y = Moments(y.dims, y.mean * reach, v).resize(2 + d, positions)
    return y.scale(math.copysign(math.sqrt(mean), weight.mean)).expand(out)


def _convolve(x: Moments, weight: Moments, bias: Moments | None, taps: list[_Taps], fans: tuple[float, float],
              out: tuple[int, ...], *, transposed: bool) -> Flow:  # fmt: skip
    def go(y: Moments, fan: float, shape: tuple[int, ...], *, to_dense: bool) -> Moments:
        result = _pass(y, weight, taps, fan, shape, to_dense=to_dense)
        coherent = _coherent(y, weight, taps, fan, shape, to_dense=to_dense)
        return result if coherent is None else result + coherent

    y = go(x, fans[0], out, to_dense=transposed)
    if bias is not None:
        y = y + bias.reshape((bias.shape[0],) + (1,) * len(taps))

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = {x: go(g, fans[1], x.shape, to_dense=not transposed), weight: _weight_gradient(g)}
        if bias is not None:
            grads[bias] = g.sum([0, *range(2, len(g.dims))])
        return grads

    def _weight_gradient(g: Moments) -> Moments:
        """Sum over pairs of samples and positions, and what a weight has in common with itself where g depends on y."""
        pairs = _summed(_bits(_spatial(x)) * _bits(_spatial(g)))
        for source, slope in linear_part(g, y):
            table = _bits(_spatial(source))
            alone = np.zeros_like(table)
            alone.flat[-1] = table.flat[-1]
            pairs += slope**2 * weight.q * x.q**2 * max(_summed(table) - _summed(alone), 0.0)
        return Moments.iid(weight.shape, 0.0, pairs)

    def _summed(table: Array) -> float:
        for n in x.dims[0]:
            table = n * take(table, 0, 1) + n * (n - 1) * take(table, 0, 0)
        for tap in taps:
            table = tap.weight_pairs(table, 0)
        return float(table)

    def _bits(y: Moments) -> Array:
        """Pair table over (samples, spatial axes), the channel its own; axes of size 1 are spread to two rows."""
        table = y.pairs()
        at = len(y.dims[0])
        if y.dims[1]:
            table = take(table, at, 1)
        for d in range(2, len(y.dims)):
            if not y.dims[d]:
                table = np.stack([table, table], at)
            at += 1
        return table

    return Flow(y, back)


def _unbatched(function: Callable[..., Flow], call: Call, x: Moments, *args: Any) -> Flow:
    """A single sample, without an axis for it."""
    one = x.reshape((1, *x.shape))
    flow = function(replace(call, shape=(1, *(call.shape or ()))), one, *args)

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = dict(flow.back(g.reshape((1, *g.shape))))
        return {x: grads.pop(one).reshape(x.shape), **grads}

    return Flow(flow.out.reshape(flow.out.shape[1:]), back)


def _ordinary(call: Call, x: Moments, weight: Moments, bias: Moments | None, n: int, stride: Any, padding: Any,
              dilation: Any, groups: int) -> Flow:  # fmt: skip
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    if len(x.dims) == n + 1:
        return _unbatched(_ordinary, call, x, weight, bias, n, stride, padding, dilation, groups)
    kernel, stride, dilation = weight.shape[2:], _tuple(stride, n), _tuple(dilation, n)
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    taps = [_Taps(x.shape[2 + d], call.shape[2 + d], kernel[d], stride[d], _tuple(padding, n)[d], dilation[d]) for d in range(n)]
    fans = (x.shape[1] / groups, weight.shape[0] / groups)
    flow = _convolve(x, weight, bias, taps, fans, call.shape, transposed=False)
    linear = bias is None or (bias.var == 0 and bias.mean == 0)
    return _by_channel(flow, x) if linear and groups == x.shape[1] == weight.shape[0] else flow


def _by_channel(flow: Flow, x: Moments) -> Flow:
    """A linear map of every channel by itself: ``Σ g_x x = Σ g_y y`` for each."""

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = dict(flow.back(g))
        grads[x] = replace(grads[x], radial=g.radial)
        return grads

    return Flow(flow.out, back)


def _transposed(call: Call, x: Moments, weight: Moments, bias: Moments | None, n: int, stride: Any, padding: Any,
                groups: int, dilation: Any) -> Flow:  # fmt: skip
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    if len(x.dims) == n + 1:
        return _unbatched(_transposed, call, x, weight, bias, n, stride, padding, groups, dilation)
    stride, padding, dilation = _tuple(stride, n), _tuple(padding, n), _tuple(dilation, n)
    taps = [_Taps(call.shape[2 + d], x.shape[2 + d], weight.shape[2 + d], stride[d], padding[d], dilation[d]) for d in range(n)]
    fans = (x.shape[1] / groups, weight.shape[1])
    return _convolve(x, weight, bias, taps, fans, call.shape, transposed=True)


@transfer(torch.conv1d)
def conv1d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Flow:  # fmt: skip
    """1-d convolution."""
    return _ordinary(call, input, weight, bias, 1, stride, padding, dilation, groups)


@transfer(torch.conv2d)
def conv2d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Flow:  # fmt: skip
    """2-d convolution."""
    return _ordinary(call, input, weight, bias, 2, stride, padding, dilation, groups)


@transfer(torch.conv3d)
def conv3d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Flow:  # fmt: skip
    """3-d convolution."""
    return _ordinary(call, input, weight, bias, 3, stride, padding, dilation, groups)


@transfer(torch.conv_transpose1d)
def conv_transpose1d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1,
                     padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Flow:  # fmt: skip
    """Transposed 1-d convolution."""
    return _transposed(call, input, weight, bias, 1, stride, padding, groups, dilation)


@transfer(torch.conv_transpose2d)
def conv_transpose2d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1,
                     padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Flow:  # fmt: skip
    """Transposed 2-d convolution."""
    return _transposed(call, input, weight, bias, 2, stride, padding, groups, dilation)


@transfer(torch.conv_transpose3d)
def conv_transpose3d(call: Call, input: Moments, weight: Moments, bias: Moments | None = None, stride: Any = 1,
                     padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Flow:  # fmt: skip
    """Transposed 3-d convolution."""
    return _transposed(call, input, weight, bias, 3, stride, padding, groups, dilation)
