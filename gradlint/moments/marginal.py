"""The marginal law of an entry where it is not Gaussian.

A tensor of known marginal law is kept as ``x = F(z)``: z an exchangeable Gaussian array of unit variance, F the quantile
transport, non-decreasing. A scalar function of x is then a scalar function of z, and the Hermite series applies to φ∘F as it
does to φ; the correlations of z are those that give x its own pair table (a Gaussian copula, also called NORTA: Cario & Nelson
1997). ReLU leaves half a point mass and half a Gaussian; a second ReLU behind a skip connection sees that law, not a Gaussian.

A contraction sums many entries and is Gaussian again: whatever does not carry a law forward drops it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, cached_property

import numpy as np

from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import Array

__all__ = ["NODES", "Marginal"]

_CHAIN = 40
"""Laws that wait for one another before they are evaluated; bounds the recursion."""

_NEGLIGIBLE = 0.05
"""Share of the variance below which a term leaves a sum Gaussian: its skewness counts by 0.05^1.5, one part in a hundred."""

_STEP = 1e-3
"""Of the standard deviation: what the nodes of a sum may shift its mean by."""


class Marginal:
    """A lazily evaluated marginal law, up to the scale and the offset that the moments of the tensor fix.

    Args:
        make: the values of x on ``GRID.z``, in any order and on any scale.
        share: of the variance, what the least Gaussian term contributes.
        depth: laws that must be evaluated before.
    """

    def __init__(self, make: Callable[[], Array], share: float = 1.0, depth: int = 0) -> None:
        self._make = make
        self.share = share
        self.depth = depth
        if depth >= _CHAIN and self.values.size:
            self.depth = 0

    @cached_property
    def values(self) -> Array:
        """``F(GRID.z)``: non-decreasing, shape ``GRID.z.shape``."""
        values = self._make()
        del self._make
        return values if np.all(np.diff(values) >= 0) else _rearranged(values, GRID.weights)

    @cached_property
    def _scale(self) -> tuple[float, float]:
        mean = float(GRID.weights @ self.values)
        return mean, math.sqrt(max(float(GRID.weights @ (self.values - mean) ** 2), 0.0))

    def scaled(self, mean: float, std: float) -> Array:
        """F with the given mean and standard deviation; a point mass at zero stays there exactly."""
        own_mean, own_std = self._scale
        if own_std <= 0.0:
            return mean + std * GRID.z
        factor = std / own_std
        offset = mean - own_mean * factor
        if abs(offset) < _STEP * std:
            offset = 0.0
        values = self.values * factor + offset
        return np.asarray(np.where(np.abs(values) < 1e-9 * (abs(mean) + std), 0.0, values))

    def latent(self, rho: Array) -> Array:
        """Correlations of z that give x the correlations ``rho``: the inverse of ``ρ(r) = Σ_{k≥1} a_k² r^k / Σ_{k≥1} a_k²``."""
        r, curve = self._curve
        return np.asarray(np.interp(rho, curve, r))

    @cached_property
    def _curve(self) -> tuple[Array, Array]:
        r, powers = _powers()
        squares = (GRID.basis @ self.values) ** 2
        squares[0] = 0.0
        curve = powers @ np.append(squares, max(self._scale[1] ** 2 - squares.sum(), 0.0))
        curve = np.maximum.accumulate(curve / curve[-1]) if curve[-1] > 0 else r
        return r, curve

    def flipped(self) -> Marginal:
        """The law of ``−x``."""
        return Marginal(lambda: -self.values[::-1], self.share, self.depth + 1)

    @staticmethod
    def of_sum(x: Factor, y: Factor) -> Marginal | None:
        """The law of a sum of independent terms; None where it is Gaussian."""
        total = x[2] ** 2 + y[2] ** 2
        for one, other in ((x, y), (y, x)):
            if other[2] <= 0.0:
                return one[0]
        shares = [law.share * std**2 / total for law, _, std in (x, y) if law is not None]
        if max(shares, default=0.0) < _NEGLIGIBLE:
            return None
        return Marginal(lambda: _combined(np.add, x, y), max(shares), _depth(x, y))

    @staticmethod
    def of_product(x: Factor, y: Factor) -> Marginal | None:
        """The law of a product of independent factors.

        None where both are Gaussian: such a product is one term of a sum, which is what it is for.
        """
        if x[0] is None and y[0] is None:
            return None
        return Marginal(lambda: _combined(np.multiply, x, y), depth=_depth(x, y))

    @staticmethod
    def weighted(make: Callable[[], tuple[Array, Array]], depth: int = 0) -> Marginal:
        """The law of values that occur with the given weights."""
        return Marginal(lambda: _rearranged(*make()), depth=depth)


def _depth(x: Factor, y: Factor) -> int:
    return 1 + max(law.depth for law, _, _ in (x, y) if law is not None)


def _combined(operation: np.ufunc, x: Factor, y: Factor) -> Array:
    curves = [mean + std * GRID.z if law is None else law.scaled(mean, std) for law, mean, std in (x, y)]
    columns = [nodes.means(curve) for nodes, curve in zip(NODES, curves, strict=True)]
    return _rearranged(operation.outer(*columns).ravel(), np.multiply.outer(*(nodes.weights for nodes in NODES)).ravel())


@cache
def _powers() -> tuple[Array, Array]:
    """A grid of correlations, denser towards ±1, and their powers, the last that of the series' tail."""
    r = np.sin(np.linspace(-0.5, 0.5, 801) * np.pi)
    return r, r[:, None] ** np.append(np.arange(GRID.orders), GRID.tail_order)


def _rearranged(values: Array, weights: Array) -> Array:
    """The quantile transport of weighted values: a non-decreasing function on ``GRID.z`` with the same law."""
    order = np.argsort(values, kind="stable")
    weights = weights[order]
    middle = np.cumsum(weights) - weights / 2
    return np.asarray(np.interp(_levels(), middle / weights.sum(), values[order]))


@cache
def _levels() -> Array:
    return np.asarray(np.cumsum(GRID.weights) - GRID.weights / 2)


class Nodes:
    """Slices of equal width in z for a coarser quadrature.

    Args:
        width: points of ``GRID.z`` in a slice.
    """

    _inner = slice(480, 1920)  # |z| < 5.4; outside lie 7e-8

    def __init__(self, width: int) -> None:
        self._shape = (-1, width)
        masses: Array = GRID.weights[self._inner].reshape(self._shape).sum(1)
        self._masses = masses
        self.weights: Array = masses / masses.sum()
        self.centres = self.means(GRID.z)

    def means(self, values: Array) -> Array:
        """A function on ``GRID.z`` as its means over the slices."""
        return np.asarray((values * GRID.weights)[self._inner].reshape(self._shape).sum(1) / self._masses)


NODES = (Nodes(12), Nodes(10))
"""For the two terms of a sum: 120 and 144 slices, so that sums do not fall on one another."""

Factor = tuple[Marginal | None, float, float]
"""A law (None is Gaussian), a mean and a standard deviation."""
