"""Laws with a structure along an axis: what a matrix of moments says of the whole and its parts, and division."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from gradlint.moments import gram
from gradlint.moments.array import Moments, Parts, align, from_pairs
from gradlint.moments.tables import Array, take

__all__ = ["divided", "exact", "informed", "scales", "tied"]


def informed(x: Moments, axis: int, m: Array) -> Moments:
    """With the structure and the correlation of the moments ``m`` of two entries along an axis of one atom."""
    at = x.atoms(axis).start
    law = from_pairs(x.dims, x.mean, gram.retuned(x.pairs(), at, gram.correlation(m)))
    s = gram.standardised(m)
    grams = {a: t for a, t in x.grams.items() if a != at}
    return replace(x, v=law.v, grams=grams if s is None else {**grams, at: s})


def exact(x: Moments, axis: int, m: Array) -> Moments:
    """:func:`informed` that also takes the mean squares from ``m``: of the whole, and of every part."""
    same = np.diagonal(m)

    def scaled(law: Moments, own: Array) -> Moments:
        return law.scale(math.sqrt(max(float(own.mean()), 0.0) / law.q)) if law.q > 0 else law

    parts = x.parts if x.parts is not None and x.parts.axis == axis else None
    out = informed(replace(scaled(replace(x, parts=None), same), parts=x.parts), axis, m)
    if parts is None:
        return out
    ends = [0, *accumulate(parts.sizes)]
    laws = tuple(scaled(law, same[a:b]) for law, (a, b) in zip(parts.laws, pairwise(ends), strict=True))
    return replace(out, parts=Parts(axis, laws, parts.pairs))


def tied(out: Moments, guide: Moments, axis: int) -> Moments:
    """With the correlation along an axis that the pooled gradient ``guide`` has, where its entries cancel one another."""
    x, y = out.whole(axis), guide.whole(axis)
    if not x.dims[axis] or not y.dims[axis] or gram.levels(y.pairs(), y.atoms(axis).start)[0] >= 0 or y.q <= 0:
        return out
    x, y = align(x, y)
    at = x.atoms(axis).start
    kept, table = take(x.pairs(), at, 1), y.pairs()
    same = take(table, at, 1)
    ratio = np.divide(take(table, at, 0), same, out=np.zeros_like(same), where=same > 0)
    law = from_pairs(x.dims, x.mean, np.stack([kept * ratio, kept], at))
    return replace(out, dims=law.dims, v=law.v, mean=law.mean, grams=y.grams)


def scales(x: Moments, without: set[int], eps: float) -> dict[int, Array]:
    """``√(q_j + eps)`` of the entries along every axis, but ``without``, whose structure tells them apart."""
    found = {}
    for d, dim in enumerate(x.dims):
        at = x.atoms(d).start
        if d not in without and len(dim) == 1 and at in x.grams:
            differ, varying = gram.levels(x.pairs(), at)
            found[d] = np.sqrt(np.maximum(differ + varying * np.diagonal(x.grams[at]), 0.0) + eps)
    return found


def divided(out: Moments, x: Moments, by: Mapping[int, Array]) -> Moments:
    """``x / by`` (scales along axes), of which ``out`` is the law for a scale that all entries have in common.

    Structures, correlations and the mean square, ``E[x²/s²]`` instead of ``E[x²]/E[s²]``; what cancels along the axis stays so.
    """
    table, grams, factor = out.pairs(), dict(out.grams), 1.0
    for d, scale in by.items():
        if len(x.dims[d]) != 1 or out.dims[d] != x.dims[d] or not scale.all():
            continue
        a, at = x.atoms(d).start, out.atoms(d).start
        differ, varying = gram.levels(x.pairs(), a)
        before = gram.spread(differ, varying, x.grams.get(a), len(scale))
        m = before / np.outer(scale, scale)
        grams.pop(at, None)
        if (s := gram.standardised(m)) is not None:
            grams[at] = s
            if differ > 0:
                table = gram.retuned(table, at, gram.correlation(m))
        if (total := float(np.trace(before))) > 0:
            factor *= float(np.trace(m)) * float((scale**2).mean()) / total
    return replace(out, v=from_pairs(out.dims, out.mean, table).v, grams=grams).scale(math.sqrt(max(factor, 0.0)))
