"""Slices and their putting together. What a slice leaves out gets no gradient; unlike pieces stay parts of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from gradlint.moments import Moments, alike, concat, embed, join, piece
from gradlint.ops.apart import Plan
from gradlint.ops.places import named, touched
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


def _overwritten(input: Moments, src: Moments, dim: int, start: int, stop: int) -> Flow:
    """``input`` with ``src`` in the place of a stretch of one axis."""
    dim, n = dim % len(input.dims), input.shape[dim]
    shape = _with(input.shape, dim, stop - start)
    ends = [(a, b) for a, b in ((0, start), (start, stop), (stop, n)) if a < b]

    def back(g: Moments) -> dict[Moments, Moments]:
        kept = [Moments.zeros(shape) if a == start else piece(g, dim, a, b) for a, b in ends]
        return {input: join(kept, dim, g), src: piece(g, dim, start, stop).reshape(src.shape)}

    parts = [src.reshape(shape) if a == start else piece(input, dim, a, b) for a, b in ends]
    return Flow(_put_together(parts, dim), back)


@transfer(torch.select_scatter, "select_scatter")
def select_scatter(_: Call, input: Moments, src: Moments, dim: int, index: int) -> Flow:
    """``x`` with one index of an axis replaced: the functional form of ``x[i] = src``."""
    at = index % input.shape[dim]
    return _overwritten(input, src, dim, at, at + 1)


@transfer(torch.slice_scatter, "slice_scatter")
def slice_scatter(_: Call, input: Moments, src: Moments, dim: int = 0, start: int | None = None, end: int | None = None,
                  step: int = 1) -> Flow:  # fmt: skip
    """``x`` with a slice of an axis replaced: the functional form of ``x[a:b] = src``."""
    where = range(*slice(start, end, step).indices(input.shape[dim]))
    if step == 1:
        return _overwritten(input, src, dim, where.start, where.stop)
    key = (*[slice(None)] * (dim % len(input.dims)), slice(start, end, step))
    return named(input.shape, key).overwritten(input, src, touched(input.shape, key))
