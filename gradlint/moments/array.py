"""The class :class:`Moments` and the operations on one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gradlint.moments import gram
from gradlint.moments.law import Law, Parts, components
from gradlint.moments.marginal import Marginal
from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import Array, Atoms, Dims, common_dims, merge, origin, split, take

_EVEN = 1e-2
"""Scales that differ by less are one."""

MAX_KNOWN = 8_000_000
"""Larger tensors do not remember in another shape what is known of them."""

__all__ = ["Moments", "Parts", "align", "from_pairs", "pairs_over"]


@dataclass(frozen=True, eq=False)
class Moments(Law):
    """The second-order law of a tensor, and the operations on one."""

    # ---- reindex ------------------------------------------------------------------------------------------------

    def reshape(self, shape: Sequence[int]) -> Moments:
        """``view``/``reshape``/``flatten``/``unflatten``/``squeeze``/``unsqueeze`` to ``shape`` (no -1)."""
        queue, v = [n for dim in self.dims for n in dim], self.v
        marks = [self.grams.get(a) for a in range(v.ndim)]
        dims: list[Atoms] = []
        at = 0
        for size in shape:
            dim: list[int] = []
            while math.prod(dim) != size:
                need = size // math.prod(dim)
                if at >= len(queue):
                    raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
                if need % queue[at] == 0 and size % math.prod(dim) == 0:
                    dim.append(queue[at])
                    at += 1
                elif queue[at] % need == 0 and size % math.prod(dim) == 0:
                    v = split(v, at)
                    queue[at : at + 1], marks[at : at + 1] = [need, queue[at] // need], [None, None]
                else:  # the boundary cuts through an atom: average over it and its neighbour first
                    if dim:
                        at -= 1
                        dim.pop()
                    if at + 1 >= len(queue):
                        raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
                    marks[at : at + 2] = [gram.united(v, at, (queue[at], queue[at + 1]), (marks[at], marks[at + 1]))]
                    v = merge(v, at, queue[at], queue[at + 1])
                    queue[at : at + 2] = [queue[at] * queue[at + 1]]
            dims.append(tuple(dim))
        if at < len(queue):
            raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
        value = None if self.value is None else self.value.reshape(shape)
        alive = None if self.alive is None else np.broadcast_to(self.alive, self.shape).reshape(shape)
        grams = {a: s for a, s in enumerate(marks) if s is not None}
        rows = self.rows if tuple(shape[-2:]) == self.shape[-2:] else None
        lean = (
            None if self.lean is None or math.prod(shape) > MAX_KNOWN else np.broadcast_to(self.lean, self.shape).reshape(shape)
        )
        out = Moments(tuple(dims), self.mean, v, value, alive, self._parts_in(shape), self.law, grams=grams, rows=rows, lean=lean)
        return _moved(out, self, lambda g: g.reshape(shape)).capped()

    def _parts_in(self, shape: Sequence[int]) -> Parts | None:
        """The parts in a view where their axis is still an axis."""
        if self.parts is None:
            return None
        n, before = self.shape[self.parts.axis], math.prod(self.shape[: self.parts.axis])
        for d, size in enumerate(shape):
            if size == n and math.prod(shape[:d]) == before:
                axis = self.parts.axis
                return self.parts.each(lambda law: law.reshape((*shape[:d], law.shape[axis], *shape[d + 1 :])), d)  # noqa: B023
        return None

    def permute(self, order: Sequence[int]) -> Moments:
        """Axes in a new order."""
        order = [d % len(self.dims) for d in order]
        axes = [a for d in order for a in self.atoms(d)]
        value = None if self.value is None else self.value.transpose(order)
        alive = None if self.alive is None else np.broadcast_to(self.alive, self.shape).transpose(order)
        parts = self.parts and self.parts.each(lambda law: law.permute(order), order.index(self.parts.axis))
        dims, grams = tuple(self.dims[d] for d in order), gram.relaid(self.grams, [axes.index(a) for a in range(len(axes))])
        lean = None if self.lean is None else np.broadcast_to(self.lean, self.shape).transpose(order)
        out = Moments(dims, self.mean, self.v.transpose(axes), value, alive, parts, self.law, grams=grams, lean=lean)
        return _moved(out, self, lambda g: g.permute(order))

    def transpose(self, first: int, second: int) -> Moments:
        """Two axes swapped."""
        order = list(range(len(self.dims)))
        order[first], order[second] = order[second], order[first]
        return self.permute(order)

    def expand(self, shape: Sequence[int]) -> Moments:
        """Broadcast to ``shape``: the new axes carry nothing."""
        lead = len(shape) - len(self.dims)
        v = self.v
        dims: list[Atoms] = []
        places: list[int | None] = []
        at = 0
        for size, dim in zip(shape, ((),) * lead + self.dims, strict=True):
            if not dim and size > 1:
                v = np.stack([v, np.zeros_like(v)], at)
            places += range(at, at + len(dim))
            dims.append(dim or ((int(size),) if size > 1 else ()))
            at += len(dims[-1])
        value = None if self.value is None else np.broadcast_to(self.value, shape)
        parts = None
        if self.parts is not None:
            at, axis = self.parts.axis + lead, self.parts.axis
            parts = self.parts.each(lambda law: law.expand((*shape[:at], law.shape[axis], *shape[at + 1 :])), at)
        return Moments(tuple(dims), self.mean, v, value, parts=parts, law=self.law, grams=gram.relaid(self.grams, places))

    def resize(self, dim: int, size: int) -> Moments:
        """A slice (or a periodic repetition) of an axis: the same law on another number of entries."""
        x = self.whole(dim)
        dim %= len(x.dims)
        if size > 1 and not x.dims[dim]:
            return x.expand((*x.shape[:dim], size, *x.shape[dim + 1 :]))
        v = x.v
        if size <= 1 and x.dims[dim]:
            v = v.sum(x.atoms(dim)[0])
        atoms: Atoms = (int(size),) if size > 1 else ()
        grams = _without(x, dim, keep=size > 1)
        out = Moments((*x.dims[:dim], atoms, *x.dims[dim + 1 :]), x.mean, v, law=x.law, grams=grams)
        return _moved(out, self, lambda g: g.resize(dim, size))

    def pad(self, dim: int, size: int) -> Moments:
        """Embed in an axis of ``size`` entries, zero elsewhere: the adjoint of :meth:`resize` as a slice."""
        x = self.whole(dim)
        dim %= len(x.dims)
        small = x.shape[dim]
        if small == size:
            return x
        table = x.pairs()
        at = sum(map(len, x.dims[:dim]))
        if x.dims[dim]:
            same, differ = take(table, at, 1), take(table, at, 0)
        else:
            same = differ = table
        both = small * (small - 1) / (size * (size - 1))
        table = np.stack([differ * both, same * (small / size)], at)
        out = from_pairs((*x.dims[:dim], (int(size),), *x.dims[dim + 1 :]), x.mean * small / size, table)
        out = replace(out, grams=_without(x, dim, keep=True))
        return _moved(out, self, lambda g: g.pad(dim, size))

    # ---- sum ----------------------------------------------------------------------------------------------------

    def sum(self, dims: Iterable[int], *, keepdim: bool = False) -> Moments:
        """Sum over axes."""
        gone = {d % len(self.dims) for d in dims}
        left = [a for d in range(len(self.dims)) if d not in gone for a in self.atoms(d)]
        grams = gram.relaid(self.grams, [left.index(a) if a in left else None for a in range(self.v.ndim)])
        if not any(self.dims[d] for d in gone):
            out = tuple(dim for d, dim in enumerate(self.dims) if keepdim or d not in gone)
            return Moments(out, self.mean, self.v, grams=grams)
        v, mean, sizes = self.v, self.mean, self.sizes()
        for d in sorted(gone, reverse=True):
            for a in reversed(self.atoms(d)):
                n = sizes[a]
                v, mean = _added(n * take(v, a, 1), n * n * take(v, a, 0)), mean * n
        out = tuple(() if d in gone else dim for d, dim in enumerate(self.dims) if keepdim or d not in gone)
        grams = gram.relaid(self.grams, [left.index(a) if a in left else None for a in range(self.v.ndim)])
        return Moments(out, mean, v, grams=grams)

    def average(self, dims: Iterable[int], *, keepdim: bool = False) -> Moments:
        """Mean over axes."""
        dims = list(dims)
        n = math.prod(self.shape[d] for d in {d % len(self.dims) for d in dims})
        return self.sum(dims, keepdim=keepdim).scale(1 / n)

    def centre(self, dims: Iterable[int]) -> Moments:
        """Subtract the mean over axes: ``K − K̄``, K̄ the average of K over all pairs along them."""
        v, grams = self.v, dict(self.grams)
        for d in {d % len(self.dims) for d in dims}:
            for a in self.atoms(d):
                n = self.sizes()[a]
                v = np.stack([take(v, a, 0) + take(v, a, 1) / n, np.zeros_like(take(v, a, 0))], a)
                if a in grams:
                    grams[a] = gram.centred(grams[a])
        return Moments(self.dims, 0.0, self.v - v, grams=grams)

    # ---- linear combinations and products -----------------------------------------------------------------------

    def scale(self, factor: float) -> Moments:
        """Times a number."""
        value = None if self.value is None else np.asarray(self.value, dtype=np.float64) * factor
        parts = self.parts and self.parts.each(lambda law: law.scale(factor))
        law = self.law.flipped() if self.law is not None and factor < 0 else self.law
        profile = None if self.profile is None else self.profile.scaled(factor)
        lean = None if self.lean is None else self.lean * factor
        return Moments(
            self.dims, self.mean * factor, self.v * factor**2, value, self.alive, parts, law, profile, grams=self.grams, lean=lean
        )

    def shift(self, offset: float) -> Moments:
        """Plus a number."""
        value = None if self.value is None else np.asarray(self.value, dtype=np.float64) + offset
        return Moments(self.dims, self.mean + offset, self.v, value, self.alive, law=self.law, grams=self.grams, lean=self.lean)

    def __add__(self, other: Moments) -> Moments:
        """Sum of two independent tensors, with broadcasting."""
        x, y = align(self, other)
        masks = [m.alive for m in (self, other) if m.alive is not None]
        alive = np.logical_and(masks[0], masks[-1]) if masks else None
        law = Marginal.of_sum((self.law, self.mean, math.sqrt(self.var)), (other.law, other.mean, math.sqrt(other.var)))
        return Moments(x.dims, x.mean + y.mean, x.v + y.v, alive=alive, law=law, grams=_of_sum(x, y), lean=_lean(self, other))

    def drawn(self) -> Moments:
        """Without what is known of it."""
        if self.lean is None:
            return self
        known, x = align(Moments.of_table(self.lean), self)
        grams = {a: s for a, s in x.grams.items() if a not in known.grams}  # the rest cannot be told apart
        return Moments(x.dims, x.mean - known.mean, x.v - known.v, alive=self.alive, grams=grams)

    def fold(self, shape: Sequence[int]) -> Moments:
        """Sum down to ``shape``: the adjoint of broadcasting."""
        lead = len(self.dims) - len(shape)
        out = self.sum(range(lead))
        return out.sum([d for d, n in enumerate(shape) if n == 1 and out.dims[d]], keepdim=True)

    def map(self, values: Array) -> Moments:
        """Apply a scalar function to a Gaussian array, or to a function of one.

        Args:
            values: the function at :meth:`on_grid`, shape ``GRID.z.shape``.
        """
        if self.var <= 0.0:
            return Moments(self.dims, float(values[len(values) // 2]), np.zeros_like(self.v))
        mean, table = GRID.dual(values, self.latent())
        grams = {}
        for a, s in self.grams.items():
            m = self._mapped(values, a, s)
            table = gram.retuned(table, a, gram.correlation(m))
            own = float(np.trace(m)) / len(m)
            if (known := float(table[(-1,) * table.ndim])) > 0:
                table, mean = table * (own / known), mean * math.sqrt(own / known)
            if (after := gram.standardised(m)) is not None:
                grams[a] = after
        return replace(from_pairs(self.dims, mean, table), law=Marginal(lambda: values), grams=grams)

    def _mapped(self, values: Array, atom: int, s: Array) -> Array:
        """Moments along an atom behind a scalar function, each entry at its own scale and correlation with every other."""
        others = float(take(self.v, atom, 0).sum()) / self.var
        rho = gram.spread(others, 1 - others, s, len(s))
        scale = np.sqrt(np.maximum(np.diagonal(rho), 0.0))
        both = np.outer(scale, scale)
        rho = np.clip(np.divide(rho, both, out=np.zeros_like(rho), where=both > 0), -1.0, 1.0)
        latent = rho if self.law is None else self.law.latent(rho)
        if np.abs(scale - 1).max() < _EVEN:
            return GRID.dual_curve(values, latent)
        u, mean = self.on_grid(), self.mean
        return GRID.dual_of([np.interp(mean + c * (u - mean), u, values) for c in scale], latent)


def _lean(*terms: Moments) -> Array | None:
    """What is known of a sum."""
    known = [np.asarray(m.value if m.lean is None else m.lean) for m in terms if m.value is not None or m.lean is not None]
    return None if all(x.size == 1 for x in known) else np.asarray(sum(known))


def _added(varying: Array, constant: Array) -> Array:
    """Their sum; what is left of exact cancellation (entries that add up to zero) is rounding."""
    total = varying + constant
    if (constant < 0).any():
        total = np.where(np.abs(total) > 1e-12 * np.abs(varying), total, 0.0)
    return total


def _moved(out: Moments, source: Moments, move: Callable[[Moments], Moments]) -> Moments:
    """``out``, a reindexing of ``source``, with its profile."""
    return out if source.profile is None else replace(out, profile=source.profile.reindexed(move))


def align(x: Moments, y: Moments) -> tuple[Moments, Moments]:
    """Broadcast two laws against each other: the same dims and atoms afterwards."""
    if x.dims == y.dims:
        return x, y
    dims = common_dims(x.dims, y.dims)
    return x.over(dims), y.over(dims)


def pairs_over(x: Moments, dims: Dims) -> Array:
    """:meth:`Moments.pairs` of ``x.over(dims)``."""
    x = x.merged(dims)
    return x.pairs() if x.dims == dims else x.pairs().ravel()[origin(x.dims, dims)]


def _without(x: Moments, dim: int, *, keep: bool) -> gram.Grams:
    """The structures of the other axes when an axis of at most one atom keeps it (without its structure) or loses it."""
    if not x.grams:
        return gram.EMPTY
    at, gone = x.atoms(dim).start, set(x.atoms(dim))
    step = (0 if gone else 1) if keep else -len(gone)
    return gram.relaid(x.grams, [None if a in gone else a + step * (a >= at) for a in range(x.v.ndim)])


def _of_sum(x: Moments, y: Moments) -> gram.Grams:
    """The structures of a sum of independent tensors on the same atoms."""
    found = {}
    for a in sorted({*x.grams, *y.grams}):
        n = x.sizes()[a]
        out = gram.mixed([(float(take(m.v, a, 1).sum()), m.grams.get(a)) for m in (x, y)], n)
        if out is not None:
            found[a] = out
    return found or gram.EMPTY


def from_pairs(dims: tuple[Atoms, ...], mean: float, table: Array, value: npt.NDArray[np.generic] | None = None) -> Moments:
    """The law with the pair table ``table`` (shape ``(2,) * number of atoms``) and the common ``mean``."""
    return Moments(dims, float(mean), components(table, mean), value)
