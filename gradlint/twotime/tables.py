"""Tables over pairs of time steps: how much step t has in common with step t'.

A table answers with stretches of its rows, shape (2, n): for pairs of steps in one sample, and in two. An answer is a pair of
numbers and a *unit*: it stands for ``numbers · 4^unit``, since gradients leave the range of floats within some hundred steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gradlint.moments import Array

__all__ = ["Even", "Known", "Pooled", "Settled", "Stretch", "Table", "in_unit", "log2_rms"]

Stretch = tuple[Array, int]
"""Numbers and their unit."""


def in_unit(stretch: Stretch, unit: int) -> Array:
    """The numbers in another unit; zero or infinite where they are beyond the range."""
    numbers, own = stretch
    with np.errstate(over="ignore", under="ignore"):
        return numbers if own == unit else np.ldexp(numbers, 2 * (own - unit))


@dataclass(frozen=True)
class Pooled:
    """Averages of a table, within a sample and across two: ``numbers · 4^unit``.

    Args:
        same: over steps.
        differ: over pairs of two different steps.
    """

    same: Array
    differ: Array
    unit: int

    def at(self, unit: int) -> Pooled:
        """In another unit."""
        return Pooled(in_unit((self.same, self.unit), unit), in_unit((self.differ, self.unit), unit), unit)


def log2_rms(squares: Array) -> Array:
    """Half the binary logarithm, −∞ of nothing."""
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log2(np.maximum(squares, 0.0)))


class Table(ABC):
    """A symmetric table over pairs of ``steps`` steps."""

    steps: int
    rests: int
    """Step from which on a pair's number depends on its lag alone, as far as that is known."""

    def ahead(self, t: int, n: int) -> Stretch:
        """Pairs (t, t) … (t, t + n − 1)."""
        return self._ahead(t, n)

    def behind(self, t: int, n: int) -> Stretch:
        """Pairs (t, t) … (t, t − n + 1)."""
        return self._behind(t, n)

    def reach(self, t: int) -> int:
        """Number of lags ahead of t beyond which all is zero."""
        return self._reach(t)

    @property
    def apart(self) -> bool:
        """Pairs in two samples are not all zero."""
        return self._apart()

    def steady(self, t: int) -> int:
        """The first of the steps up to t since which rows are the same, and no two steps have anything in common."""
        return self._steady(t)

    @property
    def log2(self) -> Array:
        """Binary logarithms of the root mean squares at the steps."""
        return self._log2()

    def pooled(self) -> Pooled:
        """Averages over steps and over pairs of two different steps."""
        return self._pooled()

    @abstractmethod
    def _ahead(self, t: int, n: int) -> Stretch: ...

    @abstractmethod
    def _behind(self, t: int, n: int) -> Stretch: ...

    def _reach(self, t: int) -> int:
        return self.steps - t

    def _apart(self) -> bool:
        return True

    def _steady(self, t: int) -> int:
        return t

    def _log2(self) -> Array:
        return log2_rms(np.array([self.ahead(t, 1)[0][0, 0] for t in range(self.steps)]))

    def _pooled(self) -> Pooled:
        rows = [self.ahead(t, self.steps - t)[0] for t in range(self.steps)]
        pairs = max(self.steps * (self.steps - 1), 1)
        own, rest = np.stack([row[:, 0] for row in rows]), np.stack([row[:, 1:].sum(1) for row in rows])
        return Pooled(own.sum(0) / self.steps, 2 * rest.sum(0) / pairs, 0)


@dataclass
class Even(Table):
    """Stretches of steps that are exchangeable within themselves; without bounds all of them are.

    Args:
        same: of a step with itself, shape (2, stretches).
        differ: of two steps, shape (2, stretches, stretches).
        sizes: of the stretches.
    """

    same: Array
    differ: Array
    sizes: Sequence[int]
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps, self.rests = sum(self.sizes), sum(self.sizes[:-1])
        self._owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        ends = np.cumsum(self.sizes)
        last = [np.flatnonzero(row.any(0)) for row in self.differ.swapaxes(0, 1)]
        self._ends = [int(ends[found[-1]]) if found.size else 0 for found in last]

    def _reach(self, t: int) -> int:
        return max(self._ends[int(self._owner[t])] - t, 1)

    def _steady(self, t: int) -> int:
        part = int(self._owner[t])
        return t if self._ends[part] else sum(self.sizes[:part])

    def _apart(self) -> bool:
        return bool(self.same[1].any() or self.differ[1].any())

    def _row(self, t: int, others: npt.NDArray[np.intp]) -> Stretch:
        out = self.differ[:, self._owner[t], others].copy()
        out[:, 0] = self.same[:, self._owner[t]]
        return out, 0

    def _ahead(self, t: int, n: int) -> Stretch:
        return self._row(t, self._owner[t : t + n])

    def _behind(self, t: int, n: int) -> Stretch:
        return self._row(t, self._owner[t - n + 1 : t + 1][::-1])


@dataclass
class Known(Table):
    """A whole matrix, shape (2, steps, steps)."""

    table: Array
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.rests = self.table.shape[-1]

    def _apart(self) -> bool:
        return bool(self.table[1].any())

    def _ahead(self, t: int, n: int) -> Stretch:
        return self.table[:, t, t : t + n], 0

    def _behind(self, t: int, n: int) -> Stretch:
        return self.table[:, t, t - n + 1 : t + 1][:, ::-1], 0


@dataclass
class Settled(Table):
    """Known for pairs of the first steps; afterwards it depends on the lag.

    Args:
        table: shape (2, …, n, n).
        steps: the number of steps that it stands for.
    """

    table: Array
    steps: int
    rests: int = field(init=False)
    lags: Array = field(init=False)

    def __post_init__(self) -> None:
        n = self.rests = self.table.shape[-1]
        far = n if n == self.steps or n < 8 else n - n // 4  # the first steps are not yet at rest
        self.lags = self.table[..., np.arange(n - 1, n - 1 - far, -1), n - 1]

    def _ahead(self, t: int, n: int) -> Stretch:
        return self.row(t, n), 0

    def row(self, t: int, n: int) -> Array:
        """:meth:`ahead`, whose unit is zero."""
        rests = self.table.shape[-1]
        if t + n <= rests:
            return np.asarray(self.table[..., t, t : t + n])
        if t >= rests:
            return np.asarray(self._all[..., :n])
        return np.concatenate([self.table[..., t, t:], self._all[..., rests - t : n]], -1)

    @cached_property
    def _all(self) -> Array:
        """At every lag."""
        return self._at(np.arange(self.steps))

    def _pooled(self) -> Pooled:
        n, last = self.table.shape[-1], self.steps
        ends = np.cumsum(self._all, -1)  # of the lags 0 … l
        known = np.triu(self.table).sum(-1) if n == last else np.triu(self.table).sum(-1) + ends[..., last - 1 - np.arange(n)]
        if n < last:
            known = known - ends[..., n - 1 - np.arange(n)]
        own = np.concatenate([np.diagonal(self.table, 0, -2, -1), np.repeat(self.lags[..., :1], last - n, -1)], -1)
        total = known.sum(-1) + ends[..., np.arange(last - n)].sum(-1)
        return Pooled(own.mean(-1), 2 * (total - own.sum(-1)) / max(last * (last - 1), 1), 0)

    def _behind(self, t: int, n: int) -> Stretch:
        if t < self.table.shape[-1]:
            return self.table[..., t, t - n + 1 : t + 1][..., ::-1], 0
        return self._all[..., :n], 0

    def _at(self, lags: npt.NDArray[np.signedinteger[Any]]) -> Array:
        return np.asarray(self.lags[..., np.minimum(lags, self.lags.shape[-1] - 1)])
