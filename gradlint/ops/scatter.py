"""Writing by index: a tensor with some of its entries overwritten or added to, at known positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gradlint.moments import Array, Moments
from gradlint.ops.places import Place, collapsed, named, pick, positions, selection, touched
from gradlint.ops.primitives import Tape, reindex
from gradlint.ops.registry import Call, Flow, transfer
from gradlint.trace import mutation

__all__: list[str] = []


@transfer(mutation.setitem)
def setitem(_: Call, base: Moments, index: Any, value: Any) -> Flow:
    """``base[index] = value`` for any index whose integers and masks are known."""
    return named(base.shape, index).overwritten(base, value, touched(base.shape, index))


@transfer(torch.index_put, "index_put")
def index_put(call: Call, input: Moments, indices: Any, values: Moments, accumulate: bool = False) -> Flow:
    """As :func:`setitem`, or ``+=``."""
    index = tuple(indices)
    return named(input.shape, index).added(input, values) if accumulate else setitem(call, input, index, values)


def _at(dim: int, rank: int, key: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * (dim % rank), key)


@transfer(torch.index_copy, "index_copy")
def index_copy(call: Call, input: Moments, dim: int, index: Moments, source: Moments) -> Flow:
    """Rows overwritten."""
    return setitem(call, input, _at(dim, len(input.dims), index), source)


@transfer(torch.index_fill, "index_fill")
def index_fill(call: Call, input: Moments, dim: int, index: Moments, value: Any) -> Flow:
    """Rows set to a number."""
    return setitem(call, input, _at(dim, len(input.dims), index), value)


@transfer(torch.masked_scatter, "masked_scatter")
def masked_scatter(call: Call, input: Moments, mask: Moments, source: Moments) -> Flow:
    """The masked entries overwritten in order (the features of an image in the place of its tokens)."""
    where = np.broadcast_to(positions(mask), input.shape)
    while where.ndim > 1 and (where == where[..., :1]).all():  # whole rows
        where = where[..., 0]
    row = input.shape[where.ndim :]
    rows = (math.prod(source.shape) // math.prod(row), *row)
    tape = Tape()
    flat = tape(reindex(source, lambda m: m.reshape(rows), lambda g: g.reshape(source.shape)))
    part = tape(reindex(flat, lambda m: m.resize(0, int(where.sum())), lambda g: g.pad(0, rows[0])))
    flow = setitem(call, input, (where,), part)

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = flow.back(g)
        return {input: grads[input], **tape.back({part: grads[part]})}

    return Flow(flow.out, back)


@transfer(torch.index_add, "index_add")
def index_add(_: Call, input: Moments, dim: int, index: Moments, source: Moments, *, alpha: float = 1) -> Flow:
    """Rows added to: a graph's messages to its nodes, the outputs of experts to their tokens."""
    found = pick(input.shape, dim, positions(index))
    return Place(found.result, found.gather, found.spread).added(input, source, alpha)


def _cells(base: Moments, dim: int, index: Moments) -> tuple[Place, Array, Sequence[int]]:
    """What a scatter along an axis writes to, which entries that are, and the shape of what is written."""
    at = positions(index)
    found, small, sizes = collapsed(base.shape, dim, at)
    marks = torch.zeros(sizes, dtype=torch.float64).scatter(dim, torch.as_tensor(small), 1.0)
    return Place(found.result, found.gather, found.spread), marks.numpy(), at.shape


@transfer(torch.scatter, "scatter")
def scatter(_: Call, input: Moments, dim: int, index: Moments, src: Any = None, value: Any = None, *,
            reduce: str | None = None) -> Flow:  # fmt: skip
    """One entry of an axis overwritten for every position of the index, or added to."""
    place, marks, shape = _cells(input, dim, index)
    part = value if src is None else src
    if isinstance(part, Moments) and part.dims and part.shape != tuple(shape):
        raise NotImplementedError("a source larger than its index")
    if reduce is None:
        return place.overwritten(input, part, marks)
    if reduce != "add" or not isinstance(part, Moments):
        raise NotImplementedError(f"scatter with the reduction {reduce}")
    return place.added(input, part)


@transfer(torch.scatter_add, "scatter_add")
def scatter_add(call: Call, input: Moments, dim: int, index: Moments, src: Moments) -> Flow:
    """One entry of an axis added to for every position of the index."""
    return scatter(call, input, dim, index, src, reduce="add")


@transfer(torch.scatter_reduce, "scatter_reduce")
def scatter_reduce(call: Call, input: Moments, dim: int, index: Moments, src: Moments, reduce: str, *,
                   include_self: bool = True) -> Flow:  # fmt: skip
    """As :func:`scatter_add` for sums."""
    if reduce != "sum" or not include_self:
        raise NotImplementedError(f"scatter with the reduction {reduce}")
    return scatter_add(call, input, dim, index, src)


def _through(base: Moments, part: Moments, view: Callable[..., torch.Tensor], *args: Any) -> Flow:
    """Written through a view."""
    found = selection(view, base.shape, *args)
    marks = torch.zeros(base.shape, dtype=torch.float64)
    view(marks, *args).fill_(1.0)
    return Place(found.result, found.gather, found.spread).overwritten(base, part, marks.numpy())


@transfer(mutation.view_scatter, torch.as_strided_scatter, "as_strided_scatter")
def view_scatter(_: Call, base: Moments, part: Moments, size: Any, stride: Any, offset: int | None = None) -> Flow:
    """A view of any geometry overwritten."""
    return _through(base, part, torch.as_strided, tuple(size), tuple(stride), offset)


@transfer(torch.diagonal_scatter, "diagonal_scatter")
def diagonal_scatter(_: Call, input: Moments, src: Moments, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Flow:
    """A diagonal overwritten."""
    return _through(input, src, torch.diagonal, offset, dim1, dim2)
