"""Attention in closed form for positions that are not exchangeable: both directions by the moments of every two positions.

With the mean weights P (rows that sum to one) and the matrices of moments of the values (V), keys (K), queries (Q) and of the
output's gradient (G), all features alike, and ``ṽ_ij = v_j − Σ_j' P_ij' v_j'``:

    out_ii'  = Σ_jj' P_ij P_i'j' V_jj' (1 + D_ii' K̃_jj')
    dv_jj'   = Σ_ii' P_ij P_i'j' G_ii' (1 + D_ii' K̃_jj')
    dq_ii'   ∝ G_ii' Σ_jj' P_ij P_i'j' Ṽ_jj' K_jj'
    dk_jj'   ∝ Σ_ii' G_ii' Q_ii' P_ij P_i'j' Ṽ_jj'

Keys and values are linear in the same positions, so where these have little of their own Ṽ and K are low-rank alike and the
query's gradient is large by n over that rank. About its mean a row of weights varies by its scores, and these by the keys: D is
such that exchangeable keys give the row its participation. What they add to the gradients of queries and keys sees no structure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gradlint.moments.tables import Array

__all__ = ["Pattern", "Rows"]


@dataclass(frozen=True)
class Rows:
    """The weights of all rows: over the heads, windows or samples that a mask or a known bias tells apart.

    Args:
        patterns: one for each kind of those.
        shares: how many there are of each kind; their sum is one.
    """

    patterns: tuple[Pattern, ...]
    shares: tuple[float, ...]

    def _each(self, change: Callable[[Pattern], Pattern]) -> Rows:
        return Rows(tuple(map(change, self.patterns)), self.shares)

    def _mean(self, moments: Callable[[Pattern], Array]) -> Array:
        return np.asarray(sum(share * moments(x) for x, share in zip(self.patterns, self.shares, strict=True)))

    def dropped(self, p: float) -> Rows:
        """Behind a dropout of weights."""
        return self._each(lambda x: replace(x, kept=x.kept / (1 - p) if p < 1 else 0.0))

    def over(self, of_keys: Array) -> Rows:
        """With other moments of every two keys."""
        return self._each(lambda x: replace(x, of_keys=of_keys))

    def outputs(self, v: Array) -> Array:
        """Moments of two rows' outputs."""
        return self._mean(lambda x: x.outputs(v))

    def values(self, g: Array) -> Array:
        """Moments of two values' gradients."""
        return self._mean(lambda x: x.values(g))

    def queries(self, g: Array, v: Array) -> Array:
        """Moments of two queries' gradients, over width and scale²."""
        return self._mean(lambda x: x.queries(g, v))

    def keys(self, g: Array, q: Array, v: Array) -> Array:
        """Moments of two keys' gradients, over width and scale²."""
        return self._mean(lambda x: x.keys(g, q, v))


@dataclass(frozen=True)
class Pattern:
    """The weights of the rows of one head.

    Args:
        mean: P, shape (rows, keys).
        ipr: ``E Σ_j p_ij²``.
        power: over that of equal weights, ``E Σ_j p_ij² (1 − …)²``: the energy that softmax lets back (``w`` of its simulation).
        between: covariance of the scores of two rows of one head; shape (rows, rows) or a number.
        of_keys: moments of every two keys; only those of the gradients need their scale.
        kept: mean square of dropout's factor.
    """

    mean: Array
    ipr: Array
    power: Array
    between: Array | float
    of_keys: Array
    kept: float = 1.0

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

    def _drift(self) -> Array:
        """What the weights of two rows vary together, ``E[δp_ij δp_i'j'] = D_ii' P_ij P_i'j' K̃_jj'``: as their scores do."""
        uneven = self.ipr * self._counts
        together = np.minimum(np.exp(np.minimum(self.between, 50.0)), np.minimum.outer(uneven, uneven))
        together = np.broadcast_to(together, (len(uneven), len(uneven))).copy()
        np.fill_diagonal(together, uneven)
        own = np.sqrt(self._spread(self.of_keys))
        scale = np.outer(own, own)
        return np.asarray(np.divide(together - 1, scale, out=np.zeros_like(scale), where=scale > 0))

    @property
    def _dropped(self) -> Array:
        """What dropout adds to the mean square of every weight, shape (rows, keys)."""
        return np.asarray(self.mean**2 * ((self.kept - 1) * self.ipr * self._counts)[:, None])

    def outputs(self, v: Array) -> Array:
        """Moments of two rows' outputs."""
        alone = self.mean @ v @ self.mean.T + self._drift() * self._both(v, self.of_keys)
        return np.asarray(alone + np.diag(self._dropped @ np.diagonal(v)))

    def values(self, g: Array) -> Array:
        """Moments of two values' gradients."""
        alone = self.mean.T @ g @ self.mean + self._centred(g * self._drift(), self.of_keys)
        return np.asarray(alone + np.diag(self._dropped.T @ np.diagonal(g)))

    def queries(self, g: Array, v: Array) -> Array:
        """Moments of two queries' gradients, over width and scale²."""
        both = self._both(v, self.of_keys)
        noise = self._spread(v) * self._spread(self.of_keys) / np.maximum(self._counts - 1, 1e-9)
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

    def _both(self, v: Array, k: Array) -> Array:
        """``Σ_jj' P_ij P_i'j' Ṽ_jj' K_jj'``."""
        p = self.mean
        pv, pk = p @ v, p @ k
        crossed = (pv * pk) @ p.T
        return np.asarray(p @ (v * k) @ p.T - crossed - crossed.T + (pv @ p.T) * (pk @ p.T))

    def _spread(self, m: Array) -> Array:
        """Mean square about a row's own average."""
        p = self.mean
        return np.asarray(np.maximum(p @ np.diagonal(m) - ((p @ m) * p).sum(1), 0.0))

    def _centred(self, w: Array, m: Array) -> Array:
        """``Σ_ii' W_ii' P_ij P_i'j' M̃_jj'``."""
        p = self.mean
        pm, wp = p @ m, w @ p
        crossed = p.T @ (pm * wp)
        return np.asarray(m * (p.T @ wp) - crossed - crossed.T + p.T @ ((w * (pm @ p.T)) @ p))
