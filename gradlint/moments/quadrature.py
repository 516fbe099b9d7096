"""Gaussian quadrature and the Hermite series of a scalar function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from gradlint.moments.tables import Array

__all__ = ["GRID"]


class _Grid:
    """Quadrature against the standard normal: midpoints over ±9 σ and normalised Hermite functions up to order 96.

    What the series misses (kinks, tails) is counted as one term of order 150, so that K at ρ = 1 is exact.
    """

    points, reach, orders, tail_order = 2400, 9.0, 96, 150

    def __init__(self) -> None:
        step = 2 * self.reach / self.points
        self.z: Array = np.asarray((np.arange(self.points) + 0.5) * step - self.reach, dtype=np.float64)
        density: Array = np.asarray(np.exp(-0.5 * self.z**2), dtype=np.float64)
        self.weights: Array = np.asarray(density / density.sum(), dtype=np.float64)

    @property
    def basis(self) -> Array:
        """``He_k(z)/√k!`` times the quadrature weights, shape (orders, points)."""
        return _hermite_basis()

    def dual(self, values: Array, rho: Array) -> tuple[float, Array]:
        """Mean of φ(z) and ``E[φ(z) φ(z')]`` for every correlation in ``rho``."""
        coefficients = self.basis @ values
        squares = coefficients**2
        tail = max(float(self.weights @ values**2) - float(squares.sum()), 0.0)
        return float(coefficients[0]), self._series(squares, tail, rho)

    def _series(self, terms: Array, tail: float, rho: Array) -> Array:
        """``Σ_k terms_k ρ^k + tail ρ^150``."""
        rest = tail * rho**self.tail_order
        if rho.size < self.orders:
            return np.asarray(rho[..., None] ** np.arange(self.orders) @ terms + rest)
        out = np.full_like(rho, terms[-1])
        for term in terms[-2::-1]:  # Horner's scheme: nothing is kept for every power
            out *= rho
            out += term
        return np.asarray(out + rest)

    def coefficients(self, values: Array) -> Array:
        """Hermite coefficients of φ, shape (orders,); the first is its mean."""
        return np.asarray(self.basis @ values)

    def cross(self, first: tuple[Array, Array], second: tuple[Array, Array], rho: Array) -> Array:
        """``E[φ(z) ψ(z')]`` for every correlation in ``rho``; each function as (values, coefficients)."""
        products = first[1] * second[1]
        tail = float(self.weights @ (first[0] * second[0])) - float(products.sum())
        return self._series(products, tail, rho)

    def dual_curve(self, values: Array, rho: Array) -> Array:
        """:meth:`dual` of many correlations, interpolated."""
        points = np.sin(np.linspace(-0.5, 0.5, 401) * np.pi)
        return np.asarray(np.interp(rho, points, self.dual(values, points)[1]))

    def dual_of(self, functions: Sequence[Array], rho: Array) -> Array:
        """``E[φ_i(z) φ_j(z')]`` for functions φ_i (rows) and the correlation ``rho[i, j]`` of their arguments."""
        values = np.stack(functions)
        coefficients = values @ self.basis.T
        tail = np.sqrt(np.maximum((values**2) @ self.weights - (coefficients**2).sum(1), 0.0))
        kept = coefficients[:, : self._last(coefficients)].T
        out = np.outer(kept[-1], kept[-1])
        for a in kept[-2::-1]:
            out *= rho
            out += np.outer(a, a)
        return out + np.outer(tail, tail) * rho**self.tail_order

    def _last(self, coefficients: Array) -> int:
        """Number of orders behind which nothing but rounding is left of any function (rows)."""
        energies = (coefficients**2).max(0)
        left = np.cumsum(energies[::-1])[::-1]  # from an order on
        return max(int(np.count_nonzero(left > 1e-16 * left[0])), 1)


GRID = _Grid()


@cache
def _hermite_basis() -> Array:
    rows = [np.ones_like(GRID.z), GRID.z]
    for k in range(1, GRID.orders - 1):
        rows.append((GRID.z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * GRID.weights
