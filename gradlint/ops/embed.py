"""Lookups by integers: rows of a table, alone or summed in bags. A row collects the gradients of the positions that read it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import MAX_MOVED, Moments, Positions, Selection, Window, product
from gradlint.ops.places import positions
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _lookup(ids: Positions, weight: Moments, padding: int | None, max_norm: float | None, by_frequency: bool) -> Flow:
    """Two positions share their row as often as their ids coincide; of a table with real values the rows are known.

    Args:
        padding: the row that gets no gradient.
        max_norm: rows are shortened to it, in place: the gradient does not know.
    """
    if by_frequency:
        raise NotImplementedError("gradients scaled by frequency")
    places = range(ids.ndim)
    found = Selection.within(weight.shape, [0], ids, places)
    if padding is None or not (ids == padding % weight.shape[0]).any():
        learning = found
    else:
        learning = Selection.within(weight.shape, [0], np.where(ids == padding % weight.shape[0], -1, ids), places)
    length = math.sqrt(weight.shape[1] * weight.q)
    shortened = 1.0 if max_norm is None or length == 0 else min(max_norm / length, 1.0)
    known = weight.value is not None and ids.size * weight.shape[1] <= MAX_MOVED
    rows = replace(Moments.of_table(np.asarray(weight.value)[ids]), value=None) if known else found.gather(weight)
    return Flow(rows.scale(shortened), lambda g: {weight: learning.spread(g)})


@transfer(F.embedding, torch.embedding)
def embedding(_: Call, input: Moments, weight: Moments, padding_idx: int | None = None, max_norm: float | None = None,
              norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Flow:  # fmt: skip
    """Row lookup; the padding row gets no gradient."""
    if norm_type != 2 and max_norm is not None:
        raise NotImplementedError("rows shortened by another norm than the Euclidean")
    padding = None if padding_idx == -1 else padding_idx  # torch.embedding's way to say that there is none
    return _lookup(positions(input), weight, padding, max_norm, scale_grad_by_freq)


@transfer(F.embedding_bag)
def embedding_bag(
    _: Call, input: Moments, weight: Moments, offsets: Moments | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Moments | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Flow:  # fmt: skip
    """Rows looked up and added (or averaged) in bags: the columns of a matrix, or stretches of a list that start at offsets."""
    if mode not in ("sum", "mean") or max_norm is not None or scale_grad_by_freq:
        raise NotImplementedError(f"bags by {mode}, of shortened rows, or with gradients scaled by frequency")
    ids = positions(input)
    if offsets is None:
        bags, number = np.repeat(np.arange(ids.shape[0]), ids.shape[1]), ids.shape[0]
    else:
        starts = positions(offsets)[: -1 if include_last_offset else None]
        bags, number = np.searchsorted(starts, np.arange(ids.size), side="right") - 1, len(starts)
    ids = ids.reshape(-1) % weight.shape[0]
    kept = np.ones(ids.size, dtype=bool) if padding_idx is None else ids != padding_idx % weight.shape[0]
    share = 1 / np.maximum(np.bincount(bags[kept], minlength=number), 1) if mode == "mean" else np.ones(number)
    if per_sample_weights is None:
        window = Window.of_entries((number, weight.shape[0]), bags[kept], ids[kept], share[bags[kept]])
        return Flow(window(weight, 0), lambda g: {weight: window.adjoint(g, 0)})
    factors = per_sample_weights.reshape((ids.size, 1))
    found = Selection.within(weight.shape, [0], ids, [0])
    rows = found.gather(weight)
    window = Window.of_entries((number, ids.size), bags[kept], np.flatnonzero(kept), share[bags[kept]])

    def back(g: Moments) -> dict[Moments, Moments]:
        spread = window.adjoint(g, 0)
        weighing = product(spread, rows).sum([1]).reshape(per_sample_weights.shape)
        return {weight: found.spread(product(spread, factors)), per_sample_weights: weighing}

    return Flow(window(product(rows, factors), 0), back)
