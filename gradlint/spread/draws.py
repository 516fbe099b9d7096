"""Random factors of squared norms, drawn so that along a chain of factors nothing is left to chance."""

from __future__ import annotations

import math

import numpy as np

from gradlint.moments import Array

__all__ = ["COUNT", "Draws"]

COUNT = 512
"""Draws carried along. The spread of a chain does not depend on it; where paths meet it is known to ``1/√(2·512)``, 3 %."""

_SEED = 1801
_NEGLIGIBLE = 1e-7  # relative variance; a thousand such factors move the norm by one per cent
_GAUSSIAN = 0.01  # below, the logarithm of a factor is Gaussian to the third digit
_FULL = 2 / 3  # of the variance of a factor that is only ever zero or at its ceiling: estimates beyond are of more than it can be
_UNBOUNDED = 1e6
_LARGEST = 2.0  # the square of one Gaussian number; nothing fluctuates more


class Draws:
    """A seeded source of positive factors of mean 1."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(_SEED)

    def times(self, log: Array, variance: float, ceiling: float = math.inf) -> Array:
        """``log + ln X`` with X of mean 1 and the given variance.

        X is χ²_ν/ν with ν = 2/variance, what the squared norm of ν Gaussian numbers does; or, where it cannot exceed a
        ceiling, a beta variable. The draws of ln X have its exact mean and variance and are uncorrelated with ``log``: the
        variances of a chain of factors add up exactly.
        """
        variance = min(variance, _LARGEST, _FULL * (ceiling - 1))
        if not variance > _NEGLIGIBLE:
            return log
        if variance < _GAUSSIAN:
            drawn, mean, spread = self._random.standard_normal(log.size), -variance / 2, variance
        else:
            total = (ceiling - 1) / variance - 1  # a + b of the beta variable
            drawn, mean, spread = self._gamma(1 / variance) if ceiling > _UNBOUNDED else self._beta(total / ceiling, total)
        drawn = drawn - drawn.sum() / drawn.size
        centred = log - log.sum() / log.size
        square = float(centred @ centred)
        if square > 0.0:
            drawn -= centred * (float(drawn @ centred) / square)
        drawn *= math.sqrt(spread / (float(drawn @ drawn) / drawn.size))
        return np.asarray(log + drawn + mean)

    def _gamma(self, shape: float) -> tuple[Array, float, float]:
        mean, spread = _log_gamma(shape)
        return _logs(self._random.standard_gamma(shape, COUNT)), mean - math.log(shape), spread

    def _beta(self, first: float, total: float) -> tuple[Array, float, float]:
        (mean, spread), (mean_total, spread_total) = _log_gamma(first), _log_gamma(total)
        mean -= mean_total + math.log(first / total)
        return _logs(self._random.beta(first, total - first, COUNT)), mean, spread - spread_total


def _logs(x: Array) -> Array:
    return np.asarray(np.log(np.maximum(x, 1e-300)))


def _log_gamma(shape: float) -> tuple[float, float]:
    """Mean and variance of the logarithm of a gamma variable: digamma and trigamma (Abramowitz & Stegun 6.3.18, 6.4.12)."""
    digamma = trigamma = 0.0
    while shape < 8:
        digamma -= 1 / shape
        trigamma += 1 / shape**2
        shape += 1
    s = 1 / shape**2
    digamma += math.log(shape) - 1 / (2 * shape) - s * (1 / 12 - s * (1 / 120 - s / 252))
    trigamma += 1 / shape + s / 2 + s / shape * (1 / 6 - s * (1 / 30 - s / 42))
    return digamma, trigamma
