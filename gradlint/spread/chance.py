"""What fresh weights, scalar functions, sums and products leave to chance: the steps that both directions are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradlint.moments import Moments, from_pairs, product, take
from gradlint.spread.draws import Draws
from gradlint.spread.freedom import average, by_rows, concentrations, correlations, of_squares
from gradlint.spread.roles import Weight
from gradlint.spread.scalar import Response
from gradlint.spread.scale import FIXED, Scale, features_of, mixed

__all__ = ["aligned", "by_function", "by_weights", "crossed", "moved", "summed"]


def by_weights(draws: Draws, before: Scale, x: Moments, out: Moments, weight: Weight) -> Scale:
    """Behind a matrix of fresh weights: Gaussian given x, apart from the fourth cumulant of the weights.

    The norm gains ``2·concentration + (κ − 3)·Σx⁴/(Σx²)²/n``.
    """
    n, fan = features_of(out, weight.axis), features_of(x, weight.axis) * weight.taps
    rows = max(int(np.prod(x.shape)) // max(features_of(x, weight.axis), 1), 1)
    overlap, unequal = before.overlap, before.unequal
    if weight.taps > 1:  # a mean over the taps of what has little in common
        together = correlations(x, weight.axis, (x.pairs() / max(x.q, 1e-300)) ** 2)
        kept = together + (1 - together) / weight.taps
        overlap, unequal = overlap * kept, unequal * kept
    new = max(1 - n / fan, 0.0) if weight.orthogonal else 1.0
    excess = (weight.kurtosis - 3) * (1 + (before.kurtosis - 1) / rows) / (n * fan)
    free = by_rows(out, 2 * new * concentrations(out, overlap, weight.axis), weight.axis)
    log = draws.times(before.log, free.together(unequal) + excess)
    peaked = 3 + (weight.kurtosis - 3) * before.kurtosis / fan
    unequal += free.within - free.between
    return Scale(log, before.log, peaked, _aligned_by_weights(overlap, n, new), unequal, weight.axis, before.known)


def _aligned_by_weights(overlap: float, n: int, new: float) -> float:
    """Mean square correlation of two rows behind weights that make n features of them.

    A correlation whose square is f for sure moves by ``(1 − f)(1 − 2f)/n`` (the mean square of a sample correlation, Muirhead
    1982, §5.1), one that is 0 or ±1 by ``(1 − f)/n``. It starts as the one and ends as the other: halfway between.
    """
    return min(overlap + new * (1 - overlap) ** 2 / n, 1.0)


def by_function(draws: Draws, before: Scale, response: Response, argument: Scale, g: Moments) -> Scale:
    """A gradient times the slope of a scalar function of a tensor.

    Args:
        argument: the scale of that tensor.
        g: the gradient.
    """
    factor = response.at(argument.given, argument.free)
    log = draws.times(before.log + factor, response.added.together(before.unequal), response.ceiling)
    n = features_of(g, before.axis)
    nominal = max((before.overlap * n - 1) / (n + 1), 0.0)  # E g_i g_i' g_j g_j' of two features in two rows
    peak, rest = (1 + 2 * nominal) * response.together / n, 1 - 1 / n
    overlap = (peak + rest * nominal * response.coherence) / (peak + rest)
    unequal = before.unequal + response.power**2 * argument.unequal + response.added.within - response.added.between
    known = before.known and argument.known
    return Scale(log, before.given + factor, before.kurtosis * response.kurtosis, min(overlap, 1.0), unequal, before.axis, known)


def summed(draws: Draws, terms: Sequence[tuple[float, Scale]], law: Moments | None) -> Scale:
    """Independent terms by their energies, and what their products leave to chance."""
    total = sum(energy for energy, _ in terms)
    if total <= 0.0:
        return FIXED
    shares = [(energy / total, scale) for energy, scale in terms]
    scale = mixed(shares)
    if law is None or len(terms) == 1:
        return scale
    cross = 1 - sum(share**2 for share, _ in shares)
    free = by_rows(law, 2 * cross * concentrations(law, scale.overlap, scale.axis), scale.axis)
    return replace(
        scale, log=draws.times(scale.log, free.together(scale.unequal)), unequal=scale.unequal + free.within - free.between
    )


def moved(scale: Scale, x: Moments | None, out: Moments) -> Scale:
    """Behind an op that may move features to another axis, or join them with positions."""
    if x is None or not out.dims or (x.shape == out.shape and len(x.dims) == len(out.dims)):
        return scale
    n = features_of(x, scale.axis)
    axis = next((d for d in (scale.axis, -1, 1) if -len(out.dims) <= d < len(out.dims) and out.shape[d] == n), -1)
    features = out.shape[axis]
    overlap = scale.overlap
    if features > n:
        overlap *= max(n / features, correlations(x, scale.axis, (x.pairs() / max(x.q, 1e-300)) ** 2) if x.q > 0 else 0.0)
    joined = min(math.prod(out.shape) / features * n / max(math.prod(x.shape), 1), 1.0)
    return replace(scale, overlap=max(overlap, 1 / max(features, 1)), unequal=scale.unequal * joined, axis=axis)


def crossed(x: Moments, y: Moments) -> float:
    """Relative variance that the norm of a product, entry by entry, of independent arrays has beside those of its factors."""
    if not _broadcast(x.shape, y.shape):
        return 0.0
    a, b = of_squares(x), of_squares(y)
    both = product(a, b)
    return average(both, both.pairs()) - average(a, a.pairs()) - average(b, b.pairs()) + 1


def _broadcast(first: Sequence[int], second: Sequence[int]) -> bool:
    return all(1 in (a, b) or a == b for a, b in zip(first[::-1], second[::-1], strict=False))


def aligned(g: Moments, here: Scale, x: Moments | None = None, there: Scale | None = None) -> float:
    """What the norm of ``Σ_rows g xᵀ`` owes to rows that are aligned by accident, as a concentration.

    ``avg (o_g² o_x² − c_g² c_x²) / D²`` over pairs of rows, o the mean square of the correlation in two rows, c its mean, D what
    the correlations add to the mean square of the sum.
    """
    if g.q <= 0.0:
        return 0.0
    means, squares = _rows(g, here)
    if x is not None and there is not None and x.q > 0.0:
        other = x
        rows = [d for d in range(len(x.dims)) if d != there.axis % len(x.dims)]
        mine = [d for d in range(len(g.dims)) if d != here.axis % len(g.dims)]
        if len(rows) == len(mine):
            for d, e in zip(rows, mine, strict=True):  # a convolution has other positions on the way out
                other = other if x.shape[d] == g.shape[e] else other.resize(d, g.shape[e])
            more = _rows(other, there)
            means, squares = product(means, more[0]), product(squares, more[1])
    table, by_chance = means.pairs(), np.maximum(squares.pairs() - means.pairs() ** 2, 0.0)
    expected, sure = average(means, table), average(means, np.where(by_chance > 1e-9, 0.0, table))
    if sure <= 0.0:
        return 0.0
    return average(means, by_chance) / max(expected / sure, 1.0) ** 2


def _rows(x: Moments, scale: Scale) -> tuple[Moments, Moments]:
    """For two rows: the mean of their correlation, and the mean of its square."""
    x = replace(x, value=None)
    table = x.pairs() / x.q
    features = x.atoms(scale.axis) if x.dims else range(0)
    for atom in reversed(features):
        table = take(table, atom, 1)
    axis = scale.axis % len(x.dims) if x.dims else 0
    dims = (*x.dims[:axis], *x.dims[axis + 1 :])
    own = (-1,) * np.ndim(table)
    squares = np.array(np.maximum(table**2, scale.overlap))
    squares[own] = 1.0
    return from_pairs(dims, 0.0, np.asarray(table)), from_pairs(dims, 0.0, squares)
