"""Tables of components and of pair moments: arrays of shape ``(2,) * number of atoms``, index 1 = varies / is shared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_ATOMS", "Array", "Atoms", "differences", "merge", "pair_averages", "refine", "split", "sum_subsets", "take"]

Array = npt.NDArray[np.float64]
Atoms = tuple[int, ...]

MAX_ATOMS = 8
"""A table of 2^8 numbers; finer structure is averaged within an axis."""


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


def sum_subsets(v: Array) -> Array:
    """Components to pair moments (about the mean): the sum over all subsets of the shared atoms."""
    for axis in range(v.ndim):
        v = v.cumsum(axis)
    return v


def differences(table: Array) -> Array:
    """Pair moments to components: the inverse of :func:`sum_subsets`."""
    v = np.array(table, dtype=np.float64)
    for axis in range(v.ndim):
        constant = take(v, axis, 0)
        v = np.stack([constant, take(v, axis, 1) - constant], axis)
    return v


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


def pair_averages(x: Array) -> Array:
    """For every subset of axes: mean over it of the squared mean over the rest; shape ``(2,) * ndim``, 1 = kept."""
    if x.ndim == 0:
        return np.asarray(float(x) ** 2)

    def descend(y: Array, axis: int) -> Array:
        if axis == x.ndim:
            return np.asarray(np.mean(y * y))
        return np.stack([descend(y.mean(axis, keepdims=True), axis + 1), descend(y, axis + 1)])

    return descend(x, 0)
