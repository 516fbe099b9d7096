"""The largest of several entries: both directions of max pooling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from statistics import NormalDist

import numpy as np

from gradlint.moments import GRID, Array, Marginal, Moments, from_pairs, take, transported
from gradlint.ops.registry import Flow

__all__ = ["Windows", "maximum"]

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
        values: Array = np.interp(latent, GRID.z, self.curve)
        return values

    @cached_property
    def weights(self) -> Array:
        """Of ``values``: the density of the largest of k normals is ``k φ Φ^{k−1}``."""
        density = GRID.weights * _cumulative() ** (self.k - 1)
        weights: Array = np.multiply.outer(self._weights, density / density.sum())
        return weights

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


@dataclass(frozen=True)
class Windows:
    """Windows along one axis: their number, their width and their stride."""

    axis: int
    number: int
    width: int
    stride: int


def maximum(given: Moments, spatial: Sequence[Windows]) -> Flow:
    """Largest entry of every window.

    Two windows have in common what their shared parts have (through the mean given c), and where they are the same window of
    another sample or channel also what their e_i have. The gradient goes to the entry that is the largest: it depends on x.

    Args:
        given: the input.
        spatial: for every pooled axis its windows.
    """
    x = given
    for w in spatial:
        x = x.whole(w.axis)
    if x.var <= 0.0:
        return Flow(_resized(x, spatial), lambda g: {given: _spread(g, x, spatial)})
    latent = x.latent()
    inside = [a for w in spatial for a in x.atoms(w.axis)]
    apart = tuple(int(a not in inside) for a in range(latent.ndim))
    shared = min(max(float(latent[apart]), 0.0), 1.0)
    window = _Window(x.on_grid(), shared, max(math.prod(w.width for w in spatial), 1))
    y = _resized(_pooled(x, window, latent, inside), spatial)

    def back(g: Moments) -> dict[Moments, Moments]:
        def place(f: Array) -> Array:
            return window.largest() * np.interp(window.curve, y.on_grid(), f)

        move = partial(_spread, x=x, spatial=spatial)
        return {given: move(g) if y.var <= 0.0 else transported(g, y, x, move, place)}

    return Flow(y, back)


def _resized(y: Moments, spatial: Sequence[Windows]) -> Moments:
    for w in spatial:
        y = y.resize(w.axis, w.number)
    return y


def _spread(g: Moments, x: Moments, spatial: Sequence[Windows]) -> Moments:
    """Every window sends its gradient to one entry; windows that overlap may send it to the same.

    Two windows of K entries each, o of them common, have their largest entry in common with probability ``o/(2K − o)``.
    """
    for w in spatial:
        g = g.whole(w.axis)
    table, together = g.pairs(), np.zeros(())
    inside = [a for w in spatial for a in g.atoms(w.axis)]
    size = math.prod(w.width for w in spatial)
    for offsets in itertools.product(*(range((w.width - 1) // w.stride + 1) for w in spatial)):
        overlap, share = 1, 1.0
        at: list[int | slice] = [1 if a in inside else slice(None) for a in range(table.ndim)]
        for w, offset in zip(spatial, offsets, strict=True):
            overlap *= max(w.width - offset * w.stride, 0)
            share *= 2 * max(w.number - offset, 0) / w.number if offset else 1.0
            if offset and share:
                at[g.atoms(w.axis)[0]] = 0
        if any(offsets) and share:
            together = together + table[tuple(at)] * (share * overlap / (2 * size - overlap))
    for w in spatial:
        n = x.shape[w.axis]
        g = g.pad(w.axis, n) if w.number <= n else g.resize(w.axis, n).scale(math.sqrt(w.number / n))
    return _gathered(g, spatial, together * math.prod(w.number / x.shape[w.axis] for w in spatial))


def _gathered(g: Moments, spatial: Sequence[Windows], together: Array) -> Moments:
    """Move ``together`` from pairs of different entries to an entry's own mean square; their sum stays."""
    if not np.any(together):
        return g
    inside = [a for w in spatial for a in g.atoms(w.axis)]
    table = g.pairs()
    expanded = together
    for a in sorted(inside):
        expanded = np.expand_dims(expanded, a)
    table = table - expanded / (math.prod(g.sizes()[a] for a in inside) - 1)
    own = tuple(1 if a in inside else slice(None) for a in range(table.ndim))
    table[own] = g.pairs()[own] + together
    return from_pairs(g.dims, g.mean, table)


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
