"""The class :class:`Moments` and the operations on one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradlint.moments.marginal import Marginal
from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import (
    MAX_ATOMS,
    Array,
    Atoms,
    Dims,
    common_dims,
    differences,
    merge,
    merged_atoms,
    origin,
    pair_averages,
    place,
    split,
    sum_subsets,
    take,
)

if TYPE_CHECKING:
    from gradlint.moments.profile import Profile

__all__ = ["Moments", "Parts", "align", "from_pairs", "pairs_over"]


@dataclass(frozen=True, eq=False)
class Parts:
    """The laws of consecutive stretches of one axis.

    Args:
        axis: the axis.
        laws: of the stretches; none has parts of its own.
        pairs: for stretches (0, 1), (0, 2) … (1, 2) …: the law of two entries, one from each, on an axis of size 2. None: they
            have the correlation of the pooled law.
    """

    axis: int
    laws: tuple[Moments, ...]
    pairs: tuple[Moments, ...] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the stretches."""
        return tuple(law.shape[self.axis] for law in self.laws)

    def each(self, change: Callable[[Moments], Moments], axis: int | None = None) -> Parts:
        """Every law changed, which puts the axis at ``axis``."""
        pairs = None if self.pairs is None else tuple(map(change, self.pairs))
        return Parts(self.axis if axis is None else axis, tuple(map(change, self.laws)), pairs)


@dataclass(frozen=True, eq=False)
class Moments:
    """The second-order law of a tensor.

    Args:
        dims: for each axis of the tensor its atoms, a tuple of sizes > 1 whose product is the size of the axis.
        mean: the common mean of the entries.
        v: shape ``(2,) * number of atoms``; ``v[A]`` is the variance of the component that varies along the atoms with
            index 1 and is constant along those with index 0. May be negative for centred arrays of finite size.
        value: the real values where they are known (a constant), else None.
        alive: for scores under a mask, which entries take part (a boolean array that broadcasts to the tensor).
        parts: the laws of stretches of one axis that are not exchangeable with one another (``gradlint.moments.parts``).
        law: the marginal law of an entry where it is known not to be Gaussian.
        profile: of a gradient that is not independent of its tensor: how it depends on the tensor's value.
        radial: of a gradient whose inner product with its tensor, channel by channel (axis 1), is known: the rms of that. It is
            what the scale of the tensor feels; in front of a norm it is next to nothing.
    """

    dims: tuple[Atoms, ...]
    mean: float
    v: Array
    value: npt.NDArray[np.generic] | None = None
    alive: npt.NDArray[np.bool_] | None = None
    parts: Parts | None = None
    law: Marginal | None = None
    profile: Profile | None = None
    radial: float | None = None

    @staticmethod
    def iid(shape: Sequence[int], mean: float = 0.0, var: float = 1.0) -> Moments:
        """Independent entries of the given mean and variance."""
        dims = tuple((int(n),) if n > 1 else () for n in shape)
        v = np.zeros((2,) * sum(map(len, dims)))
        v[(-1,) * v.ndim] = var
        return Moments(dims, float(mean), v)

    @staticmethod
    def of_array(values: npt.ArrayLike) -> Moments:
        """The law of a real array: its own analysis of variance (unbiased over pairs of distinct indices)."""
        x = np.asarray(values)
        y = x.astype(np.float64).reshape([n for n in x.shape if n > 1])
        table = pair_averages(y)
        for axis, n in enumerate(n for n in x.shape if n > 1):
            same, averaged = take(table, axis, 1), take(table, axis, 0)
            table = np.stack([(n * averaged - same) / (n - 1), same], axis)
        law = Marginal.weighted(lambda: (y.ravel(), np.ones(y.size))) if y.size > 1 else None
        return replace(from_pairs(tuple((n,) if n > 1 else () for n in x.shape), float(y.mean()), table, value=x), law=law)

    @staticmethod
    def of_sample(values: npt.ArrayLike) -> Moments:
        """The law that a real array was drawn from: :meth:`of_array` without what is within its sampling noise.

        The noise of a component is that of iid entries of the same variance: ``√(2/n_A)/n_rest`` of it.
        """
        x = Moments.of_array(values)
        sizes = [n for dim in x.dims for n in dim]
        numel, var = math.prod(sizes), float(x.v.sum())
        if numel < 2 or var <= 0:
            return x
        v, mean = x.v.copy(), x.mean
        for index in np.ndindex(*v.shape):
            varying = math.prod(n for n, bit in zip(sizes, index, strict=True) if bit)
            if varying < numel and abs(v[index]) < 4 * var * math.sqrt(2 / varying) / (numel / varying):
                v[index] = 0.0
        if abs(mean) < 4 * math.sqrt(var / numel):
            mean = 0.0
        v[(-1,) * v.ndim] += x.q - mean**2 - v.sum()
        return Moments(x.dims, mean, v, x.value)

    @staticmethod
    def zeros(shape: Sequence[int]) -> Moments:
        """The zero tensor."""
        return Moments.iid(shape, 0.0, 0.0)

    def twin(self) -> Moments:
        """The same law under an identity of its own: gradients are keyed by it."""
        out = object.__new__(Moments)
        vars(out).update(vars(self))
        return out

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(math.prod(dim) for dim in self.dims)

    @cached_property
    def var(self) -> float:
        """Variance of an entry about the common mean."""
        return max(float(self.v.sum()), 0.0)

    @cached_property
    def q(self) -> float:
        """Mean square of an entry."""
        return max(self.mean**2 + float(self.v.sum()), 0.0)

    @property
    def rms(self) -> float:
        """Root mean square of an entry."""
        return math.sqrt(self.q)

    def pairs(self) -> Array:
        """The table K: mean product of two entries that share exactly the atoms with index 1. It is not to be written to."""
        return self._pairs

    @cached_property
    def _pairs(self) -> Array:
        table = sum_subsets(self.v)
        table += self.mean**2
        table.flags.writeable = False
        return table

    def atoms(self, dim: int) -> range:
        """Positions in ``v`` of the atoms of one axis."""
        return self._atoms[dim]

    @cached_property
    def _atoms(self) -> tuple[range, ...]:
        ends = [0, *accumulate(map(len, self.dims))]
        return tuple(range(a, b) for a, b in pairwise(ends))

    def shared(self, dims: Iterable[int]) -> float:
        """Mean product of two entries that differ along the given axes and share all others."""
        differ = {a for d in dims for a in self.atoms(d)}
        return float(self.pairs()[tuple(int(a not in differ) for a in range(self.v.ndim))])

    # ---- reindex ------------------------------------------------------------------------------------------------

    def reshape(self, shape: Sequence[int]) -> Moments:
        """``view``/``reshape``/``flatten``/``unflatten``/``squeeze``/``unsqueeze`` to ``shape`` (no -1)."""
        queue, v = [n for dim in self.dims for n in dim], self.v
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
                    queue[at : at + 1] = [need, queue[at] // need]
                else:  # the boundary cuts through an atom: average over it and its neighbour first
                    if dim:
                        at -= 1
                        dim.pop()
                    if at + 1 >= len(queue):
                        raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
                    v = merge(v, at, queue[at], queue[at + 1])
                    queue[at : at + 2] = [queue[at] * queue[at + 1]]
            dims.append(tuple(dim))
        if at < len(queue):
            raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
        value = None if self.value is None else self.value.reshape(shape)
        alive = None if self.alive is None else np.broadcast_to(self.alive, self.shape).reshape(shape)
        out = Moments(tuple(dims), self.mean, v, value, alive, self._parts_in(shape), self.law)
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
        out = Moments(tuple(self.dims[d] for d in order), self.mean, self.v.transpose(axes), value, alive, parts, self.law)
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
        at = 0
        for size, dim in zip(shape, ((),) * lead + self.dims, strict=True):
            if not dim and size > 1:
                v = np.stack([v, np.zeros_like(v)], at)
            dims.append(dim or ((int(size),) if size > 1 else ()))
            at += len(dims[-1])
        value = None if self.value is None else np.broadcast_to(self.value, shape)
        parts = None
        if self.parts is not None:
            at, axis = self.parts.axis + lead, self.parts.axis
            parts = self.parts.each(lambda law: law.expand((*shape[:at], law.shape[axis], *shape[at + 1 :])), at)
        return Moments(tuple(dims), self.mean, v, value, parts=parts, law=self.law)

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
        out = Moments((*x.dims[:dim], atoms, *x.dims[dim + 1 :]), x.mean, v, law=x.law)
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
        return _moved(out, self, lambda g: g.pad(dim, size))

    # ---- sum ----------------------------------------------------------------------------------------------------

    def sum(self, dims: Iterable[int], *, keepdim: bool = False) -> Moments:
        """Sum over axes."""
        gone = {d % len(self.dims) for d in dims}
        if not any(self.dims[d] for d in gone):
            out = tuple(dim for d, dim in enumerate(self.dims) if keepdim or d not in gone)
            return Moments(out, self.mean, self.v)
        v, mean, sizes = self.v, self.mean, self.sizes()
        for d in sorted(gone, reverse=True):
            for a in reversed(self.atoms(d)):
                n = sizes[a]
                v, mean = _added(n * take(v, a, 1), n * n * take(v, a, 0)), mean * n
        out = tuple(() if d in gone else dim for d, dim in enumerate(self.dims) if keepdim or d not in gone)
        return Moments(out, mean, v)

    def average(self, dims: Iterable[int], *, keepdim: bool = False) -> Moments:
        """Mean over axes."""
        dims = list(dims)
        n = math.prod(self.shape[d] for d in {d % len(self.dims) for d in dims})
        return self.sum(dims, keepdim=keepdim).scale(1 / n)

    def centre(self, dims: Iterable[int]) -> Moments:
        """Subtract the mean over axes: ``K − K̄``, K̄ the average of K over all pairs along them."""
        v = self.v
        for d in {d % len(self.dims) for d in dims}:
            for a in self.atoms(d):
                n = self.sizes()[a]
                v = np.stack([take(v, a, 0) + take(v, a, 1) / n, np.zeros_like(take(v, a, 0))], a)
        return Moments(self.dims, 0.0, self.v - v)

    # ---- linear combinations and products -----------------------------------------------------------------------

    def scale(self, factor: float) -> Moments:
        """Times a number."""
        value = None if self.value is None else np.asarray(self.value, dtype=np.float64) * factor
        parts = self.parts and self.parts.each(lambda law: law.scale(factor))
        law = self.law.flipped() if self.law is not None and factor < 0 else self.law
        profile = None if self.profile is None else self.profile.scaled(factor)
        return Moments(self.dims, self.mean * factor, self.v * factor**2, value, self.alive, parts, law, profile)

    def shift(self, offset: float) -> Moments:
        """Plus a number."""
        value = None if self.value is None else np.asarray(self.value, dtype=np.float64) + offset
        return Moments(self.dims, self.mean + offset, self.v, value, self.alive, law=self.law)

    def __add__(self, other: Moments) -> Moments:
        """Sum of two independent tensors, with broadcasting."""
        x, y = align(self, other)
        masks = [m.alive for m in (self, other) if m.alive is not None]
        alive = np.logical_and(masks[0], masks[-1]) if masks else None
        law = Marginal.of_sum((self.law, self.mean, math.sqrt(self.var)), (other.law, other.mean, math.sqrt(other.var)))
        return Moments(x.dims, x.mean + y.mean, x.v + y.v, alive=alive, law=law)

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
        return replace(from_pairs(self.dims, mean, table), law=Marginal(lambda: values))

    def latent(self) -> Array:
        """Correlations of the Gaussian array that this one is a function of, as a table; the variance must not be zero."""
        rho = np.clip(sum_subsets(self.v) / self.var, -1.0, 1.0)
        return rho if self.law is None else self.law.latent(rho)

    def on_grid(self) -> Array:
        """The argument of a map: ``mean + σ·GRID.z``, or what the law makes of ``GRID.z``."""
        std = math.sqrt(self.var)
        return self.mean + std * GRID.z if self.law is None else self.law.scaled(self.mean, std)

    def sizes(self) -> list[int]:
        """Sizes of all atoms, in the order of ``v``."""
        return [n for dim in self.dims for n in dim]

    def whole(self, dim: int) -> Moments:
        """The same law with at most one atom on an axis."""
        if len(self.dims[dim]) <= 1:
            return self
        dim %= len(self.dims)
        at, atoms, v = self.atoms(dim).start, list(self.dims[dim]), self.v
        while len(atoms) > 1:
            v = merge(v, at, atoms[0], atoms[1])
            atoms[:2] = [atoms[0] * atoms[1]]
        return replace(self, dims=(*self.dims[:dim], tuple(atoms), *self.dims[dim + 1 :]), v=v)

    def capped(self) -> Moments:
        """At most :data:`MAX_ATOMS` atoms: the last crowded axis is averaged first."""
        x = self
        while x.v.ndim > MAX_ATOMS and (crowded := [d for d, dim in enumerate(x.dims) if len(dim) > 1]):
            x = x.whole(crowded[-1])
        return x

    def merged(self, dims: Dims) -> Moments:
        """The same law with one atom on every axis where ``dims`` (which may have more axes in front) is no refinement of it."""
        x, lead = self, len(dims) - len(self.dims)
        if dims[lead:] == self.dims:
            return self
        for d, atoms in enumerate(self.dims):
            if merged_atoms(atoms, dims[lead + d]) != atoms:
                x = x.whole(d)
        return x

    def over(self, dims: Dims) -> Moments:
        """The same law on finer atoms, broadcast along axes that it does not have: it is constant along them."""
        x = self.merged(dims)
        if x.dims == dims:
            return x
        v = np.zeros((2,) * sum(map(len, dims)))
        v.ravel()[place(x.dims, dims)] = x.v.ravel()
        if x.shape == tuple(map(math.prod, dims)):
            return replace(x, dims=dims, v=v)
        return Moments(dims, x.mean, v)


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


def from_pairs(dims: tuple[Atoms, ...], mean: float, table: Array, value: npt.NDArray[np.generic] | None = None) -> Moments:
    """The law with the pair table ``table`` (shape ``(2,) * number of atoms``) and the common ``mean``."""
    v = differences(table)
    v[(0,) * v.ndim] -= mean**2
    return Moments(dims, float(mean), v, value)
