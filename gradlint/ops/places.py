"""What an index names: known positions as selections, and reading and writing at them.

Every write is the adjoint of the read at the same place: what is written is spread over the tensor's entries; what was there
stays where nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradlint.moments import Array, Moments, Selection, disjoint, embed, piece, product
from gradlint.ops.primitives import Tape, reindex
from gradlint.ops.registry import Flow

__all__ = [
    "Place",
    "collapsed",
    "index_keys",
    "named",
    "pick",
    "positions",
    "read",
    "selected",
    "selection",
    "touched",
]

MARKED = 8_000_000
"""Tensors up to this size are marked entry by entry to see where an op moves them."""


def positions(x: Moments) -> np.ndarray[Any, Any]:
    """The integers or booleans of a known index.

    Raises:
        NotImplementedError: they are not known.
    """
    if x.value is None:
        raise NotImplementedError("an index that is not known")
    return np.asarray(x.value)


def _real(tree: Any) -> Any:
    """Known tensors among the arguments as tensors again."""
    if isinstance(tree, Moments):
        return torch.as_tensor(np.array(positions(tree)))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_real(x) for x in tree)
    return tree


def selection(function: Callable[..., Any], shape: Sequence[int], *args: Any, **kwargs: Any) -> Selection:
    """Where a function that only moves entries takes them from, found by running it on their numbers."""
    if math.prod(shape) > MARKED:
        raise NotImplementedError("too many entries to follow")
    marks = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(list(shape))
    moved = function(marks, *_real(args), **{k: _real(v) for k, v in kwargs.items()})
    return Selection(moved.numpy().astype(np.int64) - 1, shape)


def selected(x: Moments, found: Selection) -> Flow:
    """The flow of a selection."""
    return reindex(x, found.gather, found.spread)


def read(input: Moments, index: Any) -> Flow:
    """``input[index]``: integers, slices, None and Ellipsis, and known arrays of integers or booleans along any axes."""
    keys = index_keys(index, len(input.dims))
    if any(not _is_basic(k) for k in keys):
        return _advanced(input, keys)
    x, dim = input, 0
    sizes: list[int] = []
    out: list[int] = []
    starts: list[int | None] = []  # where one stretch was taken from an axis
    for key in keys:
        if key is None:
            out.append(1)
            continue
        n = input.shape[dim]
        where = range(*key.indices(n)) if isinstance(key, slice) else range(key % n, key % n + 1)
        out += [len(where)] if isinstance(key, slice) else []
        start = where.start if where.step == 1 else None
        x = x.resize(dim, len(where)) if start is None else piece(x, dim, start, where.stop)
        sizes.append(len(where))
        starts.append(start)
        dim += 1

    def back(g: Moments) -> dict[Moments, Moments]:
        g = g.reshape(sizes)
        for d in sorted(range(len(sizes)), key=lambda d: starts[d] is not None):  # the last one leaves its parts
            start, n = starts[d], input.shape[d]
            g = g.pad(d, n) if start is None else embed(g, d, start, n)
        return {input: g}

    return Flow(x.reshape(out), back)


def _is_basic(key: Any) -> bool:
    return key is None or isinstance(key, slice) or (isinstance(key, int) and not isinstance(key, bool))


def index_keys(index: Any, rank: int) -> list[Any]:
    """One key for every axis (a mask of several axes stands for all of them), None for new ones."""
    keys = [
        np.asarray(k) if isinstance(k, (list, tuple, np.ndarray)) else positions(k) if isinstance(k, Moments) else k
        for k in (index if isinstance(index, tuple) else [index])
    ]
    keys = [int(k) if isinstance(k, np.ndarray) and k.ndim == 0 and k.dtype != np.bool_ else k for k in keys]
    if any(isinstance(k, bool) or (isinstance(k, np.ndarray) and k.ndim == 0) for k in keys):
        raise NotImplementedError("indexing by a single boolean")
    used = sum(k.ndim if isinstance(k, np.ndarray) and k.dtype == np.bool_ else 1 for k in keys if k is not None and k is not ...)
    at = next((i for i, k in enumerate(keys) if k is ...), len(keys))
    return [*keys[:at], *[slice(None)] * (rank - used), *keys[at + 1 :]]


def _advanced(input: Moments, keys: list[Any]) -> Flow:
    """First what is basic (integers drop their axis, as in torch), then all arrays at once."""
    tape, dim = Tape(), 0
    basic: list[Any] = []
    arrays: list[np.ndarray[Any, Any]] = []
    axes: list[int] = []
    for key in keys:
        if _is_basic(key):
            basic.append(key)
            dim += key is None or isinstance(key, slice)
            continue
        parts = list(key.nonzero()) if key.dtype == np.bool_ else [key]
        arrays += parts
        axes += range(dim, dim + len(parts))
        dim += len(parts)
        basic += [slice(None)] * len(parts)
    x = tape(read(input, tuple(basic)))
    picked = np.broadcast_arrays(*arrays)
    sizes = [x.shape[a] for a in axes]
    source = np.ravel_multi_index([p % n for p, n in zip(picked, sizes, strict=True)], sizes)
    together = axes[-1] - axes[0] == len(axes) - 1
    at = axes[0] if together else 0
    y = tape(selected(x, Selection.within(x.shape, axes, source, range(at, at + source.ndim))))
    return Flow(y, lambda g: tape.back({y: g}))


def pick(shape: Sequence[int], dim: int, index: np.ndarray[Any, Any]) -> Selection:
    """``index`` along one axis, whose place its own axes take."""
    dim %= len(shape)
    return Selection.within(shape, [dim], index % shape[dim], range(dim, dim + index.ndim))


def collapsed(shape: Sequence[int], dim: int, index: np.ndarray[Any, Any]) -> tuple[Selection, np.ndarray[Any, Any], list[int]]:
    """What ``gather`` along an axis takes; the index and the sizes with 1 for the axes that it does not vary over."""
    dim %= len(shape)
    sizes = list(shape)
    for d in range(len(sizes)):
        if d != dim and index.shape[d] == sizes[d] and (index == index.take([0], d)).all():
            index, sizes[d] = index.take([0], d), 1
    axes = [d for d, n in enumerate(shape) if sizes[d] == n]
    grid = list(np.indices(index.shape))
    grid[dim] = index
    source = np.ravel_multi_index(grid, sizes).reshape([index.shape[d] for d in axes])
    return Selection.within(shape, axes, source, axes), index, sizes


@dataclass(frozen=True)
class Place:
    """A part of a tensor.

    Args:
        shape: of the part.
        read: the part's law from the whole's.
        spread: the adjoint.
    """

    shape: tuple[int, ...]
    read: Callable[[Moments], Moments]
    spread: Callable[[Moments], Moments]

    def added(self, base: Moments, part: Moments, alpha: float = 1) -> Flow:
        """``base`` plus ``part`` here."""
        out = base + self.spread(part.scale(alpha).expand(self.shape))
        return Flow(out, lambda g: {base: g, part: self.read(g).scale(alpha).fold(part.shape)})

    def overwritten(self, base: Moments, part: Any, touched: Array) -> Flow:
        """``base`` with ``part`` (a tensor that broadcasts, or a number) here; ``touched`` is 1 there, and broadcasts too."""
        if round(float(touched.mean()) * math.prod(base.shape)) != math.prod(self.shape):
            raise NotImplementedError("an entry that is written twice")
        keep = Moments.of_array(1.0 - touched)
        if not isinstance(part, Moments):
            number = self.spread(Moments.iid(self.shape, float(part), 0.0))
            return Flow(disjoint(product(base, keep), number, keep), lambda g: {base: product(g, keep)})
        small = part.reshape(part.shape[max(len(part.dims) - len(self.shape), 0) :])  # more axes than there are here: of size 1
        out = disjoint(product(base, keep), self.spread(small.expand(self.shape)), keep)
        return Flow(out, lambda g: {base: product(g, keep), part: self.read(g).fold(small.shape).reshape(part.shape)})


def named(shape: Sequence[int], index: Any) -> Place:
    """The part of a tensor of this shape that an index names."""
    whole = Moments.zeros(shape)
    flow = read(whole, index)
    return Place(flow.out.shape, lambda m: read(m, index).out, lambda m: flow.back(m)[whole])


def touched(shape: Sequence[int], index: Any) -> Array:
    """Which entries an index names; axes that it takes whole have size 1."""
    sizes: list[int] = []
    keys = index_keys(index, len(shape))
    for key in keys:
        if key is not None:
            width = key.ndim if isinstance(key, np.ndarray) and key.dtype == np.bool_ else 1
            whole = isinstance(key, slice) and key == slice(None)
            sizes += [1] if whole else shape[len(sizes) : len(sizes) + width]
    if math.prod(sizes) > MARKED:
        raise NotImplementedError("too many entries to follow")
    marks = np.zeros(sizes)
    marks[tuple(keys)] = 1.0
    return marks
