"""A call that is linear in its one live tensor, as a matrix on tables.

The weights of two calls of one function are the same law, so a hundred pairs of calls have one matrix: it is measured once,
column by column, with the transfer function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gradlint.covary.ledger import Record
from gradlint.moments import Array, Moments
from gradlint.ops import Flow

__all__ = ["TableMap", "folded", "live_slot"]

_MOST = 6
"""Tables of more atoms have too many columns."""

Dims = tuple[tuple[int, ...], ...]


def live_slot(record: Record, fixed: list[bool]) -> int | None:
    """The one tensor that is neither a weight nor a constant; None if there are several or none.

    None too where weights and bias both have a mean: then the table of the outputs is not affine in that of the inputs.
    """
    live = [slot for slot, known in enumerate(fixed) if not known]
    biased = [h for h, known in zip(record.handles, fixed, strict=True) if known and h.mean and h.value is None]
    return live[0] if len(live) == 1 and len(biased) < 2 else None


class TableMap:
    """Both directions of a call on tables of given atoms.

    Args:
        record: the call.
        slot: its live tensor.
        dims: atoms of the tables.
    """

    def __init__(self, record: Record, slot: int, dims: Dims) -> None:
        self._record, self._slot = record, slot
        empty = np.zeros((2,) * sum(map(len, dims)))
        self._handle, self._flow = self._run(Moments(dims, 0.0, empty))
        self._base = [None if out is None else folded(out) for out in _members(self._flow.out)]
        self._forth = _columns(dims, lambda x: [None if o is None else folded(o) for o in _members(self._run(x)[1].out)])
        self._back: dict[tuple[int, Dims], tuple[Dims, Array]] = {}

    def _run(self, x: Moments) -> tuple[Moments, Flow]:
        record = self._record
        x = replace(x)
        args, kwargs = record.rebuilt({record.handles[self._slot]: x})
        assert record.op is not None  # noqa: S101
        return x, record.op.function(record.call, *args, **kwargs)

    def forth(self, raw: Moments) -> list[Moments | None]:
        """``E[y_i y'_j]`` of every output, from ``E[x_i x'_j]`` (of mean 0)."""
        x = raw.v.reshape(-1)
        made: list[Moments | None] = []
        for base, columns in zip(self._base, self._forth, strict=True):
            if base is None or columns is None:
                made.append(None)
                continue
            v = base.v.reshape(-1) + (columns - base.v.reshape(-1, 1)) @ x
            made.append(Moments(base.dims, 0.0, v.reshape(base.v.shape)))
        return made

    def back(self, index: int, table: Moments) -> Moments:
        """The table of what is sent back to the tensor, from that of the gradients of output ``index``."""
        key = index, table.dims
        if key not in self._back:
            several = isinstance(self._flow.out, tuple)

            def send(g: Moments) -> list[Moments | None]:
                members = [g if i == index else None for i in range(len(self._base))]
                return [folded(self._flow.back(tuple(members) if several else g)[self._handle])]

            (columns,) = _columns(table.dims, send)
            (first,) = send(Moments(table.dims, 0.0, np.zeros_like(table.v)))
            assert first is not None  # noqa: S101
            assert columns is not None  # noqa: S101
            self._back[key] = first.dims, columns
        dims, columns = self._back[key]
        return Moments(dims, 0.0, (columns @ table.v.reshape(-1)).reshape((2,) * sum(map(len, dims))))


def _members(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def folded(x: Moments) -> Moments:
    """The mean as a part of the constant component."""
    v = x.v.copy()
    v[(0,) * v.ndim] += x.mean**2
    return Moments(x.dims, 0.0, v)


def _columns(dims: Dims, act: Callable[[Moments], list[Moments | None]]) -> list[Array | None]:
    """What ``act`` makes of each component alone: for every member of its result a matrix."""
    rank = sum(map(len, dims))
    if rank > _MOST:
        raise NotImplementedError("too many atoms")
    found: list[list[Array] | None] = []
    for index in np.ndindex(*(2,) * rank):
        v = np.zeros((2,) * rank)
        v[index] = 1.0
        outs = act(Moments(dims, 0.0, v))
        found = found or [None if out is None else [] for out in outs]
        for column, out in zip(found, outs, strict=True):
            if column is not None and out is not None:
                column.append(out.v.reshape(-1))
    return [None if column is None else np.stack(column, 1) for column in found]
