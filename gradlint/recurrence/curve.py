"""How a gradient grows over the steps of a recurrence, as a function of their number. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Curve"]


@dataclass(frozen=True)
class Curve:
    """Bits of gradient norm from a state to the one k steps before.

    Beyond the steps worked out it goes on as ``c + λk − p·log2 k``: an exponential with the power law that coherent growth
    brings along (``Σ_j C(k,j)² a^{2(k−j)} g^{2j} ~ (a+g)^{2k}/√k``, so p = ¼ where it has set in, 0 where weights are met once).

    Args:
        bits: for k = 0, 1, 2 …; the first is 0.
    """

    bits: tuple[float, ...]

    @cached_property
    def _tail(self) -> tuple[float, float]:
        """λ and p by least squares over the second half."""
        first = len(self.bits) // 2
        k = np.arange(max(first, 1), len(self.bits), dtype=float)
        y = np.array(self.bits[max(first, 1) :])
        if len(k) < 4:
            slope = (self.bits[-1] - self.bits[0]) / max(len(self.bits) - 1, 1)
            return float(slope), 0.0
        table = np.stack([np.ones_like(k), k, -np.log2(k)], 1)
        _, slope, power = np.linalg.lstsq(table, y, rcond=None)[0]
        if 0.0 <= power <= 0.25:
            return float(slope), float(power)
        power = min(max(float(power), 0.0), 0.25)
        slope = np.polyfit(k, y + power * np.log2(k), 1)[0]
        return float(slope), power

    @property
    def per_step(self) -> float:
        """Bits per step that it settles to."""
        return self._tail[0]

    @property
    def transient(self) -> float:
        """The most that it rises above its steady line: what the first steps add, whatever comes later."""
        return max(b - self.per_step * k for k, b in enumerate(self.bits))

    def at(self, steps: int) -> float:
        """Bits over so many steps."""
        last = len(self.bits) - 1
        if steps <= last:
            return self.bits[max(steps, 0)]
        slope, power = self._tail
        return self.bits[-1] + slope * (steps - last) - (power * math.log2(steps / last) if last else 0.0)

    def reach(self, limit: float, longest: int = 1_000_000) -> int | None:
        """The most steps over which it stays within ``limit`` bits (of its sign); None: as many as there may be."""
        sign = 1.0 if limit > 0 else -1.0

        def outside(bits: float) -> bool:
            return sign * bits > sign * limit

        for k, b in enumerate(self.bits):
            if outside(b):
                return max(k - 1, 0)
        last = len(self.bits) - 1
        if not outside(self.at(longest)):
            return None
        low, high = last, longest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if outside(self.at(middle)) else (middle, high)
        return low

    @property
    def half_life(self) -> float | None:
        """Steps in which half of the gradient is lost; None where it is not lost."""
        return -1.0 / self.per_step if self.per_step < 0 else None
