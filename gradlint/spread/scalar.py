"""What a scalar function and its slope leave to chance in a squared norm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gradlint.moments import GRID, Array, Moments
from gradlint.moments.array import align
from gradlint.spread.freedom import ByRows, by_rows, concentrations, correlations
from gradlint.spread.scale import Scale

__all__ = ["Response", "overlap_of_values", "respond"]

_REACH = np.linspace(-12.0, 12.0, 49)  # of ln of a squared scale
_LINEAR = 0.05  # range of a scale, in ln, within which a response is linear
_COARSE = slice(None, None, 8)  # 300 of the points of the grid


@dataclass(frozen=True)
class Response:
    """Of a squared norm to a factor that is a function of a tensor x.

    Args:
        curve: ln of the mean squared factor, over that at the mean scale of x, at the scales ``_REACH``.
        power: its slope at the mean scale.
        added: pairs of what the factor adds to squared norms whatever the norm of x.
        ceiling: the largest squared factor over the mean one.
        kurtosis: of the factor, ``E f⁴/(E f²)²``.
        coherence: mean square of the correlation of the factor in two rows, about zero.
        together: mean product of the squared factor in two rows, over the square of its mean.
    """

    curve: Array
    power: float
    added: ByRows
    ceiling: float
    kurtosis: float
    coherence: float
    together: float

    def at(self, given: Array, free: Array) -> Array:
        """Ln of the squared factor, for a scale of x and what the norm of x adds to it by chance.

        The mean over chance is that at the given scale: ``e^(power·free)`` is divided by its mean.
        """
        smooth = np.interp(given, _REACH, self.curve) if float(np.ptp(given)) > _LINEAR else self.power * given
        if not free.any():
            return np.asarray(smooth)
        return np.asarray(smooth + self.power * free - (self.power**2 - self.power) / 2 * float(free.var()))

    def of(self, kept: float, slope: Array) -> Response:
        """What is left to chance where the gradient has been through the same function before: it is zero where the slope is.

        A squared slope that is c or nothing has the variance ``c/τ − 1`` over its squared mean, τ the share of the energy that it
        lets pass; a gradient independent of it keeps ``E φ'²``, one that has met it already c.

        Args:
            kept: τ, as predicted.
            slope: φ' on the grid of its argument.
        """
        squares = slope**2
        usual, most = float(GRID.weights @ squares), float(squares.max())
        if not usual < kept or not usual < most:
            return self
        left = max((most / kept - 1) / (most / usual - 1), 0.0)
        added = ByRows(self.added.within * left, self.added.between * left, self.added.rows)
        return replace(self, added=added, ceiling=max(most / kept, 1.0), kurtosis=1 + (self.kurtosis - 1) * left)


def respond(x: Moments, factor: Array, slope: Array, axis: int, g: Moments | None = None) -> Response:
    """How a squared norm responds to a factor.

    Args:
        x: the tensor.
        factor: the function on the grid of x.
        slope: its derivative there.
        axis: of features.
        g: the law of the squares of what is multiplied (``freedom.of_squares``); None: the factor stands alone.
    """
    squares = factor**2
    mean = float(GRID.weights @ squares)
    if x.var <= 0.0 or mean <= 0.0:
        return Response(np.zeros_like(_REACH), 0.0, ByRows(0.0, 0.0, 1), math.inf, 1.0, 1.0, 1.0)
    law = x.map(squares)
    law = law.scale(1 / law.mean)
    curve = _curve(x, factor, slope)
    middle = len(_REACH) // 2
    power = float((curve[middle + 1] - curve[middle - 1]) / (_REACH[middle + 1] - _REACH[middle - 1]))
    by_norm = by_rows(x, 2 * power**2 * concentrations(x), axis)
    ceiling, coherence = float(squares.max()) / mean, 1.0
    if g is None:  # ‖f‖² ≤ max (f/x)² ‖x‖²
        added = by_rows(law, law.pairs() - 1, axis)
        ceiling = float((squares / np.maximum(x.on_grid() ** 2, 1e-300)).max()) * x.q / mean
    else:
        both, alone = align(g, law)
        added = by_rows(both, both.pairs() * (alone.pairs() - 1), axis)
        plain = x.map(factor)
        coherence = correlations(plain, axis, (plain.pairs() / max(plain.q, 1e-300)) ** 2)
    return Response(
        curve,
        power,
        ByRows(max(added.within - by_norm.within, 0.0), max(added.between - by_norm.between, 0.0), added.rows),
        ceiling,
        float(GRID.weights @ squares**2) / mean**2,
        coherence,
        correlations(law, axis, law.pairs()),
    )


def _curve(x: Moments, factor: Array, slope: Array) -> Array:
    """``ln E f(λx)² / E f(x)²``, f by its tangents at the nearest points of its grid: kinks stay where they are."""
    u, weights = x.on_grid(), GRID.weights[_COARSE] / GRID.weights[_COARSE].sum()
    points = np.multiply.outer(np.exp(_REACH / 2), u[_COARSE])
    if x.law is None:  # the grid is evenly spaced
        nearest = np.rint(np.clip((points - u[0]) / (u[1] - u[0]), 0, len(u) - 1)).astype(int)
    else:
        nearest = np.rint(np.interp(points, u, np.arange(len(u)))).astype(int)
    values = factor[nearest] + slope[nearest] * (points - u[nearest])
    squares = np.log(np.maximum((values**2) @ weights, 1e-300))
    return np.asarray(squares - squares[len(_REACH) // 2])


def overlap_of_values(x: Moments, values: Array, scale: Scale) -> float:
    """Mean square of the correlation, about zero, of two rows of a function of x."""
    if x.var <= 0.0 or scale.overlap <= 0.0:
        return scale.overlap
    table = x.latent()
    mean = correlations(x, scale.axis, table)
    chance = math.sqrt(max(scale.overlap - correlations(x, scale.axis, table**2), 0.0))
    _, products = GRID.dual(values, np.clip(np.array([mean - chance, mean + chance]), -1.0, 1.0))
    square = float(GRID.weights @ values**2)
    return float(np.mean((products / square) ** 2)) if square > 0.0 else 0.0
