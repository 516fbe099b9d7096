"""Tables made of others: gradients row by row in units of their own, the other direction of time, sums, dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gradlint.moments import Array
from gradlint.twotime.tables import Even, Known, Pooled, Stretch, Table, in_unit, log2_rms

__all__ = ["Masked", "Mirrored", "Mixed", "Rows", "highest"]


@dataclass
class Rows(Table):
    """Rows (t, t), (t, t + 1) … as far as they go, shape (1 or 2, n), each in a unit of its own."""

    rows: Sequence[Array]
    units: Sequence[int]
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.rests = len(self.rows)

    def _apart(self) -> bool:
        return any(len(row) > 1 for row in self.rows)

    def _reach(self, t: int) -> int:
        return int(self.rows[t].shape[1])

    def _log2(self) -> Array:
        return np.asarray(log2_rms(self._dense[0, :, 0]) + np.asarray(self.units))

    def _pooled(self) -> Pooled:
        own, rest = self._dense[..., 0], 2 * self._dense[..., 1:].sum(-1)
        unit = highest(np.maximum(np.abs(own), np.abs(rest)).max(0), self.units)
        with np.errstate(under="ignore"):
            same, differ = (np.ldexp(x, 2 * (np.asarray(self.units) - unit)).sum(-1) for x in (own, rest))
        return Pooled(same / self.steps, differ / max(self.steps * (self.steps - 1), 1), unit)

    @cached_property
    def _dense(self) -> Array:
        out = np.zeros((2, self.steps, max(1, *(row.shape[1] for row in self.rows))))
        for t, row in enumerate(self.rows):
            out[: len(row), t, : row.shape[1]] = row
        return out

    def _ahead(self, t: int, n: int) -> Stretch:
        return _zeros_behind(self._dense[:, t, :n], n), self.units[t]

    def _behind(self, t: int, n: int) -> Stretch:
        lags = np.arange(min(n, self._dense.shape[-1]))
        units = np.asarray(self.units)[t - lags]
        with np.errstate(over="ignore", under="ignore"):
            found = np.ldexp(self._dense[:, t - lags, lags], 2 * (units - self.units[t]))
        return _zeros_behind(found, n), self.units[t]


def highest(numbers: Array, units: Sequence[int]) -> int:
    """The unit in which the largest of ``numbers · 4^unit`` is near one."""
    found = [unit + math.frexp(x)[1] // 2 for x, unit in zip(numbers.tolist(), units, strict=True) if x > 0]
    return max(found, default=0)


def _zeros_behind(x: Array, n: int) -> Array:
    return x if x.shape[-1] == n else np.concatenate([x, np.zeros((*x.shape[:-1], n - x.shape[-1]))], -1)


@dataclass
class Mirrored(Table):
    """The same with time running backwards."""

    table: Table
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.table.steps
        self.rests = self.steps if isinstance(self.table, Known | Rows) else 0
        if isinstance(self.table, Even):
            self.rests = self.steps - self.table.sizes[0]

    def _reach(self, t: int) -> int:
        longest = max((row.shape[1] for row in self.table.rows), default=0) if isinstance(self.table, Rows) else self.steps
        return min(longest, self.steps - t)

    def _steady(self, t: int) -> int:
        if not isinstance(self.table, Even):
            return t
        ends = np.cumsum(self.table.sizes)
        end = int(ends[np.searchsorted(ends, self.steps - 1 - t, side="right")])
        return self.steps - end if self.table.steady(end - 1) < end - 1 or end == 1 else t

    def _log2(self) -> Array:
        return self.table.log2[::-1]

    def _pooled(self) -> Pooled:
        return self.table.pooled()

    def _apart(self) -> bool:
        return self.table.apart

    def _ahead(self, t: int, n: int) -> Stretch:
        return self.table.behind(self.steps - 1 - t, n)

    def _behind(self, t: int, n: int) -> Stretch:
        return self.table.ahead(self.steps - 1 - t, n)


@dataclass
class Mixed(Table):
    """A weighted sum."""

    terms: Sequence[tuple[float, Table]]
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps, self.rests = self.terms[0][1].steps, max(table.rests for _, table in self.terms)

    def _reach(self, t: int) -> int:
        return max(table.reach(t) for _, table in self.terms)

    def _steady(self, t: int) -> int:
        return max(table.steady(t) for _, table in self.terms)

    def _log2(self) -> Array:
        return np.asarray(0.5 * np.logaddexp2.reduce([2 * table.log2 + math.log2(w) for w, table in self.terms]))

    def _pooled(self) -> Pooled:
        found = [table.pooled() for _, table in self.terms]
        unit = max((p.unit for p in found if p.same.any()), default=0)
        terms = [(w, p.at(unit)) for (w, _), p in zip(self.terms, found, strict=True)]
        return Pooled(np.asarray(sum(w * p.same for w, p in terms)), np.asarray(sum(w * p.differ for w, p in terms)), unit)

    def _apart(self) -> bool:
        return any(table.apart for _, table in self.terms)

    def _ahead(self, t: int, n: int) -> Stretch:
        return self._sum([(w, table.ahead(t, n)) for w, table in self.terms])

    def _behind(self, t: int, n: int) -> Stretch:
        return self._sum([(w, table.behind(t, n)) for w, table in self.terms])

    def _sum(self, found: Sequence[tuple[float, Stretch]]) -> Stretch:
        units = [unit for _, (numbers, unit) in found if numbers.any()]
        unit = max(units, default=0)
        return np.asarray(sum(w * in_unit(stretch, unit) for w, stretch in found)), unit


@dataclass
class Masked(Table):
    """Times a dropout mask of its own at every entry: ``E[m²] = power``, ``E[m m'] = 1``."""

    table: Table
    power: float
    steps: int = field(init=False)
    rests: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps, self.rests = self.table.steps, self.table.rests

    def _reach(self, t: int) -> int:
        return self.table.reach(t)

    def _steady(self, t: int) -> int:
        return self.table.steady(t)

    def _log2(self) -> Array:
        return self.table.log2 + 0.5 * math.log2(self.power)

    def _pooled(self) -> Pooled:
        p = self.table.pooled()
        return Pooled(p.same * [self.power, 1.0], p.differ, p.unit)

    def _apart(self) -> bool:
        return self.table.apart

    def _times(self, stretch: Stretch) -> Stretch:
        out = stretch[0].copy()
        out[0, 0] *= self.power
        return out, stretch[1]

    def _ahead(self, t: int, n: int) -> Stretch:
        return self._times(self.table.ahead(t, n))

    def _behind(self, t: int, n: int) -> Stretch:
        return self._times(self.table.behind(t, n))
