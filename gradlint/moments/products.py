"""Operations on several independent arrays: product, sum, contraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from gradlint.moments import gram
from gradlint.moments.array import Moments, align, from_pairs, pairs_over
from gradlint.moments.tables import Array, Dims, common_dims, merged_atoms, origin

__all__ = ["disjoint", "einsum", "energy", "product", "total"]


def product(*factors: Moments) -> Moments:
    """Elementwise product of independent tensors, with broadcasting: ``K = Π K_i``. A factor that is one number only scales."""
    out = factors[0]
    for factor in factors[1:]:
        before, out = out, _product(out, factor)
        for one, other in ((before, factor), (factor, before)):
            if (one.law is not None or one.profile is not None) and not other.v.any() and one.shape == out.shape:
                scaled = one.scale(other.mean)
                out = replace(out, law=scaled.law, profile=scaled.profile)
    return out


def _product(x: Moments, y: Moments) -> Moments:
    if not x.grams and not y.grams:
        dims = common_dims(x.dims, y.dims)
        return from_pairs(dims, x.mean * y.mean, pairs_over(x, dims) * pairs_over(y, dims))
    x, y = align(x, y)
    a, b = x.pairs(), y.pairs()
    met = {i: gram.meeting(s, y.grams[i]) for i, s in x.grams.items() if i in y.grams}
    out = from_pairs(x.dims, x.mean * y.mean, gram.paired(a, b, met))
    found = {}
    for i in sorted({*x.grams, *y.grams}):
        sides = [(*gram.levels(table, i), m.grams.get(i)) for table, m in ((a, x), (b, y))]
        s = gram.joint(sides[0], sides[1], x.sizes()[i])
        if s is not None:
            found[i] = s
    return replace(out, grams=found)


def disjoint(x: Moments, y: Moments, mask: Moments) -> Moments:
    """``x + y`` where x is zero outside a mask of zeros and ones, and y inside of it.

    A pair with one entry inside and the other outside has the product of their means there; of the pairs that share S such are
    ``2(p − K_mask[S])``.
    """
    both = align(align(x, y)[0], mask)[0]
    a, b, inside = (align(m, both)[0] for m in (x, y, mask))
    p, table = mask.mean, a.pairs() + b.pairs()
    if 0.0 < p < 1.0:
        table = table + 2 * (p - inside.pairs()) * (x.mean / p) * (y.mean / (1 - p))
    return from_pairs(both.dims, x.mean + y.mean, table)


def total(parts: Sequence[Moments]) -> Moments:
    """Sum of independent tensors of one shape: how cotangents of several consumers meet."""
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out


def energy(g: Any) -> float:
    """Sum of squares over the entries of a gradient, or of a nest of them."""
    if g is None:
        return 0.0
    if isinstance(g, tuple):
        return sum(energy(member) for member in g)
    return float(g.q * math.prod(g.shape))


@dataclass(frozen=True)
class _Contraction:
    """How tables of given atoms are contracted.

    Args:
        finer: for each operand, atoms that its axes are merged for.
        index: for each operand and every pair of entries of the product, the pair of its own entries, as a flat index; shape
            (pairs over the axes kept, pairs over the axes summed).
        weights: number of pairs of entries that are summed, by the axes summed that they share.
        number: of entries that are summed.
        dims: of the result.
    """

    finer: tuple[Dims, ...]
    index: tuple[npt.NDArray[np.intp], ...]
    weights: Array
    number: int
    dims: Dims


@lru_cache(4096)
def _contraction(inputs: tuple[str, ...], output: str, dims: tuple[Dims, ...]) -> _Contraction:
    axes = [dict(zip(labels, own, strict=True)) for labels, own in zip(inputs, dims, strict=True)]
    letters = sorted(set("".join(inputs)))
    order = [*output, *(x for x in letters if x not in output)]
    common: Dims = reduce(common_dims, [tuple(own.get(letter, ()) for letter in order) for own in axes])
    index, finer = [], []
    for own, labels in zip(axes, inputs, strict=True):
        finer.append(tuple(common[order.index(letter)] for letter in labels))
        mine = {c: merged_atoms(own[c], atoms) for c, atoms in zip(labels, finer[-1], strict=True)}
        starts = dict(zip(labels, accumulate((len(mine[c]) for c in labels), initial=0), strict=False))
        moved = [starts[c] + i for c in order if c in own for i in range(len(mine[c]))]
        places = np.arange(2 ** len(moved)).reshape((2,) * len(moved)).transpose(moved).ravel()
        index.append(places[origin(tuple(mine.get(c, ()) for c in order), common)])
    kept, summed = common[: len(output)], [n for atoms in common[len(output) :] for n in atoms]
    weights = np.ones(1)
    for n in summed:
        weights = np.multiply.outer(weights, [float(n) * (n - 1), float(n)]).ravel()
    shape = (2 ** sum(map(len, kept)), len(weights))
    return _Contraction(tuple(finer), tuple(i.reshape(shape) for i in index), weights, math.prod(summed), kept)


def einsum(inputs: Sequence[str], output: str, *operands: Moments) -> Moments:
    """Contraction of independent tensors, one letter per axis: product, then sum over the letters not in ``output``.

    ``einsum(["bi", "oi"], "bo", x, w)`` is a linear layer. No letter may repeat within one operand.
    """
    if any(x.grams for x in operands):
        return _structured(inputs, output, operands)
    plan = _contraction(tuple(inputs), output, tuple(x.dims for x in operands))
    table, mean = plan.weights, float(plan.number)
    for x, finer, index in zip(operands, plan.finer, plan.index, strict=True):
        table = table * x.merged(finer).pairs().ravel()[index]
        mean *= x.mean
    table = table.sum(1).reshape((2,) * sum(map(len, plan.dims)))
    return from_pairs(plan.dims, mean, table).capped()


def _structured(inputs: Sequence[str], output: str, operands: Sequence[Moments]) -> Moments:
    """:func:`einsum` where structures along an axis meet."""
    letters = sorted(set("".join(inputs)))
    order = [*output, *(x for x in letters if x not in output)]
    own = [dict(zip(labels, x.dims, strict=True)) for labels, x in zip(inputs, operands, strict=True)]
    dims: Dims = reduce(common_dims, [tuple(mine.get(letter, ()) for letter in order) for mine in own])
    sizes = [n for atoms in dims for n in atoms]
    out = None
    for x, labels in zip(operands, inputs, strict=True):
        arranged = x.permute([labels.index(letter) for letter in order if letter in labels])
        present = iter(arranged.dims)
        spread = replace(arranged, dims=tuple(next(present) if letter in labels else () for letter in order)).over(dims)
        out = spread if out is None else _product(out, spread)
    assert out is not None  # noqa: S101  (there is an operand)
    table, mean, keep = out.pairs(), out.mean, sum(map(len, dims[: len(output)]))
    for n in reversed(sizes[keep:]):
        table, mean = n * table[..., 1] + n * (n - 1) * table[..., 0], mean * n
    found = from_pairs(dims[: len(output)], mean, table)
    return replace(found, grams={i: s for i, s in out.grams.items() if i < keep}).capped()
