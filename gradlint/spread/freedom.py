"""How many independent numbers a tensor is made of, and what that leaves to chance in its squared norm. From its moments alone.

The squared norm of a Gaussian array with pair moments K has the relative variance ``2·avg (K² − m⁴)/q²``, the average over all
pairs of entries (Isserlis 1918): two over the number of its degrees of freedom.

The *rows* of an array are what its feature axis runs along: samples, positions. Two rows of n features are correlated by ±1/√n
though their pair moment is zero, and by more behind narrow layers. That *overlap*, a mean square, is a floor under ``(K/q)²``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from gradlint.moments import Array, Moments, from_pairs, take

__all__ = ["ByRows", "apart", "average", "by_rows", "concentration", "concentrations", "correlations", "of_squares"]

Patterns = npt.NDArray[np.bool_]


def average(x: Moments, table: Array) -> float:
    """The mean of a pair table over all pairs of entries."""
    return float(table.ravel() @ _shares(tuple(x.sizes())))


@lru_cache(4096)
def _shares(sizes: tuple[int, ...]) -> Array:
    """Of all pairs of entries, those that share exactly the atoms with index 1; flat."""
    shares = np.ones(1)
    for n in sizes:
        shares = np.multiply.outer(shares, [(n - 1) / n, 1 / n]).ravel()
    return shares


def features(x: Moments, axis: int) -> set[int]:
    """Atoms of the feature axis; of the last one where the array does not have that axis."""
    if not x.dims:
        return set()
    return set(x.atoms(axis if -len(x.dims) <= axis < len(x.dims) else -1))


def apart(x: Moments, axis: int) -> Patterns:
    """Which patterns of shared atoms belong to one feature of two different rows."""
    return _apart(x.v.ndim, tuple(sorted(features(x, axis))))


@cache
def _apart(atoms: int, own: tuple[int, ...]) -> Patterns:
    shared = np.indices((2,) * atoms).astype(bool)
    same = np.ones((2,) * atoms, dtype=bool)
    rows = same.copy()
    for atom in range(atoms):
        if atom in own:
            same &= shared[atom]
        else:
            rows &= shared[atom]
    found = np.asarray(same & ~rows)
    found.flags.writeable = False
    return found


@dataclass(frozen=True)
class ByRows:
    """The mean of a pair table over the pairs within a row, and over those in two different rows of ``rows``."""

    within: float
    between: float
    rows: int

    def together(self, unequal: float) -> float:
        """The mean over all pairs, where the rows weigh unequally: the logarithms of their weights have this variance."""
        share = 1 / (1 + (self.rows - 1) * math.exp(-max(unequal, 0.0)))
        return self.within * share + self.between * (1 - share)


def by_rows(x: Moments, table: Array, axis: int) -> ByRows:
    """See :class:`ByRows`; ``axis`` is that of features."""
    kept = features(x, axis)
    own = table[tuple(slice(None) if atom in kept else -1 for atom in range(table.ndim))]
    sizes, rows = x.sizes(), math.prod(n for atom, n in enumerate(x.sizes()) if atom not in kept)
    for at, atom in reversed(list(enumerate(sorted(kept)))):
        own = (take(own, at, 1) + (sizes[atom] - 1) * take(own, at, 0)) / sizes[atom]
    within = float(own)
    return ByRows(within, (rows * average(x, table) - within) / (rows - 1) if rows > 1 else within, rows)


def correlations(x: Moments, axis: int, table: Array) -> float:
    """The mean of a pair table over pairs of one feature in two different rows; its own-pair value where there is one row."""
    patterns = apart(x, axis)
    share = average(x, patterns.astype(float))
    return average(x, np.where(patterns, table, 0.0)) / share if share > 0.0 else float(table[(-1,) * table.ndim])


def concentrations(x: Moments, overlap: float = 0.0, axis: int = -1) -> Array:
    """``(K² − m⁴)/q²``, not below the overlap of two rows."""
    if x.q <= 0.0 or x.value is not None:
        return np.zeros_like(x.v)
    table = np.maximum((x.pairs() ** 2 - x.mean**4) / x.q**2, 0.0)
    return np.asarray(np.where(apart(x, axis), np.maximum(table, overlap), table) if overlap > 0.0 else table)


def concentration(x: Moments) -> float:
    """One over the number of degrees of freedom of a Gaussian array; 0 where nothing is random."""
    return min(average(x, concentrations(x)), 1.0)


def of_squares(x: Moments, kurtosis: float = 3.0, overlap: float = 0.0, axis: int = -1) -> Moments:
    """The law of the squared entries of an array, over their mean: ``E x_i² x_j² = q² + 2(K² − m⁴)`` for a Gaussian one.

    Args:
        kurtosis: ``E x⁴/q²`` of an entry.
        overlap: of two rows.
        axis: of features.
    """
    table = np.array(1 + 2 * concentrations(x, overlap, axis))
    if x.value is None:
        table[(-1,) * table.ndim] *= kurtosis / 3
    return from_pairs(x.dims, 1.0, table)
