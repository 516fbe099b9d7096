"""What the second-order law of a tensor is: its fields, its laws at hand, its readings and its atoms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from gradlint.moments import gram
from gradlint.moments.marginal import Marginal
from gradlint.moments.quadrature import GRID
from gradlint.moments.tables import (
    MAX_ATOMS,
    Array,
    Atoms,
    Dims,
    differences,
    merge,
    merged_atoms,
    pair_averages,
    pieces,
    place,
    sum_subsets,
    take,
)

if TYPE_CHECKING:
    from gradlint.moments.array import Moments
    from gradlint.moments.profile import Profile
    from gradlint.moments.rows import Rows

__all__ = ["Law", "Parts", "components"]


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
class Law:
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
        grams: the structure of atoms whose entries are not exchangeable (``gradlint.moments.gram``).
        rows: of the weights of a softmax over the last axis whose rows (along the last but one) do not all see the same.
        lean: what of a sum is known, real values that broadcast to the tensor: a bias by the distance of two positions.
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
    grams: gram.Grams = field(default_factory=dict)
    rows: Rows | None = None
    lean: Array | None = None

    @classmethod
    def iid(cls, shape: Sequence[int], mean: float = 0.0, var: float = 1.0) -> Self:
        """Independent entries of the given mean and variance."""
        dims = tuple((int(n),) if n > 1 else () for n in shape)
        v = np.zeros((2,) * sum(map(len, dims)))
        v[(-1,) * v.ndim] = var
        return cls(dims, float(mean), v)

    @classmethod
    def of_array(cls, values: npt.ArrayLike) -> Self:
        """The law of a real array: its own analysis of variance (unbiased over pairs of distinct indices)."""
        x = np.asarray(values)
        y = x.astype(np.float64).reshape([n for n in x.shape if n > 1])
        law = Marginal.weighted(lambda: (y.ravel(), np.ones(y.size))) if y.size > 1 else None
        return replace(cls.of_averages(x.shape, float(y.mean()), pair_averages(y)), value=x, law=law)

    @classmethod
    def of_averages(cls, shape: Sequence[int], mean: float, table: Array) -> Self:
        """:meth:`of_array` of an array of which only the averages of :func:`~gradlint.moments.tables.pair_averages` are known."""
        for axis, n in enumerate(n for n in shape if n > 1):
            same, averaged = take(table, axis, 1), take(table, axis, 0)
            table = np.stack([(n * averaged - same) / (n - 1), same], axis)
        return cls(tuple((int(n),) if n > 1 else () for n in shape), mean, components(table, mean))

    @classmethod
    def of_table(cls, values: npt.ArrayLike) -> Self:
        """:meth:`of_array` with the structures of its axes: a table of sinusoids is not exchangeable along positions."""
        x = cls.of_array(values)
        return replace(x, grams=gram.of_values(np.asarray(values, dtype=np.float64)))

    @classmethod
    def of_sample(cls, values: npt.ArrayLike) -> Self:
        """The law that a real array was drawn from: :meth:`of_array` without what is within its sampling noise.

        The noise of a component is that of iid entries of the same variance: ``√(2/n_A)/n_rest`` of it.
        """
        x = cls.of_array(values)
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
        return cls(x.dims, mean, v, x.value)

    @classmethod
    def zeros(cls, shape: Sequence[int]) -> Self:
        """The zero tensor."""
        return cls.iid(shape, 0.0, 0.0)

    def twin(self) -> Self:
        """The same law under an identity of its own: gradients are keyed by it."""
        out = object.__new__(type(self))
        vars(out).update(vars(self))
        return out

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(map(math.prod, self.dims))

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

    def whole(self, dim: int) -> Self:
        """The same law with at most one atom on an axis."""
        if len(self.dims[dim]) <= 1:
            return self
        dim %= len(self.dims)
        at, atoms, v = self.atoms(dim).start, list(self.dims[dim]), self.v
        marks = [self.grams.get(a) for a in range(v.ndim)]
        while len(atoms) > 1:
            marks[at : at + 2] = [gram.united(v, at, (atoms[0], atoms[1]), (marks[at], marks[at + 1]))]
            v = merge(v, at, atoms[0], atoms[1])
            atoms[:2] = [atoms[0] * atoms[1]]
        grams = {a: s for a, s in enumerate(marks) if s is not None}
        return replace(self, dims=(*self.dims[:dim], tuple(atoms), *self.dims[dim + 1 :]), v=v, grams=grams)

    def capped(self) -> Self:
        """At most :data:`MAX_ATOMS` atoms: the last crowded axis is averaged first."""
        x = self
        while x.v.ndim > MAX_ATOMS and (crowded := [d for d, dim in enumerate(x.dims) if len(dim) > 1]):
            x = x.whole(crowded[-1])
        return x

    def merged(self, dims: Dims) -> Self:
        """The same law with one atom on every axis where ``dims`` (which may have more axes in front) is no refinement of it."""
        x, lead = self, len(dims) - len(self.dims)
        if dims[lead:] == self.dims:
            return self
        for d, atoms in enumerate(self.dims):
            if merged_atoms(atoms, dims[lead + d]) != atoms:
                x = x.whole(d)
        return x

    def over(self, dims: Dims) -> Self:
        """The same law on finer atoms, broadcast along axes that it does not have: it is constant along them."""
        x = self.merged(dims)
        if x.dims == dims:
            return x
        v = np.zeros((2,) * sum(map(len, dims)))
        v.ravel()[place(x.dims, dims)] = x.v.ravel()
        grams = (
            gram.relaid(x.grams, [own[0] if len(own) == 1 else None for own in pieces(x.dims, dims)]) if x.grams else gram.EMPTY
        )
        if x.shape == tuple(map(math.prod, dims)):
            return replace(x, dims=dims, v=v, grams=grams)
        return type(self)(dims, x.mean, v, grams=grams)


def components(table: Array, mean: float) -> Array:
    """The variance components of the pair table ``table``, shape ``(2,) * number of atoms``."""
    v = differences(table)
    v[(0,) * v.ndim] -= mean**2
    return v
