"""Losses, and the log-softmax in front of them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, from_pairs, product, take
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []

_ROWS, _SEED = 2000, 1212


@cache
def _rows(classes: int, variance: float) -> tuple[float, float, float]:
    """For N(0, variance) logits: ``E Σp²``, the mean and the variance of ``logsumexp − x_target``."""
    logits = math.sqrt(max(variance, 0.0)) * np.random.default_rng(_SEED).standard_normal((_ROWS, classes))
    top = logits.max(1, keepdims=True)
    p = np.exp(logits - top)
    total = p.sum(1, keepdims=True)
    loss = (np.log(total) + top)[:, 0] - logits[:, 0]
    return float(((p / total) ** 2).sum(1).mean()), float(loss.mean()), float(loss.var())


def _within(x: Moments, dim: int) -> float:
    """Variance of the logits within a row."""
    return max(x.q - x.shared([dim]), 0.0)


@transfer(F.log_softmax, torch.log_softmax, "log_softmax")
def log_softmax(_: Call, input: Moments, dim: int | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """``x − logsumexp x``: backward ``g − p Σ_j g_j``."""
    dim = (-1 if dim is None else dim) % len(input.dims)
    x, n = input.whole(dim), input.shape[dim]
    v = _within(x, dim)
    participation, loss, _spread = _rows(n, float(f"{v:.4g}"))
    out = x.centre([dim]).shift(-loss)

    def back(g: Moments) -> dict[Moments, Moments]:
        h = g.whole(dim) + Moments.zeros(g.shape)
        if not h.dims[dim]:
            return {input: Moments.zeros(g.shape)}
        a = h.atoms(dim)[0]
        table = h.pairs()
        same, differ = take(table, a, 1), take(table, a, 0)
        row = same + (n - 1) * differ  # one entry with the sum of its row
        squares, crosses = participation / n, (1 - participation) / (n * (n - 1))
        new_same = same - 2 / n * row + squares * n * row
        new_differ = differ - 2 / n * row + crosses * n * row
        return {input: from_pairs(h.dims, 0.0, np.stack([new_differ, new_same], a))}

    return Flow(out, back)


@transfer(F.cross_entropy)
def cross_entropy(
    _: Call, input: Moments, target: Moments, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Flow:  # fmt: skip
    """Softmax cross-entropy against random labels: ``q_g = (1 − 2/C + E Σp²)/(C M²)`` for the mean over M rows of C classes."""
    if weight is not None or label_smoothing or reduction not in ("mean", "sum") or target.value is None:
        raise NotImplementedError("class weights, smoothing, unreduced losses or soft targets")
    classes_at = 1 if len(input.dims) > 1 else 0
    classes, rows = input.shape[classes_at], math.prod(input.shape) // input.shape[classes_at]
    share = float(np.mean(np.asarray(target.value) != ignore_index))
    counted = max(rows * share, 1.0)
    participation, loss, spread = _rows(classes, float(f"{_within(input, classes_at):.4g}"))
    per_row = (1 - 2 / classes + participation) / classes
    divisor = counted if reduction == "mean" else 1.0
    out = Moments.iid((), loss * counted / divisor, spread * counted / divisor**2)

    def back(g: Moments) -> dict[Moments, Moments]:
        q = per_row * share * g.q / divisor**2
        x = Moments.iid(input.shape, 0.0, q)
        return {input: x.centre([classes_at]).scale(math.sqrt(classes / (classes - 1))) if classes > 1 else x}

    return Flow(out, back)


@transfer(F.nll_loss)
def nll_loss(
    _: Call, input: Moments, target: Moments, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean",
) -> Flow:  # fmt: skip
    """Minus the log-probability of the label: the gradient is on one class of each row."""
    if weight is not None or reduction not in ("mean", "sum") or target.value is None:
        raise NotImplementedError("class weights or unreduced losses")
    classes_at = 1 if len(input.dims) > 1 else 0
    classes, rows = input.shape[classes_at], math.prod(input.shape) // input.shape[classes_at]
    share = float(np.mean(np.asarray(target.value) != ignore_index))
    divisor = max(rows * share, 1.0) if reduction == "mean" else 1.0
    counted = max(rows * share, 1.0)
    out = Moments.iid((), -input.mean * counted / divisor, input.var * counted / divisor**2)
    return Flow(out, lambda g: {input: Moments.iid(input.shape, 0.0, share * g.q / (classes * divisor**2))})


@transfer(F.mse_loss)
def mse_loss(
    _: Call,
    input: Moments,
    target: Moments,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Flow:
    """``mean (x − y)²``: ``K_g = 4 K_{x−y}/N²``."""
    if weight is not None or reduction not in ("mean", "sum"):
        raise NotImplementedError("weighted or unreduced losses")
    difference = input + target.scale(-1)
    n = math.prod(difference.shape)
    divisor = n if reduction == "mean" else 1.0
    out = Moments.iid((), difference.q * n / divisor, 2 * difference.var**2 * n / divisor**2)

    def back(g: Moments) -> dict[Moments, Moments]:
        grad = product(difference.scale(2 / divisor), g)
        return {input: grad.fold(input.shape), target: grad.fold(target.shape)}

    return Flow(out, back)
