"""What rows that see different keys average: exact over a mask, for values that may differ from stretch to stretch.

Row i spreads the weights ``p_ij`` over the ``c_i`` keys that the mask leaves it. With ``E p_ij = 1/c_i``, ``E Σ_j p_ij² = IPR``
and values independent of the weights, two entries of the output have the moment ``Σ_jj' E[p_ij p_i'j'] K_v(j, j')``. The sums
over the mask are done once for every two runs of rows and every two stretches of keys; under a causal mask early values are
in every average, late ones in few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

import numpy as np
import numpy.typing as npt

from gradlint.moments import Array, Moments, couple, from_pairs, pairs_of
from gradlint.moments.parts import constant_along, on_common_atoms
from gradlint.ops.partition import participation

__all__ = ["Scores", "averages"]


@dataclass(frozen=True)
class Scores:
    """Of a run of rows: variance within a row, its covariance between two rows of one head, variance that alignment adds."""

    variance: float
    between: float
    aligned: float


def averages(
    v: Moments, mask: npt.NDArray[np.bool_], runs: Sequence[tuple[int, int]], scores: Sequence[Scores], dropout: float
) -> tuple[list[Moments], list[Moments]]:
    """The output's law for every run of rows, and for two rows of every two runs.

    Args:
        v: values, shape (…, keys, features).
        mask: shape (rows, keys): what each row sees.
        runs: first and last row (excluded) of each run.
        scores: of each run.
        dropout: probability that a weight is dropped.
    """
    axis = len(v.dims) - 2
    tables = _Tables(v, axis)
    sight = [_Sight(mask[a:b], tables.ends, s, dropout) for (a, b), s in zip(runs, scores, strict=True)]
    laws, moments = [], []
    for (a, b), one in zip(runs, sight, strict=True):
        alone = tables.sum(*one.alone(same_head=True)), tables.sum(*one.alone(same_head=False))
        same = tables.by_head(*alone)
        same.flat[-1] += one.scores.aligned
        others = [tables.sum(*one.beside(one, same_head=head)) for head in (True, False)] if b - a > 1 else None
        laws.append(tables.law(b - a, same, None if others is None else tables.by_head(*others)))
    for one, two in combinations(sight, 2):
        beside = [tables.sum(*one.beside(two, same_head=head)) for head in (True, False)]
        moments.append(tables.law(1, tables.by_head(*beside), None))
    pairs = [couple(x, y, axis, moment) for (x, y), moment in zip(combinations(laws, 2), moments, strict=True)]
    return laws, pairs


class _Sight:
    """The weights of one run of rows, summed over stretches of keys."""

    def __init__(self, mask: npt.NDArray[np.bool_], ends: Sequence[int], scores: Scores, dropout: float) -> None:
        self.scores = scores
        live = mask[mask.any(1)].astype(np.float64)
        counts = live.sum(1)
        self._weights = live / counts[:, None]  # rows × keys, each row sums to one
        self._ends = ends
        self._mass = self._over(self._weights)  # rows × stretches
        self._uneven = participation(counts, scores.variance)[0] * counts  # E p² over its value for equal weights
        self._kept = 1 / (1 - dropout) if dropout < 1 else 0.0

    def _over(self, x: Array) -> Array:
        """Summed over the stretches of keys."""
        return np.stack([x[..., a:b].sum(-1) for a, b in pairwise(self._ends)], -1)

    def alone(self, *, same_head: bool) -> tuple[Array, Array]:
        """Of a row with itself: ``Σ E[p_j p_j']`` for j ≠ j' in every two stretches, for j = j' in every stretch.

        In another head or sample the same row has weights of its own: they overlap as equal ones do.
        """
        even = self._over(self._weights**2)
        once = even * (self._uneven[:, None] if same_head else 1.0)
        return self._apart(self._mass, self._mass, even, once).mean(0), (once * (self._kept if same_head else 1.0)).mean(0)

    def beside(self, other: _Sight, *, same_head: bool) -> tuple[Array, Array]:
        """Likewise of two different rows."""
        between = math.sqrt(self.scores.between * other.scores.between) if same_head else 0.0
        mine, theirs = self._weights.mean(0), other._weights.mean(0)
        a, b = self._mass.mean(0), other._mass.mean(0)
        overlap = mine * theirs
        n = len(self._weights)
        if self is other and n > 1:
            overlap = (n * n * overlap - (self._weights**2).sum(0)) / (n * (n - 1))
        even = self._over(overlap)
        limit = min(float(np.mean(self._uneven)), float(np.mean(other._uneven)))
        once = even * min(math.exp(min(between, 50.0)), limit)
        mass = np.outer(a, b)
        if self is other and n > 1:
            mass = (n * n * mass - self._mass.T @ self._mass) / (n * (n - 1))
        return _rest(mass, even, once), once

    def _apart(self, a: Array, b: Array, even: Array, once: Array) -> Array:
        return np.stack([_rest(np.outer(x, y), e, o) for x, y, e, o in zip(a, b, even, once, strict=True)])


def _rest(mass: Array, even: Array, once: Array) -> Array:
    """What is left of the weights' products for different keys when equal ones take ``once`` instead of ``even``."""
    apart = mass - np.diag(even)
    left = 1 - float(even.sum())
    return apart * ((1 - min(float(once.sum()), 1.0)) / left) if left > 1e-12 else np.zeros_like(apart)


class _Tables:
    """Pair tables of the values: for every two stretches of keys, over the other axes."""

    def __init__(self, v: Moments, axis: int) -> None:
        sizes = v.parts.sizes if v.parts is not None and v.parts.axis == axis else (v.shape[axis],)
        laws = v.parts.laws if v.parts is not None and v.parts.axis == axis else (v,)
        self.ends = [0, *accumulate(sizes)]
        pairs = [constant_along(pair, axis) for pair in pairs_of(v, axis, sizes)]
        same = [law.resize(axis, 1) for law in laws]
        common = on_common_atoms([*same, *(constant_along(law, axis) for law in laws), *pairs])
        n = len(laws)
        self._dims, self._axis = common[0].dims, axis
        self._same = [law.pairs() for law in common[:n]]
        differ = [law.pairs() for law in common[n : 2 * n]]
        self._differ = [[differ[i]] * n for i in range(n)]
        for (i, j), pair in zip(combinations(range(n), 2), common[2 * n :], strict=True):
            self._differ[i] = [*self._differ[i][:j], pair.pairs(), *self._differ[i][j + 1 :]]
            self._differ[j] = [*self._differ[j][:i], pair.pairs(), *self._differ[j][i + 1 :]]
        self._means = np.array([law.mean for law in laws])

    def sum(self, apart: Array, once: Array) -> tuple[Array, float]:
        """``Σ_ab apart_ab K(a, b) + Σ_a once_a K(a)``, and the mean of a row."""
        n = len(self._same)
        table = sum(apart[a, b] * self._differ[a][b] for a in range(n) for b in range(n))
        table = table + sum(once[a] * self._same[a] for a in range(n))
        mass = apart.sum(1) + once
        return np.asarray(table, dtype=np.float64), float(mass @ self._means)

    def by_head(self, same: tuple[Array, float], other: tuple[Array, float]) -> Array:
        """The table in which pairs of one head and sample are taken from ``same``, all others from ``other``."""
        lead = sum(map(len, self._dims[: self._axis]))
        table = other[0].copy()
        table[(1,) * lead] = same[0][(1,) * lead]
        self._mean = same[1]
        return table

    def law(self, size: int, same: Array, differ: Array | None) -> Moments:
        """The law of ``size`` rows."""
        if size == 1 or differ is None:
            return from_pairs(self._dims, self._mean, same)
        at = sum(map(len, self._dims[: self._axis]))
        dims = (*self._dims[: self._axis], (size,), *self._dims[self._axis + 1 :])
        return from_pairs(dims, self._mean, np.stack([differ, same], at))
