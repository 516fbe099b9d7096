"""The squared norm of one tensor over draws of the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradlint.moments import Array, Moments
from gradlint.spread.draws import COUNT

__all__ = ["FIXED", "UNKNOWN", "Scale", "Spread", "features_of", "followed", "mixed"]

_log = logging.getLogger("gradlint")

_DECILE = 1.2816  # 10 % of a Gaussian lie beyond this many standard deviations, on either side
_SLACK = 0.5  # bits by which a median may contradict the mean before neither is told
_BITS = 1 / (2 * math.log(2))  # ln of a mean square to log2 of its root


@dataclass(frozen=True)
class Spread:
    """Where one draw lies.

    Args:
        typical: log2 of the median rms over the root of the mean square; rarely above 0.
        bits: standard deviation of log2 of the rms.
    """

    typical: float = 0.0
    bits: float = 0.0

    @property
    def consistent(self) -> bool:
        """With a mean square of one: no median lies much above it, nor much further below than that of a lognormal."""
        return -math.log(2) * self.bits**2 - _SLACK <= self.typical <= _SLACK

    @property
    def ends(self) -> tuple[float, float]:
        """Between these, relative to the root of the mean square, lie 80 % of the draws (bits; the logarithm is Gaussian)."""
        return self.typical - _DECILE * self.bits, self.typical + _DECILE * self.bits


@dataclass(frozen=True)
class Scale:
    """A squared norm, and what the next op must know of the array besides its moments.

    Args:
        log: ln of the squared norm over its mean, shape ``(COUNT,)``.
        given: the part of it that every entry shares; the rest is that there are finitely many entries.
        kurtosis: ``E x⁴/(E x²)²`` of an entry; 3 for a Gaussian one.
        overlap: mean square of the accidental correlation of two rows.
        unequal: variance of the logarithms of the squared norms of single rows, beside what they share.
        axis: of features.
        known: nothing that is not followed has a part in it.
    """

    log: Array
    given: Array
    kurtosis: float = 3.0
    overlap: float = 0.0
    unequal: float = 0.0
    axis: int = -1
    known: bool = True

    @property
    def free(self) -> Array:
        """What is not shared by all entries."""
        return np.asarray(self.log - self.given)

    @cached_property
    def spread(self) -> Spread:
        """Median (from mean and skewness, Cornish & Fisher 1938: less noisy than the middle draw) and standard deviation."""
        mean = float(self.log.sum()) / self.log.size
        centred = self.log - mean
        std = math.sqrt(float(centred @ centred) / self.log.size)
        if std <= 0.0:
            return Spread(mean * _BITS, 0.0)
        skewness = float((centred * centred) @ centred) / self.log.size / std**3
        return Spread((mean - std * skewness / 6) * _BITS, std * _BITS)


FIXED = Scale(np.zeros(COUNT), np.zeros(COUNT))
"""Of what is the same in every draw."""


UNKNOWN = replace(FIXED, known=False)


def followed(step: Callable[..., Scale], *args: Any) -> Scale:
    """What a step gives, or that it is unknown: a formula that breaks must not take the mean with it."""
    try:
        return step(*args)
    except Exception:  # noqa: BLE001 (whatever it is)
        _log.debug("the spread behind %s is unknown", args[0], exc_info=True)
        return UNKNOWN


def features_of(x: Moments, axis: int) -> int:
    """Size of the feature axis."""
    if not x.dims:
        return 1
    return x.shape[axis if -len(x.dims) <= axis < len(x.dims) else -1]


def mixed(terms: Sequence[tuple[float, Scale]]) -> Scale:
    """The squared norm of a sum of orthogonal terms, with the shares of their mean squares. Shares add up to 1."""
    terms = [(share, scale) for share, scale in terms if share > 0.0]
    if not terms:
        return FIXED
    if len(terms) == 1:
        return terms[0][1]
    log, given = (_added([(share, scale.log if whole else scale.given) for share, scale in terms]) for whole in (True, False))
    kurtosis = 3 + sum(share**2 * (scale.kurtosis - 3) for share, scale in terms)
    overlap = sum(share * scale.overlap for share, scale in terms)
    unequal = sum(share**2 * scale.unequal for share, scale in terms)
    axis = max(terms, key=lambda term: term[0])[1].axis
    return Scale(log, given, kurtosis, overlap, unequal, axis, all(scale.known for _, scale in terms))


def _added(terms: Sequence[tuple[float, Array]]) -> Array:
    top = np.maximum.reduce([log for _, log in terms])
    total: Array = np.sum([share * np.exp(log - top) for share, log in terms], axis=0)
    return np.asarray(top + np.log(total))
