"""Dropout and stochastic depth: multiplication by an independent mask of mean 1."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gradlint.moments import Moments, product
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
    return Flow(product(x, mask), lambda g: {x: product(g, mask)})


@transfer(F.dropout, torch.dropout, apart=broadcast)
def dropout(_: Call, input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Flow:
    """Each entry alone: ``K[same]/(1−p)``, pairs unchanged (Srivastava et al. 2014)."""
    return _drop(input, p if training else 0.0, None)


@transfer(F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout)
def feature_dropout(_: Call, input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Flow:
    """Whole channels of a sample."""
    return _drop(input, p if training else 0.0, 2)
