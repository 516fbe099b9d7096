"""Scalar functions of two Gaussian variables: ``E[φ(u) φ(u')]`` by Hermite coefficients, at any mean and variance.

A gate is a function of a pre-activation whose law changes from step to step, so its coefficients are worked out for each step,
on a grid coarse enough to be cheap; pairs of steps then cost one polynomial in their correlation (Daniely, Frostig & Singer 2016,
§4, arXiv:1602.05897).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradlint.moments import Array

__all__ = ["ORDERS", "RELU", "SIGMOID", "TANH", "Curve", "expanded", "paired", "points", "powers"]

ORDERS = 24
"""Hermite coefficients that are kept; what they miss is counted as one term of order :data:`_TAIL`."""

_TAIL = 36
_POINTS, _REACH = 480, 8.0


@dataclass(frozen=True)
class Curve:
    """A scalar function and its slope.

    Args:
        expand: from means and deviations, shape (n,), to the coefficients of the function and of its slope, shape
            (n, ORDERS + 1) each; the last column is the root of what the others miss.
    """

    name: str
    expand: Callable[[Array, Array], tuple[Array, Array]]


def powers(rho: Array) -> Array:
    """``ρ^0 … ρ^(ORDERS−1), ρ^tail``, along a new first axis."""
    rho = np.clip(rho, -1.0, 1.0)
    out = np.empty((ORDERS + 1, *rho.shape))
    out[0] = 1.0
    out[1:-1] = rho
    np.multiply.accumulate(out[1:-1], axis=0, out=out[1:-1])
    out[-1] = rho**_TAIL
    return out


def paired(first: Array, second: Array, rho_powers: Array) -> Array:
    """``E[φ(u) ψ(u')]``.

    Args:
        first: coefficients of φ, shape (ORDERS + 1, classes) .
        second: of ψ at every other step, shape (ORDERS + 1, classes, steps).
        rho_powers: :func:`powers` of the correlations, shape (ORDERS + 1, 2, classes, steps).
    """
    return np.asarray(np.einsum("kcn,kscn->scn", first[:, :, None] * second, rho_powers))


@cache
def _basis() -> tuple[Array, Array, Array]:
    """Points, quadrature weights, and normalised Hermite polynomials times the weights, shape (ORDERS, points)."""
    step = 2 * _REACH / _POINTS
    z = np.asarray((np.arange(_POINTS) + 0.5) * step - _REACH)
    weights = np.exp(-0.5 * z**2)
    weights /= weights.sum()
    rows = [np.ones_like(z), z]
    for k in range(1, ORDERS - 1):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return z, weights, np.stack(rows) * weights


def points() -> Array:
    """Where functions are evaluated."""
    return _basis()[0]


def expanded(values: Array) -> Array:
    """Coefficients of functions given at :func:`points`, one per row, and the root of what they miss."""
    _, weights, basis = _basis()
    kept = values @ basis.T
    rest = np.sqrt(np.maximum(values**2 @ weights - (kept**2).sum(1), 0.0))
    return np.concatenate([kept, rest[:, None]], 1)


def _smooth(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """By quadrature; the slope is given as a function of the value."""

    def expand(mean: Array, std: Array) -> tuple[Array, Array]:
        values = function(mean[:, None] + std[:, None] * _basis()[0])
        return expanded(values), expanded(slope(values))

    return expand


def _relu(mean: Array, std: Array) -> tuple[Array, Array]:
    """In closed form: the step at ``−m/σ`` has the coefficients ``ϕ(t) He_{k−1}(t)/√k!``, and ``a_k = σ d_{k−1}/√k``."""
    safe = np.maximum(std, 1e-300)
    t = -mean / safe
    above = np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in t])
    density = np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
    hermite = [np.ones_like(t), t]
    for k in range(1, ORDERS):
        hermite.append((t * hermite[k] - math.sqrt(k) * hermite[k - 1]) / math.sqrt(k + 1))
    step = np.stack([above, *(density * hermite[k - 1] / math.sqrt(k) for k in range(1, ORDERS))])
    value = np.stack([mean * above + std * density, *(std * step[k - 1] / math.sqrt(k) for k in range(1, ORDERS))])
    squares = (above, (mean**2 + std**2) * above + mean * std * density)
    rest = [np.sqrt(np.maximum(square - (c**2).sum(0), 0.0)) for c, square in zip((step, value), squares, strict=True)]
    return np.vstack([value, rest[1]]).T, np.vstack([step, rest[0]]).T


def _logistic(u: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * u)))


SIGMOID = Curve("sigmoid", _smooth(_logistic, lambda s: s * (1 - s)))
TANH = Curve("tanh", _smooth(np.tanh, lambda t: 1 - t**2))
RELU = Curve("relu", _relu)
