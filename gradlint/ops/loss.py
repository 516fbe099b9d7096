"""Losses of every entry alone.

The function itself is evaluated, on the quadrature grid of its first argument for every value
of the others (their own values where they are known), and differentiated there.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import GRID, Array, Moments, along, behind_sum
from gradlint.moments.marginal import NODES
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []

_VALUES = 128
_NODES = NODES[0]

# ---- one entry at a time -------------------------------------------------------------------------------------------------


def _stand_ins(y: Moments, *, positive: bool) -> tuple[Array, Array]:
    """Values and weights that stand for the entries of a tensor; of a log-normal one, if they must be ``positive``."""
    if y.value is not None:
        values, counts = np.unique(np.asarray(y.value, dtype=np.float64), return_counts=True)
        if len(values) <= _VALUES:
            return values, counts / counts.sum()
        bins = np.array_split(np.sort(np.asarray(y.value, dtype=np.float64), axis=None), _VALUES)
        return np.array([b.mean() for b in bins]), np.array([len(b) for b in bins]) / sum(map(len, bins))
    values = _NODES.means(y.on_grid())
    if positive and values.min() <= 0 < y.mean:
        spread = math.log1p(y.var / y.mean**2)
        values = y.mean * np.exp(math.sqrt(spread) * _NODES.centres - spread / 2)
    return values, _NODES.weights


@dataclass(frozen=True)
class _Entries:
    """A function of every entry of x.

    Args:
        value: its law.
        back: from a gradient that does not depend on the arguments to the one at x.
        others: likewise to the ones at the other arguments, broadcast to the shape of x.
    """

    value: Moments
    back: Callable[[Moments], Moments]
    others: Mapping[str, Callable[[Moments], Moments]]


def _entrywise(function: Callable[..., torch.Tensor], x: Moments, others: Mapping[str, Moments], *,
               probability: bool = False, positive: bool = False) -> _Entries:  # fmt: skip
    """Evaluate a function of x and of ``others``, all of them independent.

    Args:
        function: of a tensor and of ``others`` by name, entry by entry.
        probability: x lies within (0, 1); it is taken to be the sigmoid of a Gaussian.
        positive: the others are.
    """
    if sum(y.value is None for y in others.values()) > 1:
        raise NotImplementedError("a loss of several random targets")
    stand_ins = {name: _stand_ins(y, positive=positive) for name, y in others.items()}
    points = list(itertools.product(*(range(len(values)) for values, _ in stand_ins.values())))
    p = np.array([math.prod(w[i] for i, (_, w) in zip(point, stand_ins.values(), strict=True)) for point in points])
    grid = _sigmoid_of_gaussian(x) if probability else x.on_grid()
    u = torch.tensor(grid).expand(len(points), -1).clone().requires_grad_(True)
    columns = {}
    for i, (name, (values, _)) in enumerate(stand_ins.items()):
        column = torch.tensor([[values[point[i]]] for point in points], dtype=torch.float64)
        columns[name] = column.expand(u.shape).clone().requires_grad_(others[name].value is None)
    with torch.enable_grad():
        out = function(u, **columns)
        free = [name for name, column in columns.items() if column.requires_grad]
        slopes: Any = torch.autograd.grad(out.sum(), [u, *(columns[name] for name in free)], allow_unused=True)

    values, slope = out.detach().numpy(), slopes[0].numpy()
    averaged = x.map(p @ values)  # of a pair of entries each has its own values of the others: only x correlates them
    v = averaged.v.copy()
    v[(-1,) * v.ndim] += max(float(GRID.weights @ (p @ values**2 - (p @ values) ** 2)), 0.0)
    by_others = {}
    for name, by_other in zip(free, slopes[1:], strict=True):
        if by_other is not None:
            by_others[name] = _by_other(by_other.numpy(), p, _wide(others[name], [x]))
    value = Moments(averaged.dims, averaged.mean, v)
    return _Entries(value, lambda g: along(g, x, p @ slope, p @ slope**2), by_others)


def _by_other(slope: Array, p: Array, y: Moments) -> Callable[[Moments], Moments]:
    """The gradient at another argument, whose values follow one another in the rows of ``slope``."""
    rows = slope.reshape(-1, len(_NODES.weights), slope.shape[-1]) if len(slope) % len(_NODES.weights) == 0 else slope[None]
    share = p.reshape(rows.shape[:2])
    share = share / share.sum(0)
    amplitude, power = ((share * (f(rows) @ GRID.weights)).sum(0) for f in (np.asarray, np.square))
    place = [np.interp(GRID.z, _NODES.centres, curve) for curve in (amplitude, power)]
    return lambda g: along(g, y, place[0], place[1])


def _sigmoid_of_gaussian(x: Moments) -> Array:
    """Values within (0, 1) with the mean and (to first order) the variance of ``x``."""
    m = min(max(x.mean, 1e-6), 1 - 1e-6)
    logits = math.log(m / (1 - m)) + math.sqrt(x.var) / (m * (1 - m)) * GRID.z
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30.0, 30.0))), dtype=np.float64)


def _reduced(value: Moments, back: Callable[[Moments], dict[Moments, Moments]], reduction: str, rows: int) -> Flow:
    """The loss of every entry, summed or averaged."""
    shape, n = value.shape, math.prod(value.shape)
    if reduction == "none":
        return Flow(value, back)
    scale = 1 / {"mean": n, "sum": 1, "batchmean": rows}[reduction]
    return Flow(
        value.sum(range(len(shape))).scale(scale),
        lambda g: back(g.scale(scale).reshape((1,) * len(shape)).expand(shape)),
    )


def _folded(g: Moments, x: Moments) -> Moments:
    return g if g.shape == x.shape else g.fold(x.shape)


def _wide(x: Moments, others: Sequence[Moments]) -> Moments:
    """``x`` broadcast against the others."""
    shape = np.broadcast_shapes(x.shape, *(y.shape for y in others))
    return x + Moments.zeros(shape) if x.shape != shape else x


def _of_entries(
    function: Callable[..., torch.Tensor],
    *,
    difference: bool = False,
    probability: bool = False,
    positive: bool = False,
) -> None:
    """Register a loss that acts on every entry alone.

    Args:
        difference: it is a function of the difference of its first two arguments.
        probability: its first argument lies within (0, 1).
        positive: its other arguments are (the variances of a likelihood).
    """
    signature = inspect.signature(function)
    first, second = list(signature.parameters)[:2]

    def loss(_: Call, *args: Any, **kw: Any) -> Flow:
        given = dict(signature.bind(*args, **kw).arguments)
        x, y, reduction = given.pop(first), given.pop(second), given.pop("reduction", "mean")
        if any(given.get(name) is not None for name in ("size_average", "reduce", "weight")):
            raise NotImplementedError("a weighted loss")
        others = {name: m for name, m in given.items() if isinstance(m, Moments)}
        rest = {name: m for name, m in given.items() if name not in others and m is not None}
        rows = x.shape[0] if x.dims else 1
        if difference:
            minus = y.scale(-1)
            gap = _wide(x + minus, list(others.values()))
            found = _entrywise(
                lambda u, **columns: function(u, torch.zeros_like(u), **columns, **rest, reduction="none"),
                gap, others, positive=positive,
            )  # fmt: skip
        else:
            others, gap = {second: y, **others}, None
            found = _entrywise(
                lambda u, **columns: function(u, **columns, **rest, reduction="none"), _wide(x, list(others.values())), others,
                probability=probability, positive=positive and not rest.get("log_target"),
            )  # fmt: skip

        def back(g: Moments) -> dict[Moments, Moments]:
            grads = {others[name]: _folded(at(g), others[name]) for name, at in found.others.items()}
            arrived = found.back(g)
            if gap is None:
                return {x: _folded(arrived, x), **grads}
            if x.shape == y.shape == gap.shape:
                left, right = behind_sum(arrived, x, minus, gap)
                return {x: left, y: right.scale(-1), **grads}
            return {x: _folded(arrived, x), y: _folded(arrived.scale(-1), y), **grads}

        return _reduced(found.value, back, reduction, rows)

    loss.__name__ = function.__name__
    transfer(function)(loss)


_of_entries(F.l1_loss, difference=True)
_of_entries(F.mse_loss, difference=True)
_of_entries(F.smooth_l1_loss, difference=True)
_of_entries(F.huber_loss, difference=True)
_of_entries(F.gaussian_nll_loss, difference=True, positive=True)
_of_entries(F.margin_ranking_loss, difference=True)
_of_entries(F.binary_cross_entropy_with_logits)
_of_entries(F.binary_cross_entropy, probability=True)
_of_entries(F.kl_div, positive=True)
_of_entries(F.poisson_nll_loss)
_of_entries(F.soft_margin_loss)
_of_entries(F.hinge_embedding_loss)


@transfer(F.multilabel_soft_margin_loss)
def multilabel_soft_margin_loss(_: Call, input: Moments, target: Moments, weight: Any = None, size_average: Any = None,
                                reduce: Any = None, reduction: str = "mean") -> Flow:  # fmt: skip
    """The binary cross-entropy of logits, averaged over classes first."""
    if weight is not None or size_average is not None or reduce is not None or reduction == "none":
        raise NotImplementedError("a weighted or unreduced loss")

    def function(u: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(u, target, reduction="none")

    found = _entrywise(function, input, {"target": target})
    flow = _reduced(found.value, lambda g: {input: found.back(g)}, "mean", 1)
    scale = 1 if reduction == "mean" else math.prod(input.shape[:-1])
    return Flow(flow.out.scale(scale), lambda g: flow.back(g.scale(scale)))
