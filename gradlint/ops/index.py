"""Reading by index: entries are picked, repeated and moved by known positions; the adjoint adds them up where they came from."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, Selection, disjoint, embed, piece, product
from gradlint.ops.apart import Plan
from gradlint.ops.places import collapsed, index_keys, pick, positions, read, selected, selection
from gradlint.ops.primitives import Tape, reindex
from gradlint.ops.registry import Call, Flow, transfer
from gradlint.trace.private import PAD

__all__: list[str] = []


def _moving(function: Callable[..., Any], *targets: Any) -> None:
    """Register an op that only moves entries (or drops them, or puts zeros): the function itself says where."""

    def moved(_: Call, input: Moments, *args: Any, **kwargs: Any) -> Flow:
        return selected(input, selection(function, input.shape, *args, **kwargs))

    moved.__name__ = getattr(function, "__name__", str(function))
    transfer(*targets)(moved)


_moving(torch.diagonal, torch.diagonal, "diagonal")
_moving(torch.linalg.diagonal, torch.linalg.diagonal)
_moving(torch.diag, torch.diag, "diag")
_moving(torch.diag_embed, torch.diag_embed, "diag_embed")
_moving(torch.tril, torch.tril, "tril")
_moving(torch.triu, torch.triu, "triu")
_moving(torch.as_strided, torch.as_strided, "as_strided")
_moving(torch.Tensor.unfold, torch.Tensor.unfold, "unfold")
_moving(torch.take, torch.take, "take")
_moving(torch.rot90, torch.rot90, "rot90")
_moving(torch.masked_select, torch.masked_select, "masked_select")


def _kept(call: Call, args: Sequence[Any], kwargs: Any, x: Moments) -> Plan | None:
    """An index that leaves the axis of the parts whole."""
    if x.parts is None or x is not args[0]:
        return None
    out = dim = 0
    for key in index_keys(args[1], len(x.dims)):
        if key is None:
            out += 1
            continue
        if dim == x.parts.axis:
            whole = isinstance(key, slice) and range(*key.indices(x.shape[dim])) == range(x.shape[dim])
            return Plan(out, {x: dim}) if whole else None
        if isinstance(key, np.ndarray):
            return None
        out += isinstance(key, slice)
        dim += 1
    return None


@transfer(operator.getitem, "__getitem__", apart=_kept)
def getitem(_: Call, input: Moments, index: Any) -> Flow:
    """Integers, slices, None and Ellipsis; and known arrays of integers or booleans along any axes."""
    return read(input, index)


@transfer(torch.index_select, "index_select")
def index_select(_: Call, input: Moments, dim: int, index: Moments) -> Flow:
    """Rows picked by known integers."""
    return selected(input, pick(input.shape, dim, positions(index)))


@transfer(torch.gather, "gather")
def gather(_: Call, input: Moments, dim: int, index: Moments, **__: Any) -> Flow:
    """One entry of an axis for every position, by known integers."""
    return selected(input, collapsed(input.shape, dim, positions(index))[0])


@transfer(torch.take_along_dim, "take_along_dim")
def take_along_dim(_: Call, input: Moments, indices: Moments, dim: int) -> Flow:
    """As gather, the index broadcast to the tensor."""
    index = positions(indices)
    rank, dim = len(input.dims), dim % len(input.dims)
    wide = [index.shape[d] if d == dim else max(index.shape[d], input.shape[d]) for d in range(rank)]
    tape = Tape()
    full = [input.shape[dim] if d == dim else n for d, n in enumerate(wide)]
    x = tape(reindex(input, lambda m: m.expand(full), lambda g: g.fold(input.shape)))
    y = tape(selected(x, collapsed(full, dim, np.broadcast_to(index, wide))[0]))
    return Flow(y, lambda g: tape.back({y: g}))


@transfer(F.unfold)
def unfold(_: Call, input: Moments, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Flow:
    """Patches of a map: ``(N, C, H, W) → (N, C·k·k, L)``, the columns of a convolution."""
    tape = Tape()
    x = input
    kernel, dilation, padding, stride = (_pair(p) for p in (kernel_size, dilation, padding, stride))
    for i, dim in ((1, -1), (0, -2)):  # the last axis first: the other keeps its place
        at = len(x.dims) - 2 + i if dim == -1 else len(input.dims) - 2
        x = tape(selected(x, _patches(x.shape, at, input.shape[dim], kernel[i], dilation[i], padding[i], stride[i])))
    lead = len(input.dims) - 2
    order = [*range(lead), lead, lead + 2, lead + 1, lead + 3]
    inverse = [order.index(d) for d in range(len(order))]
    *batch, channels, kh, kw, oh, ow = (x.shape[d] for d in order)
    x = tape(reindex(x, lambda m: m.permute(order), lambda g: g.permute(inverse)))
    apart = x.shape
    y = tape(reindex(x, lambda m: m.reshape((*batch, channels * kh * kw, oh * ow)), lambda g: g.reshape(apart)))
    return Flow(y, lambda g: tape.back({y: g}))


def _pair(x: Any) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (int(x[0]), int(x[-1]))


def _patches(shape: Sequence[int], axis: int, n: int, kernel: int, dilation: int, padding: int, stride: int) -> Selection:
    """One spatial axis becomes (tap, window)."""
    windows = (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    source = np.arange(kernel)[:, None] * dilation + np.arange(windows) * stride - padding
    return Selection.within(shape, [axis], np.where((source >= 0) & (source < n), source, -1), [axis, axis + 1])


@transfer(F.fold)
def fold(call: Call, input: Moments, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
         stride: Any = 1) -> Flow:  # fmt: skip
    """Patches added back into a map: the adjoint of :func:`unfold`."""
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    whole = Moments.zeros(call.shape)
    columns = unfold(call, whole, kernel_size, dilation, padding, stride)
    return Flow(columns.back(input)[whole], lambda g: {input: unfold(call, g, kernel_size, dilation, padding, stride).out})


@transfer(torch.repeat_interleave, "repeat_interleave")
def repeat_interleave(_: Call, input: Moments, repeats: Any, dim: int | None = None, **__: Any) -> Flow:
    """Each entry repeated in place: an axis of copies inside the axis (grouped-query attention), or known counts."""
    tape, x = Tape(), input
    if dim is None:
        x = tape(reindex(input, lambda m: m.reshape((math.prod(m.shape),)), lambda g: g.reshape(input.shape)))
        dim = 0
    dim %= len(x.dims)
    if isinstance(repeats, Moments):
        counts = np.broadcast_to(positions(repeats), x.shape[dim])
        y = tape(selected(x, pick(x.shape, dim, np.repeat(np.arange(x.shape[dim]), counts))))
        return Flow(y, lambda g: tape.back({y: g}))
    apart = [*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :]]
    ones = [*x.shape[: dim + 1], 1, *x.shape[dim + 1 :]]
    out = [n * repeats if d == dim else n for d, n in enumerate(x.shape)]
    y = tape(reindex(x, lambda m: m.reshape(ones).expand(apart).reshape(out), lambda g: g.reshape(apart).sum([dim + 1])))
    return Flow(y, lambda g: tape.back({y: g}))


_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@transfer(F.pad, PAD)
def pad(_: Call, input: Moments, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Flow:
    """A constant, or copies of the tensor, around each axis; negative widths crop.

    Zeros around one axis alone (channels that a shortcut lacks) are kept apart from what they surround.
    """
    around = [i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
    if mode == "constant" and not value and len(around) == 1 and min(pad) >= 0:
        axis = len(input.dims) - 1 - around[0]
        start, n = int(pad[2 * around[0]]), input.shape[axis]
        size = start + n + int(pad[2 * around[0] + 1])
        return Flow(embed(input, axis, start, size), lambda g: {input: piece(g, axis, start, start + n)})
    tape, x, inside = Tape(), input, Moments.iid((1,) * len(input.dims), 1.0, 0.0)
    for i in range(len(pad) // 2):
        d, before, after = len(input.dims) - 1 - i, pad[2 * i], pad[2 * i + 1]
        source = np.arange(x.shape[d])[max(-before, 0) : x.shape[d] - max(-after, 0)]
        widths = (max(before, 0), max(after, 0))
        if widths == (0, 0) and len(source) == x.shape[d]:
            continue
        source = np.pad(source, widths, constant_values=-1) if mode == "constant" else np.pad(source, widths, _MODES[mode])
        x = tape(selected(x, Selection.within(x.shape, [d], source, [d])))
        here = Moments.of_array((source >= 0).astype(float))
        inside = product(inside, here.reshape([len(source) if a == d else 1 for a in range(len(x.dims))]))
    out = disjoint(x, inside.scale(-value).shift(value), inside) if value else x
    zeros = mode == "constant" and not value and min(pad) >= 0  # then nothing of Σ g·x is lost

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = tape.back({x: g})
        return {input: replace(grads[input], radial=g.radial)} if zeros and input in grads else grads

    return Flow(out, back)
