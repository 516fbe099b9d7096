"""Operations on several independent arrays: product, sum, contraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradlint.moments import gram
from gradlint.moments.array import Moments, align, from_pairs
from gradlint.moments.tables import Array, Atoms, refine

__all__ = ["disjoint", "einsum", "energy", "product", "total"]


def product(*factors: Moments) -> Moments:
    """Elementwise product of independent tensors, with broadcasting: ``K = Π K_i``. A factor that is one number only scales."""
    out = factors[0]
    for factor in factors[1:]:
        x, y = align(out, factor)
        before, out = out, _product(x, y)
        for one, other in ((before, factor), (factor, before)):
            if (one.law is not None or one.profile is not None) and not other.v.any() and one.shape == out.shape:
                scaled = one.scale(other.mean)
                out = replace(out, law=scaled.law, profile=scaled.profile)
    return out


def _product(x: Moments, y: Moments) -> Moments:
    """On the same atoms."""
    a, b = x.pairs(), y.pairs()
    if not x.grams and not y.grams:
        return from_pairs(x.dims, x.mean * y.mean, a * b)
    met = {i: gram.meeting(s, y.grams[i]) for i, s in x.grams.items() if i in y.grams}
    out = from_pairs(x.dims, x.mean * y.mean, gram.paired(a, b, met))
    return replace(out, grams=_joint((a, x.grams), (b, y.grams), x.sizes()))


def _joint(x: tuple[Array, gram.Grams], y: tuple[Array, gram.Grams], sizes: Sequence[int]) -> gram.Grams:
    """The structures of a product, from tables of its factors (of length 1 along atoms that one does not have)."""
    found = {}
    for a in sorted({*x[1], *y[1]}):
        sides = [(*gram.levels(table, a), grams.get(a)) if table.shape[a] > 1 else (1.0, 0.0, None) for table, grams in (x, y)]
        s = gram.joint(sides[0], sides[1], sizes[a])
        if s is not None:
            found[a] = s
    return found


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


def einsum(inputs: Sequence[str], output: str, *operands: Moments) -> Moments:
    """Contraction of independent tensors, one letter per axis: product, then sum over the letters not in ``output``.

    ``einsum(["bi", "oi"], "bo", x, w)`` is a linear layer. No letter may repeat within one operand.
    """
    letters = sorted(set("".join(inputs)))
    common: dict[str, Atoms] = {}
    ops = list(operands)
    for letter in letters:
        holders = [(i, labels.index(letter)) for i, labels in enumerate(inputs) if letter in labels]
        atoms: Atoms = ()
        for i, d in holders:
            mine = ops[i].dims[d]
            joined = refine(atoms, mine) if atoms and mine else atoms or mine
            atoms = joined if joined is not None else (math.prod(mine),)
        for i, d in holders:
            if ops[i].dims[d] and (refine(ops[i].dims[d], atoms) != atoms):
                ops[i] = ops[i].whole(d)
            if ops[i].dims[d]:
                ops[i] = ops[i].refined(d, atoms)
        common[letter] = atoms
    order = [*output, *(x for x in letters if x not in output)]
    slots = [(letter, n) for letter in order for n in common[letter]]
    table, mean, grams = np.ones((1,) * len(slots)), 1.0, gram.EMPTY
    sizes = [n for _, n in slots]
    for x, labels in zip(ops, inputs, strict=True):
        arranged = x.permute([labels.index(letter) for letter in order if letter in labels])
        present = {letter for letter in labels if x.dims[labels.index(letter)]}
        mine = arranged.pairs().reshape([2 if letter in present else 1 for letter, _ in slots])
        own = gram.relaid(arranged.grams, [i for i, (letter, _) in enumerate(slots) if letter in present])
        met = {i: gram.meeting(s, own[i]) for i, s in grams.items() if i in own}
        grams = _joint((table, grams), (mine, own), sizes) if grams or own else gram.EMPTY
        table = gram.paired(table, mine, met)
        mean *= x.mean
    table = np.broadcast_to(table, (2,) * len(slots))
    keep = sum(len(common[letter]) for letter in output)
    for _, n in reversed(slots[keep:]):
        table, mean = n * table[..., 1] + n * (n - 1) * table[..., 0], mean * n
    out = from_pairs(tuple(common[letter] for letter in output), mean, table)
    return replace(out, grams={i: s for i, s in grams.items() if i < keep}).capped()
