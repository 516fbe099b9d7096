"""Known linear maps: entries that are moved by known positions, and known matrices along one axis.

Which positions a map moves is known, so its pair counts are exact. With ``N[T, S]`` the number of ordered pairs of result entries
that share exactly the axes T while their sources share exactly the axes S, and ``n[·]`` the number of pairs of each kind,

    gather   K_y[T] = Σ_S N[T, S] K_x[S] / n_y[T]            spread (its adjoint)   K_x[S] = Σ_T N[T, S] K_y[T] / n_x[S]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from gradlint.moments.array import Moments, from_pairs
from gradlint.moments.tables import Array, Atoms, take

__all__ = ["MAX_MOVED", "Positions", "Selection", "Window"]

Positions = npt.NDArray[np.int64]

MAX_MOVED = 1_000_000
"""More entries than this in one group of axes are not counted."""

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Group:
    """Axes of the source and of the result that depend on each other and on no others.

    Args:
        inside: axes of the source.
        outside: axes of the result.
        counts: ``N[T, S]``, first the axes of the result, then those of the source (those of size > 1); None where the one axis
            is the other.
        valid: share of the result's entries that are not zero.
    """

    inside: tuple[int, ...]
    outside: tuple[int, ...]
    counts: Array | None = None
    valid: float = 1.0


class Selection:
    """An array whose every entry is an entry of another, or zero.

    Args:
        source: shape of the result: the flat index of its source in an array of ``shape``, -1 for zero.
        shape: of the source.

    Raises:
        NotImplementedError: too many entries depend on each other to be counted.
    """

    def __init__(self, source: Positions, shape: Sequence[int]) -> None:
        self.shape, self.result = tuple(shape), source.shape
        self._groups = _groups(source, self.shape)

    @classmethod
    def within(cls, shape: Sequence[int], axes: Sequence[int], source: Positions, places: Sequence[int]) -> Self:
        """Only ``axes`` of the source are looked at: ``source`` indexes their product; its axes are ``places`` of the result."""
        inner = cls(source, [shape[a] for a in axes])
        rest = [a for a in range(len(shape)) if a not in axes]
        kept = [o for o in range(len(rest) + source.ndim) if o not in places]
        self = cls.__new__(cls)
        self.shape = tuple(shape)
        sizes = {**dict(zip(places, source.shape, strict=True)), **{o: shape[a] for a, o in zip(rest, kept, strict=True)}}
        self.result = tuple(sizes[o] for o in range(len(sizes)))
        self._groups = [
            *(_Group((a,), (o,)) for a, o in zip(rest, kept, strict=True) if shape[a] > 1),
            *(
                _Group(tuple(axes[i] for i in g.inside), tuple(places[o] for o in g.outside), g.counts, g.valid)
                for g in inner._groups
            ),
        ]
        return self

    def gather(self, x: Moments) -> Moments:
        """The result's law from the source's."""
        return self._carry(x, forward=True)

    def spread(self, g: Moments) -> Moments:
        """The adjoint: every entry of the result is added to its source."""
        return self._carry(g, forward=False)

    def _carry(self, x: Moments, *, forward: bool) -> Moments:
        groups = sorted(self._groups, key=lambda g: g.counts is not None)  # axes that stay as they are come first
        start, end = (self.shape, self.result) if forward else (self.result, self.shape)
        for group in groups:
            for axis in () if group.counts is None else group.inside if forward else group.outside:
                x = x.whole(axis)
        order = [axis for g in groups for axis in (g.inside if forward else g.outside)]
        alone = [d for d in range(len(start)) if d not in order]  # of size 1
        table, dims, mean = x.permute([*order, *alone]).pairs(), list[Atoms](), x.mean
        lead = 0
        for group in groups:
            here, there = (group.inside, group.outside) if forward else (group.outside, group.inside)
            if group.counts is None:
                dims.append(x.dims[here[0]])
                lead += len(dims[-1])
                continue
            matrix = (
                group.counts if forward else np.moveaxis(group.counts, range(len(group.outside)), range(-len(group.outside), 0))
            )
            matrix = matrix / _pair_numbers([end[d] for d in there])[(...,) + (None,) * len(here)]
            width = len(here)
            table = np.tensordot(table, matrix, (range(lead, lead + width), range(len(there), len(there) + width)))
            dims += [(end[d],) for d in there]
            sizes = math.prod(self.result[d] for d in group.outside) / math.prod(end[d] for d in there)
            mean *= group.valid * sizes
        reached = [axis for g in groups for axis in (g.outside if forward else g.inside)]
        rest = [d for d in range(len(end)) if d not in reached]
        y = from_pairs((*dims, *(() for _ in rest)), mean, table)
        placed = [*reached, *rest]
        return y.permute([placed.index(d) for d in range(len(end))]).capped()


def _pair_numbers(sizes: Sequence[int]) -> Array:
    """Ordered pairs of entries by the axes they share exactly, shape ``(2,) * len(sizes)``."""
    out = np.ones(())
    for n in sizes:
        out = out[..., None] * np.array([n * (n - 1.0), float(n)])
    return out


def _groups(source: Positions, shape: tuple[int, ...]) -> list[_Group]:
    """Axes of size > 1 grouped by dependence."""
    if source.size == 0 or math.prod(shape) == 0:
        raise NotImplementedError("a selection of nothing")
    if max(source.size, math.prod(shape)) > 8 * MAX_MOVED:
        raise NotImplementedError("a selection of too many entries")
    inside = [a for a, n in enumerate(shape) if n > 1]
    outside = [o for o, n in enumerate(source.shape) if n > 1]
    valid = source >= 0
    coordinates = dict(enumerate(np.unravel_index(np.maximum(source, 0), shape)))
    tied = {o for o in outside if bool((valid.any(o) != valid.all(o)).any())}  # along these some entries are zero
    bonds = [({a}, _determining(coordinates[a], valid, outside, tied)) for a in inside]
    bonds += [(set(), {o}) for o in outside if not any(o in touched for _, touched in bonds)]
    parts = _united(bonds)
    holes = np.ones((1,) * source.ndim, dtype=bool)
    for _, touched in parts if tied else []:
        holes = holes & valid.any(tuple(o for o in range(source.ndim) if o not in touched), keepdims=True)
    if not np.array_equal(np.broadcast_to(holes, valid.shape), valid):  # what is zero ties axes together, too
        parts = _united([*parts, (set(), tied)])
    return [
        _group(sorted(axes), sorted(touched), coordinates, valid, shape)
        for axes, touched in sorted(parts, key=lambda part: (sorted(part[1]), sorted(part[0])))
    ]


def _determining(coordinate: Positions, valid: npt.NDArray[np.bool_], outside: list[int], tied: set[int]) -> set[int]:
    """Axes of the result that a coordinate of the source is a function of, as far as entries are not zero."""
    masked = np.where(valid, coordinate, -1)
    varying = {o for o in outside if bool((np.where(valid, coordinate, _NEVER).min(o) < masked.max(o)).any())}
    for found in (varying, varying | tied):
        projected = masked.max(tuple(o for o in range(valid.ndim) if o not in found), keepdims=True)
        if np.array_equal(np.where(valid, projected, -1), masked):
            return found
    return set(outside)


def _united(bonds: Sequence[tuple[set[int], set[int]]]) -> list[tuple[set[int], set[int]]]:
    """Merge what has an axis of the result in common."""
    parts: list[tuple[set[int], set[int]]] = []
    for axes, touched in bonds:
        joined = (set(axes), set(touched))
        apart = []
        for part in parts:
            if part[1] & joined[1]:
                joined = (part[0] | joined[0], part[1] | joined[1])
            else:
                apart.append(part)
        parts = [*apart, joined]
    return parts


def _group(
    axes: list[int], touched: list[int], coordinates: dict[int, Positions], valid: npt.NDArray[np.bool_], shape: tuple[int, ...]
) -> _Group:
    others = tuple(o for o in range(valid.ndim) if o not in touched)
    present = valid.any(others)
    sources = [np.where(valid, coordinates[a], -1).max(others) if others else coordinates[a] for a in axes]
    if len(axes) == len(touched) == 1 and present.all() and np.array_equal(sources[0], np.arange(shape[axes[0]])):
        return _Group((axes[0],), (touched[0],))
    if present.size > MAX_MOVED or len(axes) + len(touched) > 7:
        raise NotImplementedError("a selection of too many entries at once")
    places: list[Positions] = [np.asarray(c)[present] for c in np.indices(present.shape)]
    codes = [s[present] for s in sources]
    sizes = [*present.shape, *(shape[a] for a in axes)]
    counts = _coincidences(places, codes, sizes, int(present.sum()))
    return _Group(tuple(axes), tuple(touched), counts, float(present.mean()))


def _coincidences(places: list[Positions], codes: list[Positions], sizes: list[int], total: int) -> Array:
    """``N[T, S]``: first "share at least", by the squared sizes of the groups with equal coordinates, then "exactly".

    Args:
        places: coordinates in the result of its entries that are not zero, one array per axis.
        codes: coordinates of their sources.
        sizes: of all these axes.
        total: number of such entries.
    """
    axes = [*places, *codes]
    table = np.empty((2,) * len(axes))
    for shared in np.ndindex(*table.shape):
        if places and all(shared[: len(places)]):
            table[shared] = total
            continue
        key, span = np.zeros(total, dtype=np.int64), 1
        for coordinate, size, bit in zip(axes, sizes, shared, strict=True):
            if bit:
                key, span = key * size + coordinate, span * size
        alike = np.bincount(key) if span <= 4 * total + 1000 else np.unique(key, return_counts=True)[1]
        table[shared] = float((alike.astype(np.float64) ** 2).sum())
    for axis in range(table.ndim):
        more, least = take(table, axis, 1), take(table, axis, 0)
        table = np.stack([least - more, more], axis)
    return table


@dataclass(frozen=True)
class Window:
    """A known matrix M along one axis, ``y_o = Σ_i M_oi x_i``, by the sums that second moments need.

    Args:
        inputs: number of its columns.
        outputs: number of its rows.
        squares: ``Σ_oi M²``.
        rows: ``Σ_o (Σ_i M)²``.
        columns: ``Σ_i (Σ_o M)²``.
        total: ``Σ_oi M``.
        trace: ``Σ_o M_oo``.
    """

    inputs: int
    outputs: int
    squares: float
    rows: float
    columns: float
    total: float
    trace: float

    @classmethod
    def of(cls, matrix: npt.ArrayLike) -> Self:
        """The window of a dense matrix, shape (outputs, inputs)."""
        m = np.asarray(matrix, dtype=np.float64)
        rows, columns = m.sum(1), m.sum(0)
        sums = (float((m**2).sum()), float(rows @ rows), float(columns @ columns), float(m.sum()), float(np.trace(m)))
        return cls(m.shape[1], m.shape[0], *sums)

    @classmethod
    def of_taps(cls, inputs: int, places: Positions, weights: Array) -> Self:
        """Of ``weights`` (outputs, taps) at ``places`` of the input; places outside of it count nothing."""
        inside = (places >= 0) & (places < inputs)
        rows = np.broadcast_to(np.arange(len(places))[:, None], places.shape)
        return cls.of_entries((len(places), inputs), rows[inside], places[inside], np.asarray(weights)[inside])

    @classmethod
    def of_entries(cls, shape: tuple[int, int], rows: Positions, columns: Positions, weights: Array) -> Self:
        """Of a sparse matrix of ``shape`` (outputs, inputs); entries at one place add up."""
        places, index = np.unique(rows * shape[1] + columns, return_inverse=True)
        w = np.bincount(index, weights, len(places))
        by_row, by_column = np.bincount(rows, weights, shape[0]), np.bincount(columns, weights, shape[1])
        diagonal = float(np.asarray(weights)[rows == columns].sum())
        sums = (float(w @ w), float(by_row @ by_row), float(by_column @ by_column), float(w.sum()), diagonal)
        return cls(shape[1], shape[0], *sums)

    @property
    def adjoint(self) -> Self:
        """The transposed matrix."""
        return type(self)(self.outputs, self.inputs, self.squares, self.columns, self.rows, self.total, self.trace)

    def against(self, c: Moments, dim: int) -> Moments:
        """The table of Mx and b, for a square M, from the table ``c`` of x and b, which have one shape.

        M and its adjoint give the same: of a table only its averages over pairs of places are known.
        """
        c = c.whole(dim)
        n, a = self.inputs, c.atoms(dim).start
        if n == 1:
            return Moments(c.dims, 0.0, c.v * self.total)
        constant, varying = take(c.v, a, 0), take(c.v, a, 1)
        differ = (self.total - self.trace) / (n * (n - 1))  # the average weight off the diagonal
        v = np.stack([constant * (self.total / n) + varying * differ, varying * (self.trace / n - differ)], a)
        return Moments(c.dims, 0.0, v)

    def __call__(self, x: Moments, dim: int) -> Moments:
        """Apply it along one axis."""
        x = x.whole(dim)
        dim %= len(x.dims)
        table, a = x.pairs(), x.atoms(dim).start
        same, differ = (take(table, a, 1), take(table, a, 0)) if x.dims[dim] else (table, table)
        mean, n = x.mean * self.total / self.outputs, self.outputs
        out = (self.squares * same + (self.rows - self.squares) * differ) / n
        atoms: Atoms = ()
        if n > 1:
            crossing = self.total**2 - self.rows - self.columns + self.squares
            other = ((self.columns - self.squares) * same + crossing * differ) / (n * (n - 1))
            out, atoms = np.stack([other, out], a), (n,)
        return from_pairs((*x.dims[:dim], atoms, *x.dims[dim + 1 :]), mean, out)
