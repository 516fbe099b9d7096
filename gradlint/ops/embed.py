"""Lookups by integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Array, Moments, from_pairs, take
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _coincidence(ids: Array) -> Array:
    """P(two entries carry the same id | they share exactly these axes), shape ``(2,) * axes of size > 1``."""
    shape = [n for n in ids.shape if n > 1]
    _, codes = np.unique(ids, return_inverse=True)
    codes = codes.reshape(shape)
    kinds = int(codes.max()) + 1 if codes.size else 1
    table = np.empty((2,) * len(shape))
    for index in np.ndindex(*table.shape):
        axes = tuple(a for a, bit in enumerate(index) if not bit)
        kept = [n for n, bit in zip(shape, index, strict=True) if bit]
        rows = np.moveaxis(codes, [a for a in range(len(shape)) if a not in axes], range(len(kept))).reshape(math.prod(kept), -1)
        counts = np.zeros((len(rows), kinds)) if len(rows) * kinds < 5e6 else None
        if counts is None:
            table[index] = np.mean([np.sum(np.unique(r, return_counts=True)[1] ** 2.0) for r in rows]) / rows.shape[1] ** 2
            continue
        np.add.at(counts, (np.arange(len(rows))[:, None], rows), 1.0)
        table[index] = np.mean((counts**2).sum(1)) / rows.shape[1] ** 2
    for axis, n in enumerate(shape):  # averages over all partners -> partners that differ
        same, averaged = take(table, axis, 1), take(table, axis, 0)
        table = np.stack([(n * averaged - same) / (n - 1), same], axis)
    return np.clip(table, 0.0, 1.0)


@transfer(F.embedding, torch.embedding)
def embedding(_: Call, input: Moments, weight: Moments, padding_idx: Any = None, *_rest: Any, **_kw: Any) -> Flow:
    """Row lookup: two positions share their row as often as their ids coincide; a row collects its positions' gradients."""
    if input.value is None:
        raise NotImplementedError("an embedding of unknown ids")
    rows = weight.shape[0]
    same = _coincidence(np.asarray(input.value, dtype=float))
    w = weight.whole(0).whole(1)
    table = w.pairs()
    row = 1 if w.dims[0] else 0
    same_row, other_row = (table[1], table[0]) if row else (table, table)
    cells = same.shape
    mixed = same[..., None] * np.atleast_1d(same_row) + (1 - same[..., None]) * np.atleast_1d(other_row)
    mixed = mixed.reshape(cells + np.shape(same_row))
    dims = tuple((n,) if n > 1 else () for n in input.shape)
    out = from_pairs((*dims, w.dims[1]), weight.mean, mixed)

    def back(g: Moments) -> dict[Moments, Moments]:
        for d in range(len(g.dims)):
            g = g.whole(d)
        pairs = g.pairs()
        sizes = [n for n in input.shape if n > 1]
        equal = unequal = np.zeros(pairs.shape[same.ndim :])
        for index in np.ndindex(*same.shape):
            count = math.prod(n if bit else n * (n - 1) for n, bit in zip(sizes, index, strict=True))
            equal = equal + count * same[index] * pairs[index]
            unequal = unequal + count * (1 - same[index]) * pairs[index]
        table = np.stack([unequal / max(rows * (rows - 1), 1), equal / rows])
        if rows == 1:
            return {weight: from_pairs(((), g.dims[-1]), 0.0, table[1])}
        return {weight: from_pairs(((rows,), g.dims[-1]), 0.0, table)}

    return Flow(out, back)
