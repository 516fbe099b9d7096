"""Tables of components and of pair moments: arrays of shape ``(2,) * number of atoms``, index 1 = varies / is shared."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "MAX_ATOMS",
    "Array",
    "Atoms",
    "Dims",
    "common_dims",
    "differences",
    "merge",
    "merged_atoms",
    "origin",
    "pair_averages",
    "pieces",
    "place",
    "refine",
    "split",
    "sum_subsets",
    "take",
]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Atoms = tuple[int, ...]
Dims = tuple[Atoms, ...]

MAX_ATOMS = 8
"""A table of 2^8 numbers; finer structure is averaged within an axis."""


@lru_cache(4096)
def refine(a: Atoms, b: Atoms) -> Atoms | None:
    """The coarsest common refinement of two factorisations of one axis, or None if their boundaries cross."""
    if a == b:
        return a
    strides = {1}
    for atoms in (a, b):
        stride = 1
        for n in reversed(atoms):
            stride *= n
            strides.add(stride)
    ordered = sorted(strides, reverse=True)
    if any(big % small for big, small in pairwise(ordered)):
        return None
    return tuple(big // small for big, small in pairwise(ordered))


def take(table: Array, axis: int, index: int) -> Array:
    """One index of an axis."""
    out: Array = table[(slice(None),) * axis + (index,)]
    return out


@cache
def _halves(ndim: int) -> tuple[tuple[Any, Any], ...]:
    """For every axis the index of its first half and of its second."""
    return tuple(((slice(None),) * axis + (0, ...), (slice(None),) * axis + (1, ...)) for axis in range(ndim))


def sum_subsets(v: Array) -> Array:
    """Components to pair moments (about the mean): the sum over all subsets of the shared atoms."""
    table = np.array(v, dtype=np.float64, order="C")
    for first, second in _halves(table.ndim):
        half = table[second]
        np.add(half, table[first], out=half)
    return table


def differences(table: Array) -> Array:
    """Pair moments to components: the inverse of :func:`sum_subsets`."""
    v = np.array(table, dtype=np.float64, order="C")
    for first, second in _halves(v.ndim):
        half = v[second]
        np.subtract(half, v[first], out=half)
    return v


@lru_cache(4096)
def common_dims(a: Dims, b: Dims) -> Dims:
    """The atoms that two broadcast tensors have in common: per axis the coarsest common refinement, else one atom."""
    rank = max(len(a), len(b))
    out: list[Atoms] = []
    for x, y in zip(((),) * (rank - len(a)) + a, ((),) * (rank - len(b)) + b, strict=True):
        joined = refine(x, y) if x and y else x or y
        out.append((math.prod(x),) if joined is None else joined)
    return tuple(out)


def merged_atoms(atoms: Atoms, finer: Atoms) -> Atoms:
    """The atoms themselves where ``finer`` is a refinement of them, else one."""
    return atoms if len(atoms) <= 1 or refine(atoms, finer) == finer else (math.prod(atoms),)


def pieces(dims: Dims, finer: Dims) -> list[list[int]]:
    """For every atom of ``dims`` the positions of its pieces among the atoms of ``finer``; axes count from the last."""
    pieces, at = [], sum(map(len, finer[: len(finer) - len(dims)]))
    for atoms, parts in zip(dims, finer[len(finer) - len(dims) :], strict=True):
        rest, end = at, at + len(parts)
        for atom in atoms:
            size, mine = 1, []
            while size < atom:
                size *= parts[rest - at]
                mine.append(rest)
                rest += 1
            pieces.append(mine)
        at = end
    return pieces


@lru_cache(4096)
def place(dims: Dims, finer: Dims) -> Index:
    """Where the components over ``dims`` are among those over a refinement of it, as flat indices; the others are zero."""
    n = sum(map(len, finer))
    places = np.zeros(1, dtype=np.intp)
    for mine in pieces(dims, finer):
        places = np.add.outer(places, [0, sum(1 << (n - 1 - i) for i in mine)]).ravel()
    return places


@lru_cache(4096)
def origin(dims: Dims, finer: Dims) -> Index:
    """The pair over ``dims`` that each pair over a refinement of it is, as flat indices: an atom is shared if its pieces are."""
    bits = np.indices((2,) * sum(map(len, finer)), dtype=np.intp)
    index = np.zeros(bits.shape[1:], dtype=np.intp)
    for mine in pieces(dims, finer):
        index = 2 * index + bits[mine].min(0)
    return index


def split(v: Array, axis: int) -> Array:
    """One atom becomes two: pairs that differ in either part are simply different."""
    constant, varying = take(v, axis, 0), take(v, axis, 1)
    zero = np.zeros_like(constant)
    return np.stack([np.stack([constant, zero], axis), np.stack([zero, varying], axis)], axis)


def merge(v: Array, axis: int, first: int, second: int) -> Array:
    """Two neighbouring atoms become one: differing pairs are averaged by their counts."""
    table = sum_subsets(v)
    other, same = take(table, axis, 0), take(table, axis, 1)  # by the first atom; the second is now at the same axis
    differ = (
        (second - 1) * take(same, axis, 0)
        + (first - 1) * take(other, axis, 1)
        + (first - 1) * (second - 1) * take(other, axis, 0)
    ) / (first * second - 1)
    return differences(np.stack([differ, take(same, axis, 1)], axis))


def pair_averages(x: Array, first: int = 0) -> Array:
    """For every subset of axes: mean over it of the squared mean over the rest; shape ``(2,) * ndim``, 1 = kept.

    Axes before ``first`` are repetitions: averaged over, and not in the table.
    """
    if x.ndim == 0:
        return np.asarray(float(x) ** 2)

    def descend(y: Array, axis: int) -> Array:
        if axis == x.ndim:
            return np.asarray(np.mean(y * y))
        return np.stack([descend(y.mean(axis, keepdims=True), axis + 1), descend(y, axis + 1)])

    return descend(x, first)
