"""Structure along an axis: the covariances of entries that are not exchangeable with one another.

In the exchangeable law all pairs of different positions have one moment. Prefix averages behind a causal attention, a table of
sinusoids, windows that overlap have a whole matrix of them. It is kept beside the pooled law as a *standardised Gram matrix* S,
mean 1 on its diagonal and mean 0 off it, so that two entries that differ along the axis and share all others have the moment

    M_jj' = K[differ] + (K[same] − K[differ]) S_jj'.

S = I is the exchangeable law. In the component form, ``e_A`` has the covariance S along an axis in A where an exchangeable
component is iid; a linear map over other axes, a scale or an offset leave S as it is. Two structures along a contracted axis
meet as ``Σ_jj' M_jj' M'_jj'``: n/(effective rank) times what independent positions give.

Here are the operations on the matrices alone; ``Moments.grams`` maps an atom to its matrix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from weakref import WeakValueDictionary

import numpy as np

from gradlint.moments.tables import Array, take

__all__ = [
    "EMPTY",
    "MAX_GRAM",
    "Grams",
    "at_places",
    "centred",
    "correlation",
    "diagonal",
    "exchangeable",
    "joint",
    "levels",
    "meeting",
    "mixed",
    "of_values",
    "paired",
    "relaid",
    "retuned",
    "shared",
    "spread",
    "standardised",
    "united",
]

Grams = Mapping[int, Array]
"""Atom, a position in the table, to its standardised Gram matrix."""

EMPTY: Grams = MappingProxyType({})

MAX_GRAM = 512
"""Longer axes keep no matrix."""

_FLAT = 1e-9

_SHARED = 32
"""Shorter axes are not worth looking for an equal one."""

_known: WeakValueDictionary[tuple[tuple[int, ...], bytes], Array] = WeakValueDictionary()

_NOISE = 2.0
"""Standard errors by which the covariances of a real table exceed those of a random one."""


def standardised(m: Array) -> Array | None:
    """The structure of a matrix of moments: affinely brought to mean 1 on the diagonal and mean 0 off it; None if it is flat."""
    n = len(m)
    if not 1 < n <= MAX_GRAM:
        return None
    same = float(np.trace(m)) / n
    differ = (float(m.sum()) - n * same) / (n * (n - 1))
    if same - differ <= _FLAT * abs(same):
        return None
    return shared((m - differ) / (same - differ))


def shared(s: Array) -> Array:
    """The structure to nine decimals, and once in memory: that of a rotation or a window is the same in every layer."""
    s = np.round(s, 9)
    if len(s) < _SHARED:
        return s
    key = hashlib.blake2b(s.tobytes(), digest_size=16).digest()
    return _known.setdefault((s.shape, key), s)


def relaid(grams: Grams, places: Sequence[int | None]) -> Grams:
    """Atom i now at ``places[i]``; None: it is gone."""
    return {place: s for a, s in grams.items() if (place := places[a]) is not None} if grams else EMPTY


def levels(table: Array, atom: int) -> tuple[float, float]:
    """Of two entries that share all other atoms: the moment when they differ along ``atom``, and what they have less than q."""
    others = take(table, atom, 0)
    differ = float(others[(-1,) * others.ndim])
    return differ, float(table[(-1,) * table.ndim]) - differ


def spread(differ: float, varying: float, s: Array | None, n: int) -> Array:
    """The matrix of moments M; without a structure that of exchangeable entries."""
    out: Array = differ + varying * (np.eye(n) if s is None else s)
    return out


def correlation(m: Array) -> float:
    """Mean moment of two different entries over that of an entry with itself."""
    n, same = len(m), float(np.trace(m))
    return (float(m.sum()) - same) / ((n - 1) * same) if n > 1 and same > 0 else 0.0


def retuned(table: Array, atom: int, rho: float) -> Array:
    """The pair table whose entries have the correlation ``rho`` along an atom: what varies is scaled, at every pattern."""
    differ, same = take(table, atom, 0), take(table, atom, 1)
    below, varying = levels(table, atom)
    if varying <= _FLAT * abs(below + varying):
        return table
    varies = (same - differ) * ((1 - rho) * (below + varying) / varying)
    return np.stack([same - varies, same], atom)


def exchangeable(m: Array) -> Array:
    """The moments of exchangeable entries with the same averages."""
    n = len(m)
    same = float(np.trace(m)) / n
    differ = (float(m.sum()) - n * same) / (n * (n - 1)) if n > 1 else 0.0
    return spread(differ, same - differ, None, n)


def mixed(terms: Iterable[tuple[float, Array | None]], n: int) -> Array | None:
    """The structure of a sum of independent tensors, each by its varying part and its structure."""
    terms = [(max(weight, 0.0), s) for weight, s in terms]
    total = sum(weight for weight, _ in terms)
    if total <= 0 or all(s is None for _, s in terms):
        return None
    return shared(np.asarray(sum(weight / total * (np.eye(n) if s is None else s) for weight, s in terms)))


def joint(x: tuple[float, float, Array | None], y: tuple[float, float, Array | None], n: int) -> Array | None:
    """The structure of a product of independent tensors, each by its :func:`levels` and its structure."""
    if y[1] == 0.0:
        return x[2]
    return y[2] if x[1] == 0.0 else standardised(spread(*x, n) * spread(*y, n))


def meeting(s: Array, t: Array) -> tuple[float, float]:
    """Mean of ``S_jj' T_jj'`` on the diagonal and off it: 1 and 0 where one of them is exchangeable."""
    n = len(s)
    diagonal, everything = float(np.diagonal(s) @ np.diagonal(t)), float(np.vdot(s, t))
    return diagonal / n, (everything - diagonal) / (n * (n - 1))


def paired(x: Array, y: Array, met: Mapping[int, tuple[float, float]]) -> Array:
    """The pair table of a product, from those of its factors.

    Args:
        x: table.
        y: table of as many atoms (of length 1 where it does not have one).
        met: for every atom along which both have a structure, how these meet.
    """
    for atom in met:
        x, y = (np.concatenate([t, take(t, atom, 1)[_at(atom)] - take(t, atom, 0)[_at(atom)]], atom) for t in (x, y))
    out = x * y
    for atom, (diagonal, off) in met.items():
        both = take(out, atom, 2)
        out = np.stack([take(out, atom, 0) + off * both, take(out, atom, 1) + (diagonal - 1) * both], atom)
    return out


def _at(atom: int) -> tuple[slice | None, ...]:
    return (*(slice(None),) * atom, None)


def united(v: Array, atom: int, sizes: tuple[int, int], pair: tuple[Array | None, Array | None]) -> Array | None:
    """The structure of two neighbouring atoms as one.

    Args:
        v: components.
        atom: the first of the two.
        sizes: of both.
        pair: their structures.
    """
    if all(s is None for s in pair) or sizes[0] * sizes[1] > MAX_GRAM:
        return None
    c = v.sum(tuple(a for a in range(v.ndim) if a not in (atom, atom + 1)))
    first, second = (np.eye(n) if s is None else s for s, n in zip(pair, sizes, strict=True))
    ones = [np.ones((n, n)) for n in sizes]
    return standardised(c[1, 0] * np.kron(first, ones[1]) + c[0, 1] * np.kron(ones[0], second) + c[1, 1] * np.kron(first, second))


def centred(s: Array) -> Array:
    """Of a tensor that lost its mean along the axis: ``HSH`` with ``H = I − 11ᵀ/n``."""
    rows = s.mean(0)
    return np.asarray(s - rows - rows[:, None] + s.mean() + 1 / len(s))


def at_places(s: Array, levels_: tuple[float, float], start: int, size: int) -> Array | None:
    """Of entries placed in an axis of ``size`` from ``start`` on, zero elsewhere."""
    if size > MAX_GRAM:
        return None
    n = len(s)
    out = np.zeros((size, size))
    out[start : start + n, start : start + n] = spread(*levels_, s, n)
    return standardised(out)


def diagonal(s: Array) -> Array:
    """Only how the entries' own moments differ."""
    return np.asarray(np.diag(np.diagonal(s)))


def of_values(values: Array) -> Grams:
    """The structures of a real table along its axes of size > 1: those that stand out of its sampling noise."""
    found = {}
    sides = [n for n in values.shape if n > 1]
    if not np.isfinite(values).all():
        return EMPTY
    x = values.reshape(sides)
    for a, n in enumerate(sides):
        rows = np.moveaxis(x, a, 0).reshape(n, -1)
        if not 2 < n <= MAX_GRAM or rows.shape[1] < 2:
            continue
        s = standardised(rows @ rows.T / rows.shape[1])
        if s is not None and meeting(s, s)[1] > _NOISE**2 / rows.shape[1]:
            found[a] = s
    return found
