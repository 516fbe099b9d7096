"""A gradient that depends on its tensor, taken to what the tensor was made of: the terms of a sum, the factors of a product."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gradlint.moments.array import Moments
from gradlint.moments.marginal import NODES
from gradlint.moments.products import product
from gradlint.moments.profile import Profile, Term, along, fewer, later, placed, table_of, terms_of
from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import Array

__all__ = ["behind_product", "behind_sum", "conditioned", "transported"]


def transported(g: Moments, y: Moments, x: Moments, move: Callable[[Moments], Moments],
                place: Callable[[Array], Array]) -> Moments:  # fmt: skip
    """The gradient at x of which the one at y = f(x) is known, where its weights are not simply multiplied by a slope.

    Args:
        g: the gradient at y.
        y: the law of y; its variance must not be zero.
        x: the law of x.
        move: what becomes of the gradient's moments.
        place: from a function of y (on its grid) to its conditional mean given x (on the grid of x).
    """
    out = move(replace(g, profile=None))

    def terms() -> list[Term]:
        return [
            placed(move(table_of([t], y)), x, place(t.amplitude), place(t.power), move(t.source)) for t in fewer(terms_of(g), y)
        ]

    return replace(out, profile=later(terms, g.profile))


def conditioned(g: Moments, x: Moments, power: Array) -> Moments:
    """The gradient g with the profile that its mean square given x tells.

    Args:
        power: ``E[g²|x]`` on the grid of x, on any scale.
    """
    if x.var <= 0.0 or float(GRID.weights @ power) <= 0.0:
        return g
    return replace(g, profile=Profile(lambda: [placed(g, x, np.sqrt(power), power)]))


def behind_sum(g: Moments, x: Moments, y: Moments, total: Moments) -> tuple[Moments, Moments]:
    """The gradient of two independent terms of one shape from that of their sum: ``w(x) = E_y[w(x + y)]`` and vice versa."""
    bare = replace(g, profile=None)
    if g.profile is None or x.var <= 0.0 or y.var <= 0.0:  # a constant term shifts the other
        return g if x.var > 0.0 else bare, g if y.var > 0.0 else bare
    given_x, given_y = _given(x, y, total, np.add)
    return transported(g, total, x, _same, given_x), transported(g, total, y, _same, given_y)


def behind_product(g: Moments, x: Moments, y: Moments, out: Moments) -> tuple[Moments, Moments]:
    """The gradients of two independent factors from that of their product, on its shape: ``w(x) = E_y[w(xy)]`` and vice versa."""
    if g.profile is None:
        return product(g, y), product(g, x)
    if x.var <= 0.0 or y.var <= 0.0:
        return _scaled(g, y, x), _scaled(g, x, y)
    given_x, given_y = _given(x, y, out, np.multiply)

    def times(factor: Moments, given_factor: _Place, rest: Moments, given_rest: _Place) -> Moments:
        """Times a factor that the gradient may depend on: where both are of one shape, on its value."""
        if factor.shape == out.shape:
            return replace(along(transported(g, out, factor, _same, given_factor), factor, factor.on_grid()), profile=None)
        return transported(g, out, rest, lambda m: product(m, factor), given_rest)

    return times(y, given_y, x, given_x), times(x, given_x, y, given_y)


def _scaled(g: Moments, factor: Moments, rest: Moments) -> Moments:
    """The gradient at ``rest`` from that at ``factor·rest``, one of which does not vary."""
    if factor.var <= 0.0:
        return g.scale(factor.mean)
    at_factor = g.scale(math.copysign(1.0, rest.mean))
    return replace(along(at_factor, factor, factor.on_grid()), profile=None).scale(math.copysign(1.0, rest.mean))


_Place = Callable[[Array], Array]


def _given(x: Moments, y: Moments, out: Moments, combine: np.ufunc) -> tuple[_Place, _Place]:
    """From a function of ``out = x ∘ y`` (on its grid) to its conditional mean given x, and given y."""
    first, second = NODES

    @cache
    def at() -> tuple[Any, Array]:
        """Where every ``x ∘ y`` lies between the points of the grid of ``out``: after which point, and how far from it."""
        grid, values = out.on_grid(), combine.outer(first.means(x.on_grid()), second.means(y.on_grid()))
        left = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, len(grid) - 2)
        width = grid[left + 1] - grid[left]
        beyond = np.divide(values - grid[left], width, out=np.ones_like(width), where=width > 0)
        return left, np.where(values < grid[0], 0.0, np.minimum(beyond, 1.0))

    def of_both(f: Array) -> Array:
        left, beyond = at()
        return np.asarray(f[left] + beyond * np.diff(f)[left])

    def given_x(f: Array) -> Array:
        return np.interp(GRID.z, first.centres, of_both(f) @ second.weights)

    def given_y(f: Array) -> Array:
        return np.interp(GRID.z, second.centres, first.weights @ of_both(f))

    return given_x, given_y


def _same(g: Moments) -> Moments:
    return g
