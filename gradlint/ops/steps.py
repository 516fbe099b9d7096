"""Between laws of tensors with a time axis and tables over pairs of steps."""

from __future__ import annotations

import numpy as np

from gradlint.moments import Array, Moments, from_pairs, informed, levels, pairs_of, spread
from gradlint.twotime import Even, Known, Table, in_unit

__all__ = ["law_of", "law_of_step", "rows_of_gate", "step_of", "table_of"]

_STRUCTURED = 256
"""Longer sequences keep no matrix over pairs of steps."""

_FLAT = 0.01


def table_of(x: Moments) -> Table:
    """Pair moments of an entry of a tensor (steps, batch, features) at two steps."""
    x = _plain(x)
    if x.parts is not None and x.parts.axis == 0:
        laws = [_plain(law) for law in x.parts.laws]
        same = np.array([step_of(law) for law in laws]).T
        differ = np.zeros((2, len(laws), len(laws)))
        for p, law in enumerate(laws):
            differ[:, p, p] = _apart(law)
        pairs = iter(pairs_of(x, 0, x.parts.sizes))
        for p in range(len(laws)):
            for q in range(p + 1, len(laws)):
                differ[:, p, q] = differ[:, q, p] = _apart(_plain(next(pairs)))
        return Even(same, differ, x.parts.sizes)
    at = x.atoms(0).start
    if x.dims[0] and at in x.grams:
        both = [levels(x.pairs(), at), (x.shared([0, 1]), x.shared([1]) - x.shared([0, 1]))]
        return Known(np.stack([spread(*level, x.grams[at], x.shape[0]) for level in both]))
    return Even(step_of(x)[:, None], _apart(x)[:, None, None], x.shape[:1])


def _plain(x: Moments) -> Moments:
    return x.whole(0).whole(1)


def step_of(x: Moments) -> Array:
    """Mean product of entries at one step: within a sample and across two (axis 1)."""
    return np.array([x.q, x.shared([1]) if x.dims[1] else 0.0])


def _apart(x: Moments) -> Array:
    return np.array([x.shared([0]), x.shared([0, 1]) if x.dims[1] else 0.0]) if x.dims[0] else np.zeros(2)


def law_of(table: Table, shape: tuple[int, int, int], means: Array | None = None) -> tuple[Moments, int]:
    """The law of a tensor (steps, batch, features) whose features are independent given the weights, and its unit.

    Args:
        means: of an entry, by step; None: zero, for a gradient, which may be in a unit of its own.
    """
    found = table.pooled() if means is None else table.pooled().at(0)
    same, differ, unit = found.same, found.differ, found.unit
    m = np.zeros(1) if means is None else means
    n = len(m)
    squares = float((m**2).mean()), float((m.sum() ** 2 - (m**2).sum()) / (n * (n - 1))) if n > 1 else float((m**2).mean())
    pairs = np.zeros((2, 2, 2))  # step, sample, feature: 1 where both are the same
    pairs[1, :, 1], pairs[0, :, 1] = same[::-1], differ[::-1]
    pairs[1, :, 0], pairs[0, :, 0] = squares
    dims = tuple((size,) if size > 1 else () for size in shape)
    out = from_pairs(dims, float(m.mean()), pairs[tuple(slice(None) if dim else 1 for dim in dims)])
    if not 1 < shape[0] <= _STRUCTURED:
        return out, unit
    matrix = _matrix(table, unit)
    return (out if _is_flat(matrix) else informed(out, 0, matrix)), unit


def _matrix(table: Table, unit: int) -> Array:
    """The moments of every two steps within a sample."""
    n = table.steps
    out = np.zeros((n, n))
    for t in range(n):
        out[t, t:] = out[t:, t] = in_unit(table.ahead(t, n - t), unit)[0]
    return out


def _is_flat(matrix: Array) -> bool:
    """Steps are exchangeable."""
    own, others = np.diagonal(matrix), matrix[~np.eye(len(matrix), dtype=bool)]
    return bool(max(np.ptp(own), np.ptp(others)) <= _FLAT * own.max())


def law_of_step(pair: Array, shape: tuple[int, int]) -> Moments:
    """The law of a state (batch, units) of mean zero, as a tensor (1, batch, units), from its moments (:func:`step_of`)."""
    between = float(pair[1]) if shape[0] > 1 else 0.0
    out = Moments.iid((1, *shape), 0.0, float(pair[0]) - between)
    return out + Moments.iid((1, 1, shape[1]), 0.0, between) if between else out


def rows_of_gate(x: Moments, gate: int, gates: int) -> Moments:
    """The rows of one gate of a parameter; from the real values where the gates were initialised apart."""
    if x.value is None:
        return x.resize(0, x.shape[0] // gates)
    size = x.shape[0] // gates
    return Moments.of_sample(x.value[gate * size : (gate + 1) * size])
