"""Gradients back through time: pair moments of the gradient at step t with the gradients at all later steps.

The transposed recurrent matrix, too, is the same at all steps, and pairs of steps close among themselves as they do going
forward. With δm the gradient at the memory, δh that at what it shows, s what arrives from outside:

    E[δh_t δh_t'] = E[s_t s_t'] + Σ_gates H s_h² E[∂m_{t+1}/∂u ∂m_{t'+1}/∂u] E[δm_{t+1} δm_{t'+1}]
    δm_t = a_{t+1} δm_{t+1} + (∂h_t/∂m_t) δh_t.

With a constant share a and a matrix of gain g this grows by a + g per step, where fresh matrices give ``√(a² + g²)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradlint.moments import Array
from gradlint.twotime.cells import scanned
from gradlint.twotime.layer import Forward
from gradlint.twotime.tables import Settled, Stretch, Table, in_unit
from gradlint.twotime.views import Rows, highest

__all__ = ["Backward", "Seeds", "Sum", "backward", "extrapolated"]

_FAR = 2.0**200
_SMALL = 1e-9
"""Pairs of steps that have less in common, as far as it reaches back, are forgotten."""


_LOOK = 24
"""Steps after which it is tried to tell the others from them."""

_WORTH = 8
"""Steps that are not worth skipping."""

_STILL = 1e-6
"""Change in bits per step where what arrives and what is lost balance."""

_SURE = 5e-4
"""Share of the growth, and bits on top of it, that two halves of the last steps may differ by in what they tell of the others."""


@dataclass(frozen=True)
class Seeds:
    """What arrives from outside.

    Args:
        output: at the state shown at every step; the pair moments of an entry.
        last: at the last state, shape (2,): within a sample and across two.
        memory: at the last memory, likewise.
    """

    output: Table | None
    last: Array
    memory: Array

    @property
    def apart(self) -> bool:
        """Gradients in two samples have something in common."""
        return bool(self.last[1] or self.memory[1]) or (self.output is not None and self.output.apart)


@dataclass(frozen=True)
class Sum:
    """Mean squares ``numbers · 4^unit``."""

    numbers: Array
    unit: int

    @staticmethod
    def of(terms: Sequence[Stretch], size: int) -> Sum:
        """Of stretches in units of their own."""
        if not terms:
            return Sum(np.zeros(size), 0)
        numbers, units = np.stack([x for x, _ in terms]), [unit for _, unit in terms]
        top = highest(np.abs(numbers).max(1), units)
        with np.errstate(under="ignore"):
            return Sum(np.ldexp(numbers, 2 * (np.array(units) - top)[:, None]).sum(0), top)


@dataclass(frozen=True)
class Backward:
    """What arrives where.

    Args:
        x: pair moments of the gradient of an entry of the input.
        weights: mean squares of the gradient of an entry of ``weight_ih`` and ``weight_hh``, of ``bias_ih`` and ``bias_hh``,
            gate by gate, shape (4 · gates,); of a projection's last.
        state: mean squares at the initial state shown, within a sample and across two.
        memory: at the initial memory.
    """

    x: Rows
    weights: Sum
    state: Sum
    memory: Sum


def backward(fw: Forward, seeds: Seeds, batch: int) -> Backward:
    """Run back through a layer."""
    run = _Run(fw, seeds, batch)
    t = fw.x.steps - 1
    while t >= 0:
        run.step(t)
        t = run.skip(t) - 1
    state, memory = run.initial()
    size = 4 * len(fw.cell.drives) + 1
    return Backward(Rows(run.rows, run.units), Sum.of(run.sums, size), Sum.of([state], 2), Sum.of([memory], 2))


class _Run:
    """The state of the recursion: row t of every table, from lag 0 on, shape (samples, classes, lags)."""

    def __init__(self, fw: Forward, seeds: Seeds, batch: int) -> None:
        self._fw, self._seeds, self._batch = fw, seeds, batch
        self._kinds = 2 if seeds.apart and batch > 1 else 1
        classes = len(fw.cell.weights)
        self._memory = self._mixed = np.zeros((self._kinds, classes, 0))
        self._shown = np.zeros((self._kinds, 0))
        self._unit = 0
        self._sent = np.zeros((self._kinds, 0))
        self._x_back, self._h_back = (np.array([getattr(d, side) for d in fw.cell.drives]) for side in ("x_back", "h_back"))
        self._levels, self._look = list[float](), _LOOK
        self.rows: list[Array] = [np.zeros((1, 0))] * fw.x.steps
        self.units = [0] * fw.x.steps
        self.sums: list[Stretch] = []

    def _gates(self, to: Settled, t: int, lags: int) -> Array:
        """Pair moments of the gradients at every gate's pre-activation, averaged over classes: shape (gates, kinds, lags)."""
        cell, factor = self._fw.cell, to.row(t, lags)[:, : self._kinds]
        out = np.einsum("gscn,scn->gsn", factor, self._memory)
        for gate, behind in enumerate(cell.behind):
            if behind:
                out[gate] = factor[gate].sum(1) * self._shown * cell.projected[1]
        return np.asarray(out)

    def _keeps(self, start: int, n: int) -> Array:
        keeps = self._fw.keeps
        return keeps[:, np.minimum(np.arange(start, start + n), keeps.shape[1] - 1)]

    def _advance(self, t: int, sent: Array, shown: Array, more: Array | None) -> None:
        """From the rows of step t + 1 to those of step t.

        Args:
            sent: pair moments of the gradient at the state shown, before a projection: shape (kinds, lags).
            shown: pair moments of ``∂h/∂m``.
            more: what arrives at the memory itself.
        """
        n = sent.shape[-1]
        own = shown * (sent * self._fw.cell.projected[1])[:, None]
        if more is not None:
            own[..., 0] += more[: self._kinds, None]
        if self._fw.cell.carrier is None:
            self._memory = own
            return
        keeps = self._keeps(t + 1, n)
        ahead = scanned(own[..., ::-1], keeps[:, ::-1])[..., ::-1]  # E[own_t δm_t'], the later the less
        ahead = np.concatenate([ahead[..., 1:], np.zeros_like(ahead[..., :1])], -1)  # E[own_t δm_{t'+1}]
        mixed, memory = (_padded(x, n) for x in (self._mixed, self._memory))
        mixed = np.concatenate([ahead[..., :1], mixed[..., : n - 1]], -1)  # E[δm_{t+1} own_t']
        self._memory = self._fw.carry.row(t + 1, n)[: self._kinds] * memory + keeps[:, :1] * mixed + keeps * ahead + own
        self._mixed = keeps[:, :1] * mixed + own

    def step(self, t: int) -> None:
        """Row t, and what it adds to the gradients of the parameters."""
        fw, last = self._fw, t == self._fw.x.steps - 1
        n = min(self._memory.shape[-1] + 1, fw.x.steps - t)
        sent = np.zeros((self._kinds, n))
        sent[:, : self._sent.shape[-1]] = self._sent
        if self._seeds.output is not None:
            n = max(n, self._seeds.output.reach(t))
            sent = _padded(sent, n) + in_unit(self._seeds.output.ahead(t, n), self._unit)[: self._kinds]
        if last:
            sent[:, 0] += self._seeds.last[: self._kinds]
        self._advance(t, sent, fw.shown.row(t, n)[: self._kinds], self._seeds.memory if last else None)
        self._shown = sent
        self._settle()
        self._record(t)

    def _settle(self) -> None:
        """Drop lags that no longer matter, and stay within the range of floats."""
        level = float(np.abs(self._memory[..., 0]).max(initial=0.0))
        if level <= 0.0:
            return
        keeps = self._fw.keeps[:, -1].max()
        reach = np.abs(self._memory).max((0, 1)) * keeps ** np.arange(self._memory.shape[-1])
        reach = np.maximum(reach, np.abs(self._shown).max(0))
        n = 1 + int(np.flatnonzero(reach > _SMALL * level)[-1])
        self._memory, self._mixed, self._shown = self._memory[..., :n], self._mixed[..., :n], self._shown[..., :n]
        if not 1 / _FAR < level < _FAR:
            shift = math.frexp(level)[1] // 2
            self._unit += shift
            self._memory, self._mixed, self._shown = (np.ldexp(x, -2 * shift) for x in (self._memory, self._mixed, self._shown))

    def skip(self, t: int) -> int:
        """Continue to where steps differ by the growth per step that the last ones tell; returns the last step that is done."""
        seeds, level = self._seeds.output, float(np.abs(self._memory[..., 0]).max(initial=0.0))
        self._levels.append(math.log2(level) + 2 * self._unit if level > 0.0 else -math.inf)
        end = int(max(self._fw.keeps.shape[1], self._fw.x.rests, 0 if seeds is None else seeds.steady(t)))
        steps = t - end
        if steps < _WORTH or len(self._levels) < self._look:
            return t
        if seeds is not None and seeds.ahead(t, 1)[0].any():
            growth = np.zeros(steps) if abs(self._levels[-1] - self._levels[-2]) < _STILL else None
        else:
            growth = extrapolated(np.array(self._levels[-(self._look // 2) - 1 :]), len(self._levels) - 1, steps)
        self._look = 2 * len(self._levels)
        if growth is None:
            return t
        bits = np.cumsum(growth) / 2
        whole = np.floor(bits)
        sums, unit = self.sums[-1][0], self._unit
        for k, (size, factor) in enumerate(zip(whole, 4.0 ** (bits - whole), strict=True), 1):
            self.rows[t - k], self.units[t - k] = self.rows[t] * factor, unit + int(size)
            self.sums.append((sums * factor, unit + int(size)))
        self._memory, self._mixed, self._shown, self._sent = (
            x * factor for x in (self._memory, self._mixed, self._shown, self._sent)
        )
        self._unit, self._levels = self.units[end], []
        return end

    def _record(self, t: int) -> None:
        fw, n = self._fw, self._shown.shape[-1]
        at_x = self._gates(fw.to_x, t, n)
        at_h = at_x if fw.to_x is fw.to_h else self._gates(fw.to_h, t, n)
        self.rows[t], self._sent = np.tensordot(self._x_back, at_x, 1), np.tensordot(self._h_back, at_h, 1)
        self.units[t] = self._unit
        pairs = np.full((self._kinds, n), 2.0 * self._batch)
        pairs[:, 0] = self._batch
        pairs[1:] *= self._batch - 1
        x, h, raw = (y[: self._kinds] for y in (fw.x.ahead(t, n)[0], fw.states.row(t, n), fw.hidden.row(t, n)))
        to_x, to_h = (np.tensordot(g, np.stack([pairs * y, pairs]), ((1, 2), (1, 2))) for g, y in ((at_x, x), (at_h, h)))
        own = [(pairs * self._shown * raw).sum()]
        self.sums.append((np.concatenate([to_x[:, 0], to_h[:, 0], to_x[:, 1], to_h[:, 1], own]), self._unit))

    def initial(self) -> tuple[Stretch, Stretch]:
        """Mean squares at the initial state and memory."""
        cell, sent = self._fw.cell, self._sent
        if cell.carrier is None:
            return (_two(sent[:, 0]), self._unit), (np.zeros(2), 0)
        self._advance(-1, sent, np.full(self._memory.shape, float(cell.open)), None)
        memory = _two(np.einsum("c,sc->s", cell.weights, self._memory[..., 0]))
        return (memory if cell.open else _two(sent[:, 0]), self._unit), (memory, self._unit)


def extrapolated(levels: Array, last: int, steps: int) -> Array | None:
    """Growth in bits of the next steps; None where the last ones do not tell it.

    Per step it is ``A + B/k + C/k²`` after k steps: powers of ``aI + gG`` grow as ``(a + g)^k/√k``.

    Args:
        levels: of the last steps, in bits.
        last: number of steps before the last of them.
        steps: how many are to come.
    """
    if not np.isfinite(levels).all():
        return None
    growth, half = np.diff(levels), (len(levels) - 1) // 2
    inverse = 1.0 / np.arange(last - len(growth) + 1, last + 1)
    powers = np.stack([np.ones_like(inverse), inverse, inverse**2], 1)
    first, second, whole = (
        np.linalg.lstsq(powers[part], growth[part])[0] for part in (slice(half), slice(half, None), slice(None))
    )
    ahead = 1.0 / np.arange(last + 1, last + steps + 1)
    found = [c[0] + c[1] * ahead + c[2] * ahead**2 for c in (first, second, whole)]
    first_, second_, best = (float(x.sum()) for x in found)
    return found[2] if abs(first_ - second_) < _SURE * (100 + abs(best)) else None


def _two(x: Array) -> Array:
    """With a zero for two samples where these were not followed."""
    return x if len(x) == 2 else np.append(x, 0.0)


def _padded(x: Array, n: int) -> Array:
    """With zeros up to n lags."""
    return x[..., :n] if x.shape[-1] >= n else np.concatenate([x, np.zeros((*x.shape[:-1], n - x.shape[-1]))], -1)
