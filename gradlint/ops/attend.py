"""Attention over the last two axes of queries, keys and values, as both attention ops compose it."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gradlint.moments import (
    EMPTY,
    MAX_GRAM,
    Array,
    Moments,
    cut,
    einsum,
    embed,
    exact,
    exchangeable,
    join,
    meet,
    moments_along,
    piece,
    tied,
)
from gradlint.ops.apart import MAX_PAIRED, Shared
from gradlint.ops.primitives import Tape, contract, multiply, plus, reindex
from gradlint.ops.registry import Flow
from gradlint.ops.sight import Scores, averages
from gradlint.ops.softmax import rows_under, softmax_flow

__all__ = ["attend"]

_LIKE = 3
"""Rows are kept apart where the number of keys they see differs by this factor."""

Mask = npt.NDArray[np.bool_]


def _stretches(alive: Mask | None, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """At most :data:`MAX_PAIRED` runs of rows that see about as many columns.

    One run where no mask tells the rows apart, or where it does so differently per sample or head.
    """
    rows, columns = shape
    if alive is None or alive.shape[-2] != rows or alive.shape[-1] != columns or rows == 1:
        return [(0, rows)]
    masks = alive.reshape(-1, rows, columns)
    if (masks != masks[0]).any():
        return [(0, rows)]
    counts = np.maximum(masks[0].sum(1), 1)
    like = max(_LIKE, (counts.max() / counts.min()) ** (1 / MAX_PAIRED))
    starts, first = [0], counts[0]
    for i, n in enumerate(counts):
        if not first / like < n < first * like:
            starts.append(i)
            first = n
    return list(pairwise([*starts, rows])) if len(starts) <= MAX_PAIRED else [(0, rows)]


def attend(
    q: Moments, k: Moments, v: Moments, scale: float, alive: Any, bias: Moments | None, p: float, width: int | None
) -> tuple[Flow, Moments]:
    """``softmax(scale·QKᵀ + bias) V`` over the last two axes, and the attention weights.

    Under a causal mask the first rows average over few values and the last over many: runs of rows are kept apart, each with
    the stretch of keys and values that it sees.
    """
    structured = _structured(q, k, v, scale, alive, bias, p, width)
    if structured is not None:
        return structured
    given = _attend(q, k, v, scale, alive, bias, p, width)
    whole, weights = given.flow, given.weights
    runs = _stretches(alive, (q.shape[-2], k.shape[-2]))
    if len(runs) == 1:
        return whole, weights
    axis, mask = len(q.dims) - 2, alive.reshape(-1, *alive.shape[-2:])[0]
    found = [_run(q, k, v, scale, mask, bias, p, width, run) for run in runs]
    sizes = [b - a for a, b in runs]
    laws, pairs = averages(v, mask, runs, [run.attended.scores for run in found], p)

    def back(g: Moments) -> dict[Moments, Moments]:
        shared = Shared(whole, g, axis, sizes)
        guides = shared.guides
        each = [run.attended.flow.back(own) for run, own in zip(found, cut(g, axis, sizes), strict=True)]
        runs_grads = list(zip(found, each, strict=True))
        grads = {q: join([grads[run.queries] for run, grads in runs_grads], axis, guides[q])}
        for x, of_keys in ((k, True), (v, False)):
            heard = [grads[run.keys if of_keys else run.values] for run, grads in runs_grads]
            placed = [embed(own, axis, run.first, x.shape[axis]) for own, run in zip(heard, found, strict=True)]
            grads[x] = tied(shared.gradient(x, reduce(meet, placed)), guides[x], axis)
        if bias is not None:
            grads[bias] = guides[bias]
        return grads

    return Flow(join(laws, axis, whole.out, pairs), back), weights


def _structured(
    q: Moments, k: Moments, v: Moments, scale: float, alive: Mask | None, bias: Moments | None, p: float, width: int | None
) -> tuple[Flow, Moments] | None:
    """Attention by the moments of every two positions: where a mask tells rows apart, or positions are not exchangeable."""
    axis = len(q.dims) - 2
    shape = q.shape[axis], k.shape[axis]
    if max(shape) > MAX_GRAM or min(shape) == 1 or any(len(x.dims[axis]) != 1 for x in (q, k, v)):
        return None
    known = alive is not None or (bias is not None and bias.value is not None)
    if not known and not any(x.atoms(axis).start in x.grams for x in (q, k, v)):
        return None
    plain = {x: replace(x, grams=EMPTY, parts=None) for x in (q, k, v)}
    given = _attend(plain[q], plain[k], plain[v], scale, alive, bias, p, width)
    of_q, of_k, of_v = (moments_along(x, axis) for x in (q, k, v))
    between: Array | float = given.scores.between
    if bias is None and q.q > 0:  # the scores of two rows have in common what the queries have
        between = of_q * (given.scores.variance * shape[0] / float(np.trace(of_q)))
    rows = rows_under(given.logits, given.scores.variance, between, of_k, p)
    out = exact(given.flow.out, axis, rows.outputs(of_v) + given.scores.aligned * np.eye(shape[0]))

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = dict(given.flow.back(replace(g.whole(axis), grams=EMPTY, parts=None)))
        of_g = moments_along(g.whole(axis), axis)
        flat_g, flat_q, flat_k, flat_v = (exchangeable(m) for m in (of_g, of_q, of_k, of_v))
        flat = rows.over(flat_k)
        grads[q] = _times(grads.pop(plain[q]), axis, rows.queries(of_g, of_v), flat.queries(flat_g, flat_v))
        grads[k] = _times(grads.pop(plain[k]), axis, rows.keys(of_g, of_q, of_v), rows.keys(flat_g, flat_q, flat_v))
        grads[v] = exact(grads.pop(plain[v]), axis, rows.values(of_g))
        return grads

    return Flow(out, back), given.weights


def _times(x: Moments, axis: int, m: Array, flat: Array) -> Moments:
    """The law x of exchangeable positions, for which a formula gives ``flat``, where it gives ``m``."""
    level = float(np.trace(flat))
    return exact(x.whole(axis), axis, m * (x.q * len(m) / level)) if level > 0 else x


@dataclass(frozen=True)
class _Run:
    """A run of rows with the stretch of keys, from ``first`` on, that it sees."""

    attended: _Attended
    queries: Moments
    keys: Moments
    values: Moments
    first: int


def _run(
    q: Moments, k: Moments, v: Moments, scale: float, mask: Mask, bias: Moments | None, p: float, width: int | None,
    run: tuple[int, int],
) -> _Run:  # fmt: skip
    axis = len(q.dims) - 2
    seen = np.flatnonzero(mask[slice(*run)].any(0))
    keys = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 1)
    mine = mask[slice(*run), slice(*keys)]
    mq, mk, mv = (replace(piece(x, axis, *at), parts=None) for x, at in ((q, run), (k, keys), (v, keys)))
    lean = None if bias is None else _block(bias, run, keys)
    return _Run(_attend(mq, mk, mv, scale, None if mine.all() else mine, lean, p, width), mq, mk, mv, keys[0])


def _block(bias: Moments, rows: tuple[int, int], columns: tuple[int, int]) -> Moments:
    """A bias on some rows and columns."""
    if bias.value is not None:
        value = np.asarray(bias.value)
        value = value[..., slice(*rows), :] if value.shape[-2] > 1 else value
        return Moments.of_array(value[..., slice(*columns)] if value.shape[-1] > 1 else value)
    out = bias if bias.shape[-2] == 1 else piece(bias, -2, *rows)
    return replace(out if out.shape[-1] == 1 else piece(out, -1, *columns), parts=None)


@dataclass(frozen=True)
class _Attended:
    """Attention of exchangeable rows: both directions, the weights, the scores, and what is known of them."""

    flow: Flow
    weights: Moments
    logits: Moments
    scores: Scores


def _attend(
    q: Moments, k: Moments, v: Moments, scale: float, alive: Any, bias: Moments | None, p: float, width: int | None
) -> _Attended:
    """Attention of exchangeable rows.

    ``width`` is that of the tensor whose projections both keys and values are (None: they are independent). Then a row's
    weights are aligned with the values they pick, ``Σ_j p_ij v_j ∝ W_v Σ_x W_kᵀ q_i``: the output gains
    ``v_S (1 − IPR)(q_v − k_v)/width`` and the query's gradient ``scale² (K_G[same] − K_G[other key])(1 − IPR)(q_k − k_k)/width``
    (Kedia et al. 2024, arXiv:2403.09635, the single-head-attention term).
    """
    lead = string.ascii_lowercase[: len(q.dims) - 2]
    tape = Tape()
    scores = tape(contract([lead + "xz", lead + "yz"], lead + "xy", q, k))
    scaled = tape(reindex(scores, lambda x: x.scale(scale), lambda g: g.scale(scale)))
    if bias is not None:
        scaled = tape(plus(scaled, bias))
    if alive is not None:
        scaled = tape(reindex(scaled, lambda x: replace(x, alive=alive), lambda g: g))
    weights = tape(softmax_flow(scaled, -1))
    participation = min(weights.q * weights.shape[-1], 1.0)
    if p > 0:
        weights = tape(multiply(weights, Moments.iid(weights.shape, 1.0, p / (1 - p))))
    out = tape(contract([lead + "xy", lead + "yz"], lead + "xz", weights, v))
    drawn = scaled.drawn()
    variance = _spread(drawn, -1)
    between = max(drawn.shared([-2]) - drawn.shared([-1, -2]), 0.0)
    if width is None:
        return _Attended(Flow(out, lambda g: tape.back({out: g})), weights, scaled, Scores(variance, between, 0.0))
    aligned = (1 - participation) / width
    extra_variance = variance * aligned * _spread(v, -2)
    result = out + Moments.iid(out.shape, 0.0, extra_variance)

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = tape.back({out: g})
        heard = einsum([lead + "xz", lead + "yz"], lead + "xy", g, v)
        extra = scale**2 * _spread(heard, -1) * aligned * _spread(k, -2)
        grads[q] = grads[q] + Moments.iid(q.shape, 0.0, extra)
        return grads

    return _Attended(Flow(result, back), weights, scaled, Scores(variance, between, extra_variance))


def _spread(x: Moments, axis: int) -> float:
    """What varies along an axis."""
    return max(x.q - x.shared([axis]), 0.0)
