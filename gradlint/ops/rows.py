"""Attention in closed form for positions that are not exchangeable: both directions by the moments of every two positions.

With the mean weights P (rows that sum to one) and the matrices of moments of the values (V), keys (K), queries (Q) and of the
output's gradient (G), all features alike, and ``ṽ_ij = v_j − Σ_j' P_ij' v_j'``:

    out_ii'  = Σ_jj' P_ij P_i'j' V_jj'
    dv_jj'   = Σ_ii' P_ij P_i'j' G_ii'
    dq_ii'   ∝ G_ii' Σ_jj' P_ij P_i'j' Ṽ_jj' K_jj'
    dk_jj'   ∝ Σ_ii' G_ii' Q_ii' P_ij P_i'j' Ṽ_jj'

Keys and values are linear in the same positions, so where these have little of their own Ṽ and K are low-rank alike and the
query's gradient is large by n over that rank. About its mean a row of weights varies by its scores: what these fluctuations add
sees no structure. They are counted by the row's participation, as exchangeable positions have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradlint.moments import Array, given_mean
from gradlint.ops.partition import participation

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The weights of all rows.

    Args:
        mean: P, shape (rows, keys).
        ipr: ``E Σ_j p_ij²``.
        power: over that of equal weights, ``E Σ_j p_ij² (1 − …)²``: the energy that softmax lets back (``w`` of its simulation).
        between: covariance of the scores of two rows of one head.
        kept: mean square of dropout's factor.
    """

    mean: Array
    ipr: Array
    power: Array
    between: float
    kept: float

    @classmethod
    def under(cls, mask: npt.NDArray[np.bool_], variance: float, between: float, dropout: float) -> Rows:
        """Even mean weights over what a mask (rows, keys) leaves, scores of the given variance."""
        live = mask.astype(np.float64)
        counts = np.maximum(live.sum(1), 1)
        ipr, energy = participation(counts, variance)
        even = (1 - 1 / counts) / counts
        power = np.divide(energy, even, out=np.ones_like(energy), where=even > 0)
        return cls(live / counts[:, None], ipr, power, between, 1 / (1 - dropout) if dropout < 1 else 0.0)

    @property
    def _counts(self) -> Array:
        """Keys that a row sees: over how many its mean weights are spread."""
        return np.asarray(1 / np.maximum((self.mean**2).sum(1), 1e-300))

    @property
    def _steady(self) -> Array:
        """Of a row's products ``p_j p_j'`` of different keys, what is left of those of its mean weights."""
        even = 1 / self._counts
        return np.where(even < 1 - 1e-9, (1 - self.ipr) / np.maximum(1 - even, 1e-12), 0.0)

    @property
    def _share(self) -> Array:
        """Of the energy that a row lets back, what belongs to its mean weights."""
        return np.asarray(np.minimum(self._steady / (self._counts * self.ipr), 1.0))

    def outputs(self, v: Array) -> Array:
        """Moments of two rows' outputs."""
        uneven = self.ipr * self._counts
        beside = np.minimum(math.exp(min(self.between, 50.0)), np.minimum.outer(uneven, uneven))
        np.fill_diagonal(beside, uneven * self.kept)
        return given_mean(self.mean, v, np.minimum(self.mean @ self.mean.T * beside, self.kept))

    def values(self, g: Array) -> Array:
        """Moments of two values' gradients."""
        p, own = self.mean, np.diagonal(g)
        alone = p.T * (own * self._steady) @ p
        np.fill_diagonal(alone, (p.T**2) @ (own * self.ipr * self._counts * self.kept))
        return np.asarray(p.T @ (g - np.diag(own)) @ p + alone)

    def queries(self, g: Array, v: Array, k: Array) -> Array:
        """Moments of two queries' gradients, over width and scale²."""
        p = self.mean
        pv, pk = p @ v, p @ k
        crossed = (pv * pk) @ p.T
        both = p @ (v * k) @ p.T - crossed - crossed.T + (pv @ p.T) * (pk @ p.T)
        noise = self._spread(v) * self._spread(k) / np.maximum(self._counts - 1, 1e-9)
        own = self.power * (self._share * np.diagonal(both) + (1 - self._share) * noise)
        both = both * np.outer(self._steady, self._steady)
        np.fill_diagonal(both, np.where(self._counts > 1 + 1e-9, own, 0.0))
        return np.asarray(g * both)

    def keys(self, g: Array, q: Array, v: Array) -> Array:
        """Moments of two keys' gradients, over width and scale²."""
        rows = g * q
        own = np.diagonal(rows)
        coherent = rows * np.outer(self._steady, self._steady)
        np.fill_diagonal(coherent, own * self.power * self._share)
        even = np.maximum(1 - 1 / self._counts, 1e-12)
        loose = own * self.power * (1 - self._share) * self._spread(v) / even
        return self._centred(coherent, v) + self._centred(np.diag(loose), np.eye(len(v)))

    def _spread(self, m: Array) -> Array:
        """Mean square about a row's own average."""
        p = self.mean
        return np.asarray(np.maximum(p @ np.diagonal(m) - ((p @ m) * p).sum(1), 0.0))

    def _centred(self, w: Array, m: Array) -> Array:
        """``Σ_ii' W_ii' P_ij P_i'j' M̃_jj'``."""
        p = self.mean
        pm = p @ m
        crossed = p.T @ (pm * (w @ p))
        return np.asarray(m * (p.T @ w @ p) - crossed - crossed.T + p.T @ (w * (pm @ p.T)) @ p)
