"""Dropout and stochastic depth: multiplication by an independent mask of mean 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from gradlint.moments import Moments, disjoint, product
from gradlint.ops.apart import broadcast
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _drop(x: Moments, p: float, axes: int | None) -> Flow:
    """Keep with probability 1−p over independent cells of the first ``axes`` axes (all of them when None)."""
    if p <= 0:
        return Flow(x, lambda g: {x: g})
    if p >= 1:
        return Flow(Moments.zeros(x.shape), lambda _: {x: Moments.zeros(x.shape)})
    shape = [n if axes is None or d < axes else 1 for d, n in enumerate(x.shape)]
    mask = Moments.iid(shape, 1.0, p / (1 - p))
    rows = None if x.rows is None or axes is not None else x.rows.dropped(p)
    return Flow(replace(product(x, mask), rows=rows), lambda g: {x: product(g, mask)})


@transfer(F.dropout, torch.dropout, apart=broadcast)
def dropout(_: Call, input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Flow:
    """Each entry alone: ``K[same]/(1−p)``, pairs unchanged (Srivastava et al. 2014)."""
    return _drop(input, p if training else 0.0, None)


def _channels(x: Moments, batched: int) -> int:
    """Leading axes of the cells that whole channels are: (sample, channel), or the channel of a single sample."""
    return 2 if len(x.dims) >= batched else 1


def _of_channels(function: Any, batched: int, *others: Any) -> None:
    """Register a dropout of whole channels; ``batched`` is the rank of its input with a batch axis."""

    def channel_dropout(_: Call, input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Flow:
        return _drop(input, p if training else 0.0, _channels(input, batched))

    channel_dropout.__name__ = function.__name__
    transfer(function, *others)(channel_dropout)


_of_channels(F.dropout1d, 3)
_of_channels(F.dropout2d, 3, torch.feature_dropout)
_of_channels(F.dropout3d, 5)

_SATURATED = -1.7580993408473766
"""What SELU tends to for x → −∞, ``−λα``."""


def _alpha_drop(x: Moments, p: float, axes: int | None) -> Flow:
    """``a·(x where kept, α' elsewhere) + b`` with a, b such that N(0, 1) keeps its mean and variance (Klambauer et al. 2017)."""
    if p <= 0:
        return Flow(x, lambda g: {x: g})
    if p >= 1:
        return Flow(Moments.zeros(x.shape), lambda _: {x: Moments.zeros(x.shape)})
    a = ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5
    shape = [n if axes is None or d < axes else 1 for d, n in enumerate(x.shape)]
    mask = Moments.iid(shape, 1 - p, p * (1 - p))
    mixed = disjoint(product(x, mask), mask.scale(-_SATURATED).shift(_SATURATED), mask)
    return Flow(mixed.scale(a).shift(-a * _SATURATED * p), lambda g: {x: product(g, mask).scale(a)})


@transfer(F.alpha_dropout, torch.alpha_dropout, apart=broadcast)
def alpha_dropout(_: Call, input: Moments, p: float = 0.5, training: bool = False, inplace: bool = False) -> Flow:
    """Dropout for SELU: dropped entries take its saturated value."""
    return _alpha_drop(input, p if training else 0.0, None)


@transfer(F.feature_alpha_dropout, torch.feature_alpha_dropout)
def feature_alpha_dropout(_: Call, input: Moments, p: float = 0.5, training: bool = False, inplace: bool = False) -> Flow:
    """The same of whole channels."""
    return _alpha_drop(input, p if training else 0.0, 2)
