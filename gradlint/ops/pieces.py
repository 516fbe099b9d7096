"""Slices and their putting together. What a slice leaves out gets no gradient; unlike pieces stay parts of their own."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gradlint.moments import Moments, alike, concat, embed, join, piece
from gradlint.ops.apart import Plan
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _shape(call: Call) -> tuple[int, ...]:
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    return call.shape


@transfer(torch.narrow, "narrow")
def narrow(call: Call, input: Moments, dim: int, start: Any, *_: Any, **__: Any) -> Flow:
    """A slice of one axis; its gradient is zero elsewhere."""
    n, size = input.shape[dim], _shape(call)[dim]
    if isinstance(start, Moments):
        if start.value is None:
            raise NotImplementedError("a slice from an unknown place")
        start = start.value
    first = int(start) % n
    return Flow(piece(input, dim, first, first + size), lambda g: {input: embed(g, dim, first, n)})


@transfer(torch.select, "select")
def select(_: Call, input: Moments, dim: int, index: int) -> Flow:
    """One index of an axis."""
    dim, n = dim % len(input.dims), input.shape[dim]
    first = int(index) % n
    small = [1 if d == dim else size for d, size in enumerate(input.shape)]
    dropped = [size for d, size in enumerate(small) if d != dim]
    return Flow(
        piece(input, dim, first, first + 1).reshape(dropped),
        lambda g: {input: embed(g.reshape(small), dim, first, n)},
    )


def _keys(input: Moments, index: Any) -> list[Any]:
    """One key per axis of the input, and None for each new axis."""
    keys = list(index) if isinstance(index, tuple) else [index]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if Ellipsis in [k for k in keys if not isinstance(k, Moments)]:
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(input.dims) - used)
    return keys + [slice(None)] * (len(input.dims) - sum(k is not None for k in keys))


def _kept(call: Call, args: Sequence[Any], kwargs: Any, x: Moments) -> Plan | None:
    """An index that leaves the axis of the parts whole."""
    if x.parts is None or x is not args[0]:
        return None
    out = dim = 0
    for key in _keys(x, args[1]):
        if key is None:
            out += 1
            continue
        if dim == x.parts.axis:
            whole = isinstance(key, slice) and range(*key.indices(x.shape[dim])) == range(x.shape[dim])
            return Plan(out, {x: dim}) if whole else None
        if isinstance(key, Moments | list):
            return None
        out += isinstance(key, slice)
        dim += 1
    return None


@transfer(operator.getitem, "__getitem__", apart=_kept)
def getitem(call: Call, input: Moments, index: Any) -> Flow:
    """Basic indexing, and indexing by known integers along axes (a gather of rows)."""
    keys = _keys(input, index)
    arrays = [k for k in keys if isinstance(k, (Moments, list))]
    if len(arrays) > 1 or any(isinstance(k, bool) for k in keys):
        raise NotImplementedError("indexing by several tensors")
    x, dim = input, 0
    sizes: list[int] = []
    out: list[int] = []
    starts: list[int | None] = []  # where one stretch was taken from an axis
    for key in keys:
        if key is None:
            out.append(1)
            continue
        n, start = input.shape[dim], None
        if isinstance(key, slice):
            where = range(*key.indices(n))
            size, start = len(where), where.start if where.step == 1 else None
            out.append(size)
        elif isinstance(key, int):
            size, start = 1, key % n
        else:
            picked = np.asarray(key.value if isinstance(key, Moments) else key)
            if picked.dtype == np.bool_ and picked.ndim > 1:
                raise NotImplementedError("indexing by a mask of several axes")
            size = int(picked.sum()) if picked.dtype == np.bool_ else picked.size
            out.extend([size] if picked.dtype == np.bool_ else list(picked.shape))
        x = _taken(x, dim, start, size)
        sizes.append(size)
        starts.append(start)
        dim += 1
    if tuple(out) != _shape(call):
        raise NotImplementedError("an index of this form")

    def back(g: Moments) -> dict[Moments, Moments]:
        g = g.reshape(sizes)
        for d in sorted(range(len(sizes)), key=lambda d: starts[d] is not None):  # the last one leaves its parts
            g = _returned(g, d, starts[d], input.shape[d])
        return {input: g}

    return Flow(x.reshape(out), back)


def _taken(x: Moments, dim: int, start: int | None, size: int) -> Moments:
    if x.shape[dim] == size:
        return x
    return x.resize(dim, size) if start is None else piece(x, dim, start, start + size)


def _returned(g: Moments, dim: int, start: int | None, n: int) -> Moments:
    """A gradient on some entries of an axis, on the whole axis."""
    size = g.shape[dim]
    if start is not None:
        return embed(g, dim, start, n)
    return g.pad(dim, n) if size <= n else g.resize(dim, n).scale((size / n) ** 0.5)


@transfer(torch.index_select, "index_select")
def index_select(call: Call, input: Moments, dim: int, index: Moments) -> Flow:
    """Rows picked by known integers."""
    keys: list[Any] = [slice(None)] * len(input.dims)
    keys[dim] = index
    return getitem(call, input, tuple(keys))


def _pieces(x: Moments, sizes: Sequence[int], dim: int) -> Flow:
    def back(g: tuple[Moments | None, ...]) -> dict[Moments, Moments]:
        zeros = [Moments.zeros(_with(x.shape, dim, n)) for n in sizes]
        return {x: join([zero if p is None else p for p, zero in zip(g, zeros, strict=True)], dim)}

    ends = [0, *itertools.accumulate(sizes)]
    return Flow(tuple(piece(x, dim, a, b) for a, b in itertools.pairwise(ends)), back)


def _across(call: Call, args: Sequence[Any], kwargs: Any, x: Moments) -> Plan | None:
    """Pieces of another axis than that of the parts."""
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    return None if x.parts is None or x.parts.axis == dim % len(x.dims) else Plan(x.parts.axis, {x: x.parts.axis})


def _with(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    out = list(shape)
    out[dim] = size
    return tuple(out)


@transfer(torch.chunk, "chunk", apart=_across)
def chunk(_: Call, input: Moments, chunks: int, dim: int = 0) -> Flow:
    """Equal parts of an axis."""
    n = input.shape[dim]
    size = -(-n // chunks)
    return _pieces(input, [min(size, n - start) for start in range(0, n, size)], dim)


@transfer(torch.split, "split", torch.split_with_sizes, "split_with_sizes", apart=_across)
def split(_: Call, tensor: Moments, split_size_or_sections: Any, dim: int = 0) -> Flow:
    """Parts of an axis by size."""
    n, by = tensor.shape[dim], split_size_or_sections
    sizes = [min(by, n - start) for start in range(0, n, by)] if isinstance(by, int) else list(by)
    return _pieces(tensor, sizes, dim)


def _unbound(call: Call, args: Sequence[Any], kwargs: Any, x: Moments) -> Plan | None:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(x.dims)
    if x.parts is None or x.parts.axis == dim:
        return None
    return Plan(x.parts.axis - (x.parts.axis > dim), {x: x.parts.axis})


@transfer(torch.unbind, "unbind", apart=_unbound)
def unbind(_: Call, input: Moments, dim: int = 0) -> Flow:
    """Every index of an axis."""
    n = input.shape[dim]
    flow = _pieces(input, [1] * n, dim)
    small = [s for d, s in enumerate(input.shape) if d != dim % len(input.dims)]
    return Flow(
        tuple(p.reshape(small) for p in flow.out),
        lambda g: flow.back(tuple(None if p is None else p.reshape(_with(input.shape, dim, 1)) for p in g)),
    )


def _beside(call: Call, args: Sequence[Any], kwargs: Any, x: Moments) -> Plan | None:
    """Put together along another axis than that of the parts, which all of them have."""
    tensors = args[0] if args else kwargs["tensors"]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if x.parts is None or x.parts.axis == dim % len(x.dims):
        return None
    return Plan(x.parts.axis, dict.fromkeys(tensors, x.parts.axis))


def _put_together(tensors: Sequence[Moments], dim: int) -> Moments:
    """Along an axis; what is not exchangeable with the rest stays a part of its own."""
    dim %= len(tensors[0].dims)
    if alike(tensors, dim) and not any(t.parts for t in tensors):
        return concat(tensors, dim)
    parted = [law for t in tensors for law in (t.parts.laws if t.parts is not None and t.parts.axis == dim else (t,))]
    return join(parted, dim)


@transfer(torch.cat, torch.concat, torch.concatenate, apart=_beside)
def cat(_: Call, tensors: Sequence[Moments], dim: int = 0) -> Flow:
    """Parts put together; each takes its own slice of the gradient."""
    ends = [0, *itertools.accumulate(t.shape[dim] for t in tensors)]
    return Flow(
        _put_together(tensors, dim),
        lambda g: {t: piece(g, dim, a, b) for t, (a, b) in zip(tensors, itertools.pairwise(ends), strict=True)},
    )


@transfer(torch.stack)
def stack(_: Call, tensors: Sequence[Moments], dim: int = 0) -> Flow:
    """Tensors put together along a new axis."""
    dim %= len(tensors[0].dims) + 1
    shape = (*tensors[0].shape[:dim], 1, *tensors[0].shape[dim:])
    parts = [t.reshape(shape) for t in tensors]
    return Flow(
        _put_together(parts, dim),
        lambda g: {t: piece(g, dim, i, i + 1).reshape(t.shape) for i, t in enumerate(tensors)},
    )


@transfer("select_scatter", torch.select_scatter)
def select_scatter(_: Call, input: Moments, src: Moments, dim: int, index: int) -> Flow:
    """``x`` with one index of an axis replaced: the functional form of ``x[i] = src``."""
    n = input.shape[dim]
    row, at = _with(input.shape, dim, 1), index % n
    before, after = piece(input, dim, 0, at) if at else None, piece(input, dim, at + 1, n) if at + 1 < n else None

    def back(g: Moments) -> dict[Moments, Moments]:
        kept = [part for part in (piece(g, dim, 0, at) if at else None, Moments.zeros(row),
                                  piece(g, dim, at + 1, n) if at + 1 < n else None) if part is not None]  # fmt: skip
        return {input: join(kept, dim, g), src: piece(g, dim, at, at + 1).reshape(src.shape)}

    return Flow(_put_together([part for part in (before, src.reshape(row), after) if part is not None], dim), back)
