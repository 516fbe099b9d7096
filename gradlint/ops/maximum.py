"""The largest of several entries: both directions of max pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from statistics import NormalDist

import numpy as np

from gradlint.moments import GRID, Array, Marginal, Moments, from_pairs, take, transported
from gradlint.ops.registry import Flow

__all__ = ["maximum"]

_ORDERS = 12
"""Hermite orders kept of the largest entry's mean given what its window shares."""


@cache
def _cumulative() -> Array:
    return np.array([NormalDist().cdf(z) for z in GRID.z])


class _Window:
    """``k`` entries ``F(√r c + √(1−r) e_i)``: c shared by the window, e_i independent, F non-decreasing.

    So the largest entry is F of the largest e_i, and any of them is the largest with probability ``E_c Φ(e)^{k−1}``.
    """

    def __init__(self, curve: Array, shared: float, k: int) -> None:
        self.curve = curve
        self.shared = shared
        self.k = k
        points, weights = np.polynomial.hermite_e.hermegauss(15)
        self._points: Array = points
        self._weights: Array = weights / weights.sum()

    @cached_property
    def values(self) -> Array:
        """The largest entry for every c (rows) and every largest e (columns)."""
        latent = np.add.outer(math.sqrt(self.shared) * self._points, math.sqrt(1 - self.shared) * GRID.z)
        return np.interp(latent, GRID.z, self.curve)

    @cached_property
    def weights(self) -> Array:
        """Of ``values``: the density of the largest of k normals is ``k φ Φ^{k−1}``."""
        density = GRID.weights * _cumulative() ** (self.k - 1)
        return np.multiply.outer(self._weights, density / density.sum())

    def given_shared(self) -> Array:
        """Hermite coefficients of the largest entry's mean given c, shape ``(_ORDERS,)``."""
        mean = (self.values * self.weights).sum(1) / self._weights
        scale = [math.sqrt(math.factorial(k)) for k in range(_ORDERS)]
        basis = np.polynomial.hermite_e.hermevander(self._points, _ORDERS - 1) / scale
        return np.asarray((self._weights * mean) @ basis)

    def largest(self) -> Array:
        """``k`` times the probability that an entry is the largest, given its own value; mean 1, shape ``GRID.z.shape``."""
        apart = np.subtract.outer(math.sqrt(1 - self.shared) * GRID.z, math.sqrt(self.shared) * self._points)
        power = np.interp(apart, GRID.z, _cumulative() ** (self.k - 1)) @ self._weights
        return np.asarray(power / (GRID.weights @ power))


def maximum(x: Moments, spatial: Sequence[tuple[int, int]], k: int) -> Flow:
    """Largest of ``k`` entries.

    Two windows have in common what their shared parts have (through the mean given c), and where they are the same window of
    another sample or channel also what their e_i have. The gradient goes to the entry that is the largest: it depends on x.

    Args:
        x: the input.
        spatial: pairs (axis, number of windows along it).
        k: entries of a window.
    """
    given = x
    for dim, _ in spatial:
        x = x.whole(dim)
    if x.var <= 0.0:
        window = None
        y = replace(x, value=None)
    else:
        dims = [dim for dim, _ in spatial]
        latent = x.latent()
        inside = [a for d in dims for a in x.atoms(d)]
        apart = tuple(int(a not in inside) for a in range(latent.ndim))
        window = _Window(x.on_grid(), min(max(float(latent[apart]), 0.0), 1.0), k)
        y = _pooled(x, window, latent, inside)
    for dim, out in spatial:
        y = y.resize(dim, out)

    def spread(g: Moments) -> Moments:
        for dim, out in spatial:
            n = x.shape[dim]
            g = g.pad(dim, n) if out <= n else g.resize(dim, n).scale(math.sqrt(out / n))
        return g

    def back(g: Moments) -> dict[Moments, Moments]:
        if window is None or y.var <= 0.0:
            return {given: spread(g)}

        def place(f: Array) -> Array:
            return window.largest() * np.interp(window.curve, y.on_grid(), f)

        return {given: transported(g, y, x, spread, place)}

    return Flow(y, back)


def _pooled(x: Moments, window: _Window, latent: Array, inside: Sequence[int]) -> Moments:
    """The law of the largest entries, still on the axes of x."""
    values, weights = window.values, window.weights
    mean = float((values * weights).sum())
    var = float(((values - mean) ** 2 * weights).sum())
    squares = window.given_shared()[1:] ** 2
    rest = max(var - float(squares.sum()), 0.0)
    differ = latent
    for a in inside:
        differ = np.stack([take(differ, a, 0)] * 2, a)
    same = np.ones_like(latent, dtype=bool)
    for a in inside:
        same &= np.arange(2).reshape([2 if b == a else 1 for b in range(latent.ndim)]) == 1
    common = np.clip(np.where(same, differ, latent) / max(window.shared, 1e-12), -1.0, 1.0) if window.shared > 0 else 0 * latent
    own = np.where(same, np.clip((latent - differ) / max(1 - window.shared, 1e-12), -1.0, 1.0), 0.0)
    powers = common[..., None] ** np.arange(1, _ORDERS)
    table = mean**2 + powers @ squares + rest * own
    return replace(from_pairs(x.dims, mean, table), law=Marginal.weighted(lambda: (values.ravel(), weights.ravel())))
