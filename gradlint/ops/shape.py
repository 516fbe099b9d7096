"""Reindexing: views, slices, concatenation. Values are moved, never changed; the adjoint moves them back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, concat
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _shape(call: Call) -> tuple[int, ...]:
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    return call.shape


@transfer(
    torch.reshape, "reshape", "view", "reshape_as", "view_as", torch.flatten, "flatten", torch.unflatten, "unflatten",
    torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", torch.ravel, "ravel", torch.atleast_1d, torch.atleast_2d,
)  # fmt: skip
def reshape(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Any view that keeps the order of the entries."""
    return Flow(input.reshape(_shape(call)), lambda g: {input: g.reshape(input.shape)})


@transfer(torch.permute, "permute")
def permute(_: Call, input: Moments, *dims: Any, **kw: Any) -> Flow:
    """Axes in another order."""
    given = kw.get("dims", dims)
    order = list(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else list(given)
    order = [d % len(input.dims) for d in order]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return Flow(input.permute(order), lambda g: {input: g.permute(inverse)})


@transfer(torch.transpose, "transpose", torch.swapaxes, "swapaxes", torch.swapdims, "swapdims")
def transpose(_: Call, input: Moments, dim0: int, dim1: int) -> Flow:
    """Two axes swapped."""
    return Flow(input.transpose(dim0, dim1), lambda g: {input: g.transpose(dim0, dim1)})


@transfer(torch.t, "t", "T", "mT", "H", "adjoint", torch.adjoint)
def matrix_transpose(_: Call, input: Moments) -> Flow:
    """The last two axes swapped (all of a matrix)."""
    if len(input.dims) < 2:
        return Flow(input, lambda g: {input: g})
    return Flow(input.transpose(-1, -2), lambda g: {input: g.transpose(-1, -2)})


@transfer(torch.movedim, "movedim", torch.moveaxis, "moveaxis")
def movedim(call: Call, input: Moments, source: Any, destination: Any) -> Flow:
    """Axes moved to new places."""
    src, dst = ([x] if isinstance(x, int) else list(x) for x in (source, destination))
    rank = len(input.dims)
    src, dst = [s % rank for s in src], [d % rank for d in dst]
    rest = iter(d for d in range(rank) if d not in src)
    return permute(call, input, [src[dst.index(d)] if d in dst else next(rest) for d in range(rank)])


@transfer("expand", "expand_as", torch.broadcast_to, "broadcast_to")
def expand(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Broadcast: the copies carry nothing of their own, their gradients add."""
    return Flow(input.expand(_shape(call)), lambda g: {input: g.fold(input.shape)})


@transfer("repeat", torch.tile, "tile")
def repeat(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Copies along axes: an axis of copies beside the axis itself."""
    out = _shape(call)
    lead = (1,) * (len(out) - len(input.dims)) + input.shape
    copies = [big // small for big, small in zip(out, lead, strict=True)]
    apart = [n for c, small in zip(copies, lead, strict=True) for n in (c, small)]
    ones = [n for small in lead for n in (1, small)]

    def back(g: Moments) -> dict[Moments, Moments]:
        return {input: g.reshape(apart).sum(range(0, len(apart), 2)).reshape(input.shape)}

    return Flow(input.reshape(ones).expand(apart).reshape(out), back)


@transfer(torch.repeat_interleave, "repeat_interleave")
def repeat_interleave(call: Call, input: Moments, repeats: Any, dim: int | None = None, **_: Any) -> Flow:
    """Each entry repeated in place: an axis of copies inside the axis (grouped-query attention)."""
    if not isinstance(repeats, int) or dim is None:
        raise NotImplementedError("repeat counts that differ, or a flattened tensor")
    dim %= len(input.dims)
    apart = [*input.shape[: dim + 1], repeats, *input.shape[dim + 1 :]]
    ones = [*input.shape[: dim + 1], 1, *input.shape[dim + 1 :]]

    def back(g: Moments) -> dict[Moments, Moments]:
        return {input: g.reshape(apart).sum([dim + 1])}

    return Flow(input.reshape(ones).expand(apart).reshape(_shape(call)), back)


def _cut(x: Moments, dim: int, size: int) -> Moments:
    return x if x.shape[dim] == size else x.resize(dim, size)


@transfer(torch.narrow, "narrow")
def narrow(call: Call, input: Moments, dim: int, *_: Any, **__: Any) -> Flow:
    """A slice of one axis; its gradient is zero elsewhere."""
    size = _shape(call)[dim]
    return Flow(_cut(input, dim, size), lambda g: {input: g.pad(dim, input.shape[dim])})


@transfer(torch.select, "select")
def select(_: Call, input: Moments, dim: int, index: int) -> Flow:
    """One index of an axis."""
    small = [1 if d == dim % len(input.dims) else n for d, n in enumerate(input.shape)]
    dropped = [n for d, n in enumerate(small) if d != dim % len(input.dims)]
    return Flow(
        input.resize(dim, 1).reshape(dropped),
        lambda g: {input: _at(g.reshape(small).pad(dim, input.shape[dim]), dim % len(small), index)},
    )


def _at(g: Moments, axis: int, index: int) -> Moments:
    """Remember where along an axis a gradient lives: what runs over time needs to know."""
    return replace(g, taken=((axis, index),))


@transfer(operator.getitem, "__getitem__")
def getitem(call: Call, input: Moments, index: Any) -> Flow:
    """Basic indexing, and indexing by known integers along axes (a gather of rows)."""
    keys = list(index) if isinstance(index, tuple) else [index]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if Ellipsis in [k for k in keys if not isinstance(k, Moments)]:
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(input.dims) - used)
    keys += [slice(None)] * (len(input.dims) - sum(k is not None for k in keys))
    arrays = [k for k in keys if isinstance(k, (Moments, list))]
    if len(arrays) > 1 or any(isinstance(k, bool) for k in keys):
        raise NotImplementedError("indexing by several tensors")
    x, dim = input, 0
    sizes: list[int] = []
    out: list[int] = []
    single: list[tuple[int, int]] = []
    for key in keys:
        if key is None:
            out.append(1)
            continue
        n = input.shape[dim]
        if isinstance(key, slice):
            size = len(range(*key.indices(n)))
            out.append(size)
        elif isinstance(key, int):
            size = 1
            single.append((dim, key))
        else:
            picked = np.asarray(key.value if isinstance(key, Moments) else key)
            if picked.dtype == np.bool_ and picked.ndim > 1:
                raise NotImplementedError("indexing by a mask of several axes")
            size = int(picked.sum()) if picked.dtype == np.bool_ else picked.size
            out.extend([size] if picked.dtype == np.bool_ else list(picked.shape))
        x = _cut(x, dim, size)
        sizes.append(size)
        dim += 1
    if tuple(out) != _shape(call):
        raise NotImplementedError("an index of this form")

    def back(g: Moments) -> dict[Moments, Moments]:
        g = g.reshape(sizes)
        for d, n in enumerate(input.shape):
            g = g.pad(d, n) if sizes[d] <= n else g.resize(d, n).scale((sizes[d] / n) ** 0.5)
        return {input: _at(g, *single[0]) if len(single) == 1 else g}

    return Flow(x.reshape(out), back)


@transfer(torch.index_select, "index_select")
def index_select(call: Call, input: Moments, dim: int, index: Moments) -> Flow:
    """Rows picked by known integers."""
    keys: list[Any] = [slice(None)] * len(input.dims)
    keys[dim] = index
    return getitem(call, input, tuple(keys))


def _pieces(x: Moments, sizes: Sequence[int], dim: int) -> Flow:
    def back(g: tuple[Moments | None, ...]) -> dict[Moments, Moments]:
        return {x: concat([Moments.zeros(_with(x.shape, dim, n)) if p is None else p
                           for p, n in zip(g, sizes, strict=True)], dim)}  # fmt: skip

    return Flow(tuple(_cut(x, dim, n) for n in sizes), back)


def _with(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    out = list(shape)
    out[dim] = size
    return tuple(out)


@transfer(torch.chunk, "chunk")
def chunk(_: Call, input: Moments, chunks: int, dim: int = 0) -> Flow:
    """Equal parts of an axis."""
    n = input.shape[dim]
    size = -(-n // chunks)
    return _pieces(input, [min(size, n - start) for start in range(0, n, size)], dim)


@transfer(torch.split, "split", torch.split_with_sizes, "split_with_sizes")
def split(_: Call, tensor: Moments, split_size_or_sections: Any, dim: int = 0) -> Flow:
    """Parts of an axis by size."""
    n, by = tensor.shape[dim], split_size_or_sections
    sizes = [min(by, n - start) for start in range(0, n, by)] if isinstance(by, int) else list(by)
    return _pieces(tensor, sizes, dim)


@transfer(torch.unbind, "unbind")
def unbind(_: Call, input: Moments, dim: int = 0) -> Flow:
    """Every index of an axis."""
    n = input.shape[dim]
    flow = _pieces(input, [1] * n, dim)
    small = [s for d, s in enumerate(input.shape) if d != dim % len(input.dims)]
    return Flow(
        tuple(p.reshape(small) for p in flow.out),
        lambda g: flow.back(tuple(None if p is None else p.reshape(_with(input.shape, dim, 1)) for p in g)),
    )


@transfer(torch.cat, torch.concat, torch.concatenate)
def cat(_: Call, tensors: Sequence[Moments], dim: int = 0) -> Flow:
    """Parts put together; each takes its own slice of the gradient."""
    return Flow(concat(tensors, dim), lambda g: {t: _cut(g, dim, t.shape[dim]) for t in tensors})


@transfer(torch.stack)
def stack(_: Call, tensors: Sequence[Moments], dim: int = 0) -> Flow:
    """Tensors put together along a new axis."""
    dim %= len(tensors[0].dims) + 1
    shape = (*tensors[0].shape[:dim], 1, *tensors[0].shape[dim:])
    parts = [t.reshape(shape) for t in tensors]
    return Flow(concat(parts, dim), lambda g: {t: g.resize(dim, 1).reshape(t.shape) for t in tensors})


@transfer(torch.flip, "flip", torch.roll, "roll", torch.rot90, torch.fliplr, torch.flipud)
def reorder(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Entries of an axis in another order: exchangeable, so nothing changes."""
    if input.shape != _shape(call):
        raise NotImplementedError("a rotation that changes the shape")
    return Flow(input, lambda g: {input: g})


@transfer(F.pad, torch._C._nn.pad)
def pad(call: Call, input: Moments, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Flow:
    """Zeros (or copies of the border) around an axis; negative widths crop."""
    shape = _shape(call)
    x = input
    for d, n in enumerate(shape):
        if n < x.shape[d] or (mode != "constant" and n != x.shape[d]):
            x = x.resize(d, n)
        elif n > x.shape[d]:
            x = x.pad(d, n)
    if value:
        raise NotImplementedError("padding with a value other than zero")

    def back(g: Moments) -> dict[Moments, Moments]:
        for d, n in enumerate(input.shape):
            if n < g.shape[d]:
                grown = g.shape[d] / n if mode != "constant" else 1.0
                g = g.resize(d, n).scale(grown**0.5)
            else:
                g = g.pad(d, n)
        return {input: g}

    return Flow(x, back)


@transfer(F.pixel_shuffle, torch.pixel_shuffle)
def pixel_shuffle(call: Call, input: Moments, upscale_factor: int) -> Flow:
    """``(C·r², H, W) → (C, H·r, W·r)``."""
    *lead, c, h, w = input.shape
    r, n = upscale_factor, len(lead)
    apart = (*lead, c // r**2, r, r, h, w)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    woven = tuple(apart[d] for d in order)
    return Flow(
        input.reshape(apart).permute(order).reshape(_shape(call)),
        lambda g: {input: g.reshape(woven).permute(inverse).reshape(input.shape)},
    )


@transfer("select_scatter", torch.select_scatter)
def select_scatter(_: Call, input: Moments, src: Moments, dim: int, index: int) -> Flow:
    """``x`` with one index of an axis replaced: the functional form of ``x[i] = src``."""
    n = input.shape[dim]
    row = _with(input.shape, dim, 1)
    rest = input.resize(dim, n - 1)
    return Flow(
        concat([rest, src.reshape(row)], dim),
        lambda g: {input: g.resize(dim, n - 1).pad(dim, n), src: g.resize(dim, 1).reshape(src.shape)},
    )
