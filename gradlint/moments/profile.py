"""How a gradient depends on the value of its own tensor.

A gradient that came through scalar functions of a tensor is not independent of it: behind a ReLU it is zero wherever the tensor
is negative, and behind ten residual ReLUs it survives where the tensor is large. It is kept as a sum of terms

    g = Σ_c G_c · w_c,      G_c independent of the tensor x = F(z),

w_c a random weight of which two functions of z are known: its conditional mean ``E[w|z]`` (amplitude), which pairs of different
entries see, and its conditional mean square ``E[w²|z]`` (power), which an entry sees with itself. So

    K_g[S] = Σ_c K_G[S] Σ_k b_k² r[S]^k  (b_k the Hermite coefficients of the amplitude),    K_g[same] = Σ_c q_G E[power].

A scalar function multiplies the weights by its slope; an independent term added to x smooths them,
``w(x) → E_y[w(x + y)]``; a contraction makes the gradient a sum over many entries, which is independent of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradlint.moments.array import Moments, align, from_pairs
from gradlint.moments.parts import MAX_PARTS, boundaries, cut, join
from gradlint.moments.products import product
from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import Array

__all__ = ["Profile", "Term", "along", "carried", "fewer", "later", "linear_part", "meet", "placed", "table_of", "terms_of"]

_TERMS = 3
"""Terms that are kept apart; the two most alike are merged first."""

_CHAIN = 40
"""Steps after which a profile that no map has asked for is forgotten: that many sums have made it flat."""


@dataclass(frozen=True, eq=False)
class Term:
    """One term ``G·w``: the independent gradient, and the weight's conditional mean and mean square on ``GRID.z``."""

    source: Moments
    amplitude: Array
    power: Array

    def scaled(self, factor: float) -> Term:
        """Of the gradient times a number (of the tensor divided by it: z changes sign with it)."""
        step = 1 if factor >= 0 else -1
        return Term(self.source.scale(factor), self.amplitude[::step], self.power[::step])

    @property
    def energy(self) -> float:
        """``q_G E[power]``."""
        return self.source.q * float(GRID.weights @ self.power)


class Profile:
    """The terms of a gradient, lazily evaluated.

    Args:
        make: the terms.
        depth: steps since terms were evaluated.
    """

    def __init__(self, make: Callable[[], Sequence[Term]], depth: int = 0) -> None:
        self._make = make
        self.depth = depth

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms; their tables add up to the gradient's."""
        terms = tuple(self._make())
        del self._make
        return terms

    def reindexed(self, move: Callable[[Moments], Moments]) -> Profile | None:
        """Of a gradient whose entries were moved, its tensor's with them."""
        return later(lambda: [replace(t, source=move(t.source)) for t in self.terms], self)

    def scaled(self, factor: float) -> Profile | None:
        """Of the gradient times a number."""
        return later(lambda: [t.scaled(factor) for t in self.terms], self)

    def on(self, place: Callable[[Array], Array]) -> Profile | None:
        """On another grid: ``place`` moves a function of this one to it."""
        return later(lambda: [Term(t.source, place(t.amplitude), place(t.power)) for t in self.terms], self)


def later(make: Callable[[], Sequence[Term]], *needed: Profile | None) -> Profile | None:
    """A profile made of others."""
    depth = 1 + max((p.depth for p in needed if p is not None), default=0)
    return Profile(make, depth) if depth < _CHAIN else None


def terms_of(g: Moments) -> tuple[Term, ...]:
    """The terms of a gradient: without a profile, one that does not depend on the tensor."""
    flat = np.ones_like(GRID.z)
    return (Term(replace(g, profile=None, parts=None), flat, flat),) if g.profile is None else g.profile.terms


def _weight(x: Moments, amplitude: Array, power: Array) -> Moments:
    """The law of a weight on x: pairs by its amplitude, an entry with itself by its power."""
    w = x.map(amplitude)
    v = w.v.copy()
    v[(-1,) * v.ndim] += float(GRID.weights @ power) - w.q
    return replace(w, v=v, law=None)


def along(g: Moments, x: Moments, factor: Array, power: Array | None = None) -> Moments:
    """A gradient at x times a function of x (``factor`` on the grid of x): behind a scalar map, its slope.

    Args:
        power: the factor's mean square given x, where it also depends on other things; by default its square.
    """
    if x.var <= 0.0:
        return g.scale(float(factor[len(factor) // 2]))
    square = factor**2 if power is None else power
    terms = [Term(t.source, t.amplitude * factor, t.power * square) for t in fewer(terms_of(g), x)]
    out = table_of(terms, x)
    return replace(out, profile=Profile(lambda: terms))


def linear_part(g: Moments, x: Moments) -> list[tuple[Moments, float]]:
    """What of a gradient at x is proportional to x (about its mean): pairs (G, c) such that g contains ``Σ c·G·(x − m)``."""
    if g.profile is None or x.var <= 0.0:
        return []
    deviation = np.sqrt(x.var)
    return [(t.source, float(GRID.weights @ (t.amplitude * GRID.z)) / deviation) for t in g.profile.terms]


def table_of(terms: Sequence[Term], x: Moments) -> Moments:
    """The gradient at x that the terms add up to."""
    out = None
    for t in terms:
        part = product(t.source, _weight(x, t.amplitude, t.power))
        out = part if out is None else out + part
    assert out is not None  # noqa: S101  (a profile has a term)
    return out


def fewer(terms: Sequence[Term], x: Moments) -> Sequence[Term]:
    """At most :data:`_TERMS` terms, the two whose amplitudes are most alike merged first."""
    kept = list(terms)
    while len(kept) > _TERMS:
        shapes = [t.amplitude / max(float(np.sqrt(GRID.weights @ t.amplitude**2)), 1e-300) for t in kept]
        energies = [t.energy for t in kept]
        cost = {
            (i, j): (1.0 - float(GRID.weights @ (shapes[i] * shapes[j]))) * min(energies[i], energies[j])
            for i in range(len(kept))
            for j in range(i)
        }
        i, j = min(cost, key=cost.__getitem__)
        kept[j] = _merged(kept[i], kept[j], x)
        del kept[i]
    return kept


def _merged(a: Term, b: Term, x: Moments) -> Term:
    """One term for two: amplitudes by root mean square over their energies, the table as it was."""
    ea, eb = a.energy, b.energy
    total = ea + eb
    if total <= 0.0:
        flat = np.ones_like(GRID.z)
        return Term(table_of([a, b], x), flat, flat)
    pa, pb = float(GRID.weights @ a.power) or 1.0, float(GRID.weights @ b.power) or 1.0
    power = (ea * a.power / pa + eb * b.power / pb) / total
    signed = ea * a.amplitude * np.abs(a.amplitude) / pa + eb * b.amplitude * np.abs(b.amplitude) / pb
    amplitude = np.sign(signed) * np.sqrt(np.abs(signed) / total)
    source = _quotient(table_of([a, b], x), _weight(x, amplitude, power), total)
    return Term(source, amplitude, power)


def _quotient(table: Moments, weight: Moments, energy: float, source: Moments | None = None) -> Moments:
    """The source whose product with ``weight`` has the pair moments ``table``; ``energy`` where an entry meets itself.

    Pairs of uncorrelated weights do not tell what their sources have in common: ``source`` does (by default nothing).
    """
    k, w = align(table, weight)
    below, at_itself = 1e-6 * abs(weight.q), energy / max(weight.q, 1e-300)
    untold: Array | float = 0.0
    if source is not None and source.q > 0.0:
        k, of_source = align(k, source)
        w = w.over(k.dims)
        untold = of_source.pairs() * (at_itself / source.q)
    pairs, weights = k.pairs(), w.pairs()
    safe = np.abs(weights) > below
    out = np.where(safe, pairs / np.where(safe, weights, 1.0), untold)
    out[(-1,) * out.ndim] = at_itself
    return from_pairs(k.dims, table.mean / weight.mean if abs(weight.mean) > below else 0.0, out)


def meet(waiting: Any, g: Any) -> Any:
    """Cotangents of two consumers add (nests of them member by member; None is zero); each brings its terms."""
    if waiting is None or g is None:
        return g if waiting is None else waiting
    if isinstance(g, tuple):
        return tuple(meet(a, b) for a, b in zip(waiting, g, strict=True))
    both = _with_parts(waiting, g)
    if waiting.profile is None and g.profile is None:
        return both
    return replace(both, profile=later(lambda: terms_of(waiting) + terms_of(g), waiting.profile, g.profile))


def _with_parts(x: Moments, y: Moments) -> Moments:
    """``x + y`` of one shape, part by part along the axis that one of them has parts of."""
    divisions = [m.parts for m in (x, y) if m.parts is not None]
    if not divisions:
        return x + y
    axis = divisions[0].axis
    sizes = boundaries(parts.sizes for parts in divisions if parts.axis == axis)
    if len(sizes) > MAX_PARTS:
        return x + y
    return join([meet(a, b) for a, b in zip(cut(x, axis, sizes), cut(y, axis, sizes), strict=True)], axis, x + y)


def carried(out: Moments, g: Moments) -> Moments:
    """Pass the profile of g on to ``out``, a gradient at a tensor that is an increasing affine function of g's.

    What ``out`` has less or more than g times a number is a term that does not depend on the tensor.
    """
    profile = g.profile
    if profile is None or g.q <= 0.0:
        return out

    def terms() -> list[Term]:
        factor = np.sqrt(out.q / g.q)
        x, y = align(replace(out, profile=None), g.scale(factor))
        rest = Moments(x.dims, x.mean - y.mean, x.v - y.v)
        flat = np.ones_like(GRID.z)
        return [*(t.scaled(factor) for t in profile.terms), Term(rest, flat, flat)]

    return replace(out, profile=later(terms, profile))


def placed(table: Moments, x: Moments, amplitude: Array, power: Array, source: Moments | None = None) -> Term:
    """A term with the given pair moments and weights; its source where the weights of two entries have nothing in common."""
    if x.var <= 0.0 or float(GRID.weights @ power) <= 0.0:
        amplitude = power = np.ones_like(GRID.z)
        return Term(table, amplitude, power)
    return Term(_quotient(table, _weight(x, amplitude, power), table.q, source), amplitude, power)
