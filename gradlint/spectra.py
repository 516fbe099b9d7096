"""Spectral norm and spectral radius of a weight matrix: from its law by random-matrix theory, from its values by iteration.

A tensor of more than two axes is the matrix ``(shape[0], the rest)``, as in ``torch.nn.utils.spectral_norm``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from gradlint.trace.law import Law

__all__ = ["radius", "sigma_max"]

_TRACY_WIDOM = -1.2065  # mean of the Tracy–Widom law of real matrices
_NARROW = 16  # below it, σ_max is the mean over draws of the bidiagonal model
_DRAWS = 512
_DENSE = 256  # up to it, values are decomposed
_STEPS = 128  # of Lanczos
_SQUARED = 1024  # up to it, a matrix is squared again and again
_SQUARINGS = 12
_POWERS = 400
_CLOSE = 1e-4

Array = npt.NDArray[np.float64]


def sigma_max(weights: Law | npt.ArrayLike, shape: Sequence[int] | None = None) -> float:
    """The expected largest singular value.

    * independent entries: Bai & Yin's edge ``s(√m+√n)`` with the Tracy–Widom shift (Johnstone 2001, theorem 1.1); within 1 % of
      the mean over draws. Narrow matrices: the mean over seeded draws of Silverstein's bidiagonal model, exact for Gaussians;
    * a mean ``μ`` is a spike ``θ = |μ|√(mn)``, outside of the bulk when ``θ > s(mn)^¼``: then ``√((θ²+ms²)(θ²+ns²))/θ``
      (Benaych-Georges & Nadakuditi 2012, §3.1);
    * orthogonal and identity: exact;
    * values: their decomposition, or Golub–Kahan–Lanczos iteration to a relative 1e-4.

    Args:
        weights: a law, or real values.
        shape: of the part of a parameter that is meant, such as one gate of a stacked recurrent weight; the whole if None. Only
            for laws: of values, pass the part.
    """
    if (values := _values(weights, shape)) is not None:
        return _sigma_of_values(values)
    law = cast(Law, weights)
    m, n = _matrix(law.moments.shape if shape is None else shape)
    match law.kind:
        case "orthogonal":
            return law.std * math.sqrt(max(m, n))
        case "identity":
            return _diagonal(law)
    bulk, spike = law.std * _edge(min(m, n), max(m, n)), abs(law.mean) * math.sqrt(m * n)
    if spike <= law.std * (m * n) ** 0.25:
        return bulk
    return max(bulk, math.sqrt((spike**2 + m * law.std**2) * (spike**2 + n * law.std**2)) / spike)


def radius(weights: Law | npt.ArrayLike, shape: Sequence[int] | None = None) -> float:
    """The expected spectral radius of a square matrix, ``|λ|`` of its largest eigenvalue.

    * independent entries: the circular law ``s√n`` with its finite-size excess (:func:`_ginibre`), within 1 % for n ≥ 3;
    * a mean ``μ`` adds the eigenvalue ``nμ`` (Tao 2013, theorem 1.7);
    * orthogonal and identity: exact;
    * values: eigenvalues up to 256 rows, Gelfand's ``‖Wᵏ‖^(1/k)`` up to 1024, beyond it the growth of ``‖Wᵏx‖``.

    Args:
        weights: as for :func:`sigma_max`.
        shape: as for :func:`sigma_max`.

    Raises:
        ValueError: the matrix is not square.
    """
    values = _values(weights, shape)
    law = cast(Law, weights)
    m, n = values.shape if values is not None else _matrix(law.moments.shape if shape is None else shape)
    if m != n:
        raise ValueError(f"a matrix of {m} × {n} has no eigenvalues")
    if values is not None:
        return _radius_of_values(values)
    match law.kind:
        case "orthogonal":
            return float(law.std * math.sqrt(n))
        case "identity":
            return _diagonal(law)
    return float(max(law.std * _ginibre(n), abs(law.mean) * n))


def _values(weights: Law | npt.ArrayLike, shape: Sequence[int] | None) -> Array | None:
    """The real matrix, where the weights are one."""
    if not isinstance(weights, Law):
        values: npt.NDArray[np.generic] | None = np.asarray(weights)
    else:  # of a law in closed form a draw may be at hand, too; it is not what is judged
        values = weights.moments.value if weights.kind in ("values", "mixed", "identity") else None
        if values is None and weights.load is not None:
            values = weights.load()
        if values is not None and shape is not None and tuple(shape) != values.shape:
            values = None
    return None if values is None else values.reshape(_matrix(values.shape)).astype(np.float64)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    rows = shape[0] if len(shape) else 1
    return rows, math.prod(shape) // max(rows, 1)


def _diagonal(law: Law) -> float:
    """The entries of a multiple of the identity, from the mean square of all."""
    m, n = _matrix(law.moments.shape)
    return math.sqrt(law.moments.q * m * n / max(min(m, n), 1))


@lru_cache(256)
def _edge(m: int, n: int) -> float:
    """E σ_max of a matrix of m ≤ n with independent standard normal entries."""
    if m < _NARROW:
        random = np.random.default_rng(0)
        draws = np.zeros((_DRAWS, m, m))
        for i in range(m):
            draws[:, i, i] = np.sqrt(random.chisquare(n - i, _DRAWS))
            if i + 1 < m:
                draws[:, i + 1, i] = np.sqrt(random.chisquare(m - 1 - i, _DRAWS))
        return float(np.linalg.norm(draws, 2, axis=(1, 2)).mean())
    a, b = math.sqrt(n - 1), math.sqrt(m)
    return math.sqrt((a + b) ** 2 + _TRACY_WIDOM * (a + b) * (1 / a + 1 / b) ** (1 / 3))


@lru_cache(256)
def _ginibre(n: int) -> float:
    """E |λ|_max of a matrix of n × n with independent standard normal entries.

    Eigenvalues beyond r are few and nearly independent there: real ones, and pairs. Of all eigenvalues there are about as many
    beyond r as in the complex ensemble, whose squared moduli are independent Gamma(k, 1), k = 1 … n (Kostlan 1992); of real ones
    the number is known (Edelman, Kostlan & Shub 1994, theorem 4.6). So
    ``P(|λ|_max < r) ≈ √Π_k P(Γ_k < r²) · exp(−½ E N_real(r))``.
    """
    edge = math.sqrt(n)
    r = torch.linspace(max(edge - 8, 0.0), edge + 8, 1601, dtype=torch.float64)
    k = torch.arange(max(1, n - int(14 * edge)), n + 1, dtype=torch.float64)
    pairs = torch.special.gammainc(k[:, None], (r**2)[None]).clamp_min(1e-300).log().sum(0) / 2
    if n == 1:
        density = torch.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
        pairs = torch.zeros_like(pairs)
    else:
        at = torch.tensor(n - 1.0, dtype=torch.float64)
        bulk = torch.special.gammaincc(at, r**2) / math.sqrt(2 * math.pi)
        scale = torch.exp((n - 1) * r.clamp_min(1e-9).log() - r**2 / 2 - math.lgamma(n / 2) - n / 2 * math.log(2))
        density = bulk + scale * torch.special.gammainc(at / 2, r**2 / 2)
    real = 2 * density.flip(0).cumsum(0).flip(0) * (r[1] - r[0])
    below = torch.exp(pairs - (real if n == 1 else real / 2))
    if n == 1:
        below = 1 - real.clamp(max=1.0)
    return float(r[0] + torch.trapezoid(1 - below, r))


def _sigma_of_values(w: Array) -> float:
    if not np.isfinite(w).all():
        return math.nan
    if min(w.shape) <= _DENSE:
        return float(np.linalg.norm(w, 2)) if w.size else 0.0
    w = w if w.shape[0] >= w.shape[1] else w.T
    v: Array = np.random.default_rng(0).standard_normal((w.shape[1],))
    v = v / float(np.linalg.norm(v))
    basis: list[Array] = [v]
    found = 0.0
    alphas: list[float] = []
    betas: list[float] = []
    u: Array = np.zeros(w.shape[0])
    for step in range(_STEPS):
        u = w @ v - u * (betas[-1] if betas else 0.0)
        alphas.append(float(np.linalg.norm(u)))
        u = u / alphas[-1] if alphas[-1] else u
        v = w.T @ u - alphas[-1] * v
        known = np.stack(basis)
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            v = v - known.T @ (known @ v)
        betas.append(float(np.linalg.norm(v)))
        before, found = found, float(np.linalg.norm(np.diag(alphas) + np.diag(betas[:-1], 1), 2))
        if betas[-1] <= _CLOSE * found or (step > 8 and found - before <= _CLOSE / 50 * found):
            break
        v = v / betas[-1]
        basis.append(v)
    return found


def _radius_of_values(w: Array) -> float:
    n = len(w)
    if not n or not np.isfinite(w).all():
        return 0.0 if not n else math.nan
    if n <= _DENSE:
        return float(np.abs(np.linalg.eigvals(w)).max())
    log = 0.0
    if n <= _SQUARED:
        for i in range(_SQUARINGS):
            size = float(np.linalg.norm(w))
            if size == 0:
                return 0.0
            log += math.log(size) / 2**i
            w = w / size
            w = w @ w
        return math.exp(log + math.log(max(float(np.linalg.norm(w)), 1e-300)) / 2**_SQUARINGS)
    x = np.random.default_rng(0).standard_normal((n, 4))
    for i in range(_POWERS):
        size = float(np.linalg.norm(x))
        if size == 0:
            return 0.0
        log += math.log(size) if i > _POWERS // 4 else 0.0
        x = w @ (x / size)
    return math.exp(log / (_POWERS - 1 - _POWERS // 4))
