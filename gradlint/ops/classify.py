"""Losses of rows of logits against labels: cross-entropy and what it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from torch.nn import functional as F

from gradlint.moments import GRID, Array, Moments, along, carried, meet, product
from gradlint.moments.parts import on_common_atoms
from gradlint.ops.labels import Labels
from gradlint.ops.partition import given_score, log_partition
from gradlint.ops.places import positions
from gradlint.ops.primitives import affine
from gradlint.ops.registry import Call, Flow, transfer
from gradlint.ops.softmax import log_softmax, within

__all__: list[str] = []


def _classes(x: Moments) -> tuple[int, int, int]:
    """The axis of classes, their number and that of rows."""
    at = 1 if len(x.dims) > 1 else 0
    return at, x.shape[at], math.prod(x.shape) // x.shape[at]


@dataclass(frozen=True)
class _Pull:
    """What a row's gradient ``w_t (p − t)`` is made of, for random labels.

    Args:
        weight: the mean of the labels' weights, and their mean square.
        concentration: ``Σt²`` of the target distribution.
        share: of the rows that count.
        skew: mean square of ``E[w_t (p − t)]``, which every row has for a class (unequal weights).
        known: the law of ``w_t (1/C − t)`` where the labels are known.
    """

    weight: tuple[float, float]
    concentration: float
    share: float = 1.0
    skew: float = 0.0
    known: Moments | None = None

    def at(self, x: Moments, g: Moments) -> Moments:
        """The gradient at logits x, of which g arrives at every entry.

        It leans on the logits, ``E[p|x] − 1/C``: what all rows have in common of a class adds up in the bias, and a temperature
        meets the logits with their own gradient.
        """
        at, classes, _ = _classes(x)
        y = x.centre([at])
        shares, squares = _given_logit(classes, within(x, at))
        mean, square = self.weight
        lean = self.share * mean * (shares - GRID.weights @ shares)
        power = self.share * (square * (squares - 2 * shares / classes + self.concentration / classes) - self.skew)
        own = along(g, y, lean, power) if y.var > 0 else product(g, Moments.iid(x.shape, 0.0, float(GRID.weights @ power)))
        if self.skew:
            of_class = Moments.iid([classes if d == at else 1 for d in range(len(x.dims))], 0.0, self.skew * self.share)
            own = meet(own, product(g, of_class + Moments.zeros(x.shape)))
        centred = own.centre([at])
        scaled = centred.scale(math.sqrt(own.q / centred.q)) if centred.q > 0 else centred
        if self.known is not None and self.known.q > 0:
            scaled = _labelled(scaled, g, self.known, at)
        return carried(scaled, own) if y.var > x.var / 2 else scaled


def _labelled(own: Moments, g: Moments, known: Moments, at: int) -> Moments:
    """The gradient at logits with the share of the labels, so far that of independent draws, as they are."""
    unknown = product(g, Moments.iid(known.shape)).centre([at])
    now, before, out = on_common_atoms([product(g, known), unknown.scale(known.rms * g.rms / unknown.rms), own])
    return replace(out, v=out.v + now.v - before.v, mean=own.mean + now.mean, grams={})


@lru_cache(256)
def _given_logit(classes: int, variance: float) -> tuple[Array, Array]:
    return given_score(classes, variance, GRID.z)


def _per_row(x: Moments, mean: float, var: float, pull: _Pull, divisor: float, reduction: str) -> Flow:
    """A loss per row of logits, of the given mean and variance on the rows that count."""
    at, _, rows = _classes(x)
    shape, share = tuple(n for d, n in enumerate(x.shape) if d != at), pull.share
    if reduction == "none":
        out = Moments.iid(shape, mean * share, var * share + mean**2 * share * (1 - share))
        kept = tuple(1 if d == at else n for d, n in enumerate(x.shape))
        return Flow(out, lambda g: {x: pull.at(x, g.reshape(kept).expand(x.shape))})
    if reduction not in ("mean", "sum"):
        raise NotImplementedError(f"the reduction {reduction}")
    by = divisor if reduction == "mean" else 1.0
    counted = max(rows * share, 1.0)
    return Flow(
        Moments.iid((), mean * counted / by, var * counted / by**2),
        lambda g: {x: pull.at(x, g.scale(1 / by).reshape((1,) * len(x.dims)).expand(x.shape))},
    )


def _counted(target: Moments, ignore_index: int, weight: Moments | None) -> tuple[float, float, float, float]:
    """Share of rows that count, their number, the sum of their weights, and the mean square of these."""
    if target.value is None or (weight is not None and weight.value is None):
        raise NotImplementedError("labels or weights that are not known")
    labels = np.asarray(target.value).reshape(-1)
    live = labels[labels != ignore_index]
    weights = np.ones(len(live)) if weight is None else np.asarray(weight.value, dtype=np.float64)[live]
    square = float(np.mean(weights**2)) if len(live) else 0.0
    return len(live) / max(len(labels), 1), max(float(len(live)), 1.0), max(float(weights.sum()), 1e-12), square


def _labels(target: Moments, shape: tuple[int, ...], at: int, ignore_index: int, weight: Moments | None) -> Labels:
    """Labels that are known."""
    classes = np.asarray(target.value).reshape(tuple(n for d, n in enumerate(shape) if d != at)).astype(np.intp)
    live = classes != ignore_index
    of_class = np.ones(shape[at]) if weight is None else np.asarray(weight.value, dtype=np.float64)
    return Labels(classes, np.where(live, of_class[np.where(live, classes, 0)], 0.0), shape[at], at)


@transfer(F.cross_entropy)
def cross_entropy(
    call: Call, input: Moments, target: Moments, weight: Moments | None = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Flow:  # fmt: skip
    """Softmax cross-entropy against random labels: ``q_g = (E Σp² − 2/C + Σt²)/(C M²)``, mean over M rows of C classes.

    ``Σt²`` of the target distribution is 1 for a label, less with smoothing or for given probabilities.
    """
    at, classes, rows = _classes(input)
    soft = target.shape == input.shape and (target.value is None or np.asarray(target.value).dtype.kind == "f")
    if size_average is not None or reduce is not None or (weight is not None and (label_smoothing or soft)):
        raise NotImplementedError("deprecated reductions, or weights of anything but plain labels")
    _, loss, spread = log_partition(classes, within(input, at))
    share, counted, total, square = (1.0, rows, rows, 1.0) if soft else _counted(target, ignore_index, weight)
    keep, rest = 1 - label_smoothing, label_smoothing / classes
    concentration = keep**2 * (target.q * classes if soft else 1.0) + 2 * keep * rest + classes * rest**2
    skew = 0.0 if weight is None else float(np.var(positions(weight))) / classes**2  # E[w_t (p − t)] = (w̄ − w_c)/C
    known = None
    if soft and target.value is not None and not call.drawn:
        known = Moments.of_array(keep * (1 / classes - np.asarray(target.value, dtype=np.float64)))
    elif not soft and not call.drawn:
        known = _labels(target, input.shape, at, ignore_index, weight).pull(keep)
    pull = _Pull((total / counted, square), concentration, share, skew if known is None else 0.0, known)
    flow = _per_row(input, loss * total / counted, spread * square, pull, total, reduction)
    if not soft or target.value is not None:
        return flow
    surprise = log_softmax(call, input, at).out.scale(keep / (rows if reduction == "mean" else 1))

    def back(g: Moments) -> dict[Moments, Moments]:
        shape = tuple(1 if d == at else n for d, n in enumerate(input.shape)) if reduction == "none" else (1,) * len(input.dims)
        return {**flow.back(g), target: product(g.reshape(shape), surprise)}

    return Flow(flow.out, back)


@transfer(F.linear_cross_entropy)
def linear_cross_entropy(
    call: Call, input: Moments, linear_weight: Moments, target: Moments, *, linear_bias: Moments | None = None,
    weight: Moments | None = None, reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0,
    options: Any = None,
) -> Flow:  # fmt: skip
    """A linear layer and its cross-entropy in one."""
    logits = affine(input, linear_weight, linear_bias)
    loss = cross_entropy(call, logits.out, target, weight, None, -100 if ignore_index is None else ignore_index, None, reduction,
                         label_smoothing)  # fmt: skip
    return Flow(loss.out, lambda g: logits.back(loss.back(g)[logits.out]))


@transfer(F.nll_loss)
def nll_loss(
    call: Call, input: Moments, target: Moments, weight: Moments | None = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean",
) -> Flow:  # fmt: skip
    """Minus the log-probability of the label: the gradient is on one class of each row."""
    if size_average is not None or reduce is not None or reduction not in ("mean", "sum"):
        raise NotImplementedError("deprecated or no reduction")
    at, classes, _rows = _classes(input)
    share, counted, total, square = _counted(target, ignore_index, weight)
    by = total if reduction == "mean" else 1.0
    known = None if call.drawn else _labels(target, input.shape, at, ignore_index, weight).hot()
    out = Moments.iid((), -input.mean * total / by, input.var * counted * square / by**2)

    def back(g: Moments) -> dict[Moments, Moments]:
        if known is None:
            return {input: Moments.iid(input.shape, 0.0, share * square * g.q / (classes * by**2))}
        return {input: product(g.scale(-1 / by).reshape((1,) * len(input.dims)), known)}

    return Flow(out, back)
