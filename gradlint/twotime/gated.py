"""A candidate behind a reset gate: ``n = tanh(x + r·v)``, r a sigmoid of a Gaussian, x and v Gaussian.

Where v is large the product is far from Gaussian, and r, v and the slope of tanh depend on one another: where ``r·v`` is large
there is little slope. Given r everything is Gaussian: functions are expanded in Hermite polynomials of the gate's pre-activation,
by quadrature, and of what is left, and pairs of steps cost a polynomial in two correlations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradlint.moments import Array
from gradlint.twotime.curves import ORDERS, expanded, points, powers

__all__ = ["Candidate", "Pairs"]

_GATE_ORDERS = 6
"""Polynomials in the gate; what they miss is one more of the next order."""


@dataclass(frozen=True)
class Pairs:
    """Pair moments of one step with the steps so far, shape (2, 1, t + 1).

    Args:
        value: of n.
        to_x: of ``∂n/∂x``.
        to_h: of ``∂n/∂v``.
        to_reset: of ``∂n/∂u``, u the pre-activation of r.
    """

    value: Array
    to_x: Array
    to_h: Array
    to_reset: Array


class Candidate:
    """All steps so far.

    Args:
        mean: of x and of v.
        steps: room for so many.
    """

    def __init__(self, mean: tuple[float, float], steps: int) -> None:
        self._mean = mean
        self._c = np.zeros((5, _GATE_ORDERS + 1, ORDERS + 1, steps))
        self._std, self._r_std, self.means = np.zeros(steps), np.zeros(steps), np.zeros((1, steps))

    def grow(self, more: int) -> None:
        """Make room for more steps."""
        self._c = np.pad(self._c, [(0, 0)] * 3 + [(0, more)])
        self._std, self._r_std = np.pad(self._std, (0, more)), np.pad(self._r_std, (0, more))
        self.means = np.pad(self.means, [(0, 0), (0, more)])

    def step(self, gate: tuple[float, Array], r: Array, x: Array, v: Array) -> Pairs:
        """A step.

        Args:
            gate: mean of the gate's pre-activation, and its covariances with the steps so far, shape (2, t + 1).
            r: pair moments of the gate, likewise.
            x: covariances of x.
            v: covariances of v.
        """
        t = x.shape[-1] - 1
        self._expand(gate[0], float(gate[1][0, t]), float(x[0, t]), float(v[0, t]), t)
        self._std[t], self._r_std[t] = np.sqrt(x[0, t] + r[0, t] * v[0, t]), np.sqrt(max(gate[1][0, t], 0.0))
        so_far = slice(t + 1)
        rho_r = _ratio(gate[1], self._r_std[t] * self._r_std[so_far])
        rho = powers(_ratio(x + r * v, self._std[t] * self._std[so_far]))
        own = x[0, t] + r[0, t] * v[0, t]
        share = float(x[0, t] / own) if own > 0 else 0.0
        rest = share * _ratio(v, v[0, t]) + (1 - share) * _ratio(x, x[0, t])
        gates = np.stack([rho_r**j for j in range(_GATE_ORDERS + 1)])
        value, to_x, to_h, *reset = (
            np.einsum("jkn,jsn,ksn->sn", c[..., t, None] * c[..., so_far], gates, rho, optimize=["einsum_path", (0, 2), (0, 1)])
            for c in self._c
        )
        to_reset = reset[0] + reset[1] * np.clip(rest, -1.0, 1.0)
        return Pairs(*(np.asarray(found)[:, None] for found in (value, to_x, to_h, to_reset)))

    def _expand(self, mean: float, var: float, x: float, v: float, t: int) -> None:
        z, weights, hermite = _nodes()
        r = 0.5 * (1 + np.tanh(0.5 * (mean + np.sqrt(max(var, 0.0)) * z)))[:, None]
        std = np.sqrt(x + r**2 * v)
        w = points()
        n = np.tanh(self._mean[0] + r * self._mean[1] + std * w)
        slope, opens = 1 - n**2, r * (1 - r)
        safe = np.maximum(std, 1e-300)
        known, left = self._mean[1] + r * v / safe * w, np.sqrt(x * v) / safe
        for store, f in zip(self._c, (n, slope, slope * r, slope * opens * known, slope * opens * left), strict=True):
            over_w = expanded(f)
            kept = hermite @ over_w
            missing = np.maximum(weights @ over_w**2 - (kept**2).sum(0), 0.0)
            store[..., t] = np.concatenate([kept, np.sqrt(missing)[None]])
        self.means[0, t] = self._c[0, 0, 0, t]


def _ratio(x: Array, by: Array | float) -> Array:
    out = np.divide(x, by, out=np.zeros_like(x), where=np.asarray(by) > 0)
    return np.clip(out, -1.0, 1.0)


def _nodes() -> tuple[Array, Array, Array]:
    """Points and weights of Gauss and Hermite, and normalised polynomials times the weights."""
    z, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    rows = [np.ones_like(z), z]
    for k in range(1, _GATE_ORDERS - 1):
        rows.append((z * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1))
    return z, weights, np.stack(rows) * weights
