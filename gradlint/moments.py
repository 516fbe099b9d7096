"""Moments: the second-order law of a tensor, and its algebra. No torch.

A tensor at random initialisation is an *exchangeable random array* over its axes:

    x = mean + Σ_A e_A        one independent zero-mean component per subset A of the axes, iid over the axes in A

and its second-order law is ``mean`` and the variances ``v[A]``. The table of pair moments

    K[S] = E[x_i x_j]  over pairs of entries i, j that share exactly the axes in S   =   mean² + Σ_{A⊆S} v[A]

carries the same numbers; a running sum along every axis goes one way (:meth:`Moments.pairs`), a difference the other.
The same object describes activations and gradients. Four primitives make everything else:

* **reindex** (:meth:`~Moments.reshape`, :meth:`~Moments.permute`, :meth:`~Moments.expand`, :func:`concat` …): axes are renamed,
  merged and split;
* **product** of independent arrays: ``K_xy[S] = K_x[S] K_y[S]``;
* **sum** over an axis of size n: a component that varies along it grows by n, one that is constant by n²;
* **map** by a scalar function: ``K'[S] = Σ_k a_k² ρ[S]^k``, a_k the Hermite coefficients of φ(m + σz).

An axis of a tensor is kept as a tuple of *atoms* whose sizes multiply to its size, so that ``view(B*T, C)`` followed by
``view(B, T, C)`` forgets nothing; axes of size 1 have no atoms and carry nothing.

Sources: variance components of exchangeable arrays (Aldous 1981; Searle, Casella & McCulloch 1992); dual activations
(Daniely, Frostig & Singer 2016, §4, arXiv:1602.05897); mean-field propagation (Poole et al. 2016, arXiv:1606.05340).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["GRID", "MAX_ATOMS", "Array", "Moments", "concat", "einsum", "product", "total"]

Array = npt.NDArray[np.float64]
Atoms = tuple[int, ...]

MAX_ATOMS = 8
"""A table of 2^8 numbers; finer structure is averaged within an axis."""


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
        taken: of a gradient that is zero but at one index of an axis: pairs (axis, index).
    """

    dims: tuple[Atoms, ...]
    mean: float
    v: Array
    value: npt.NDArray[np.generic] | None = None
    alive: npt.NDArray[np.bool_] | None = None
    taken: tuple[tuple[int, int], ...] = ()

    # ---- construction -------------------------------------------------------------------------------------------

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
        table = _pair_averages(y)
        for axis, n in enumerate(n for n in x.shape if n > 1):
            same, averaged = _take(table, axis, 1), _take(table, axis, 0)
            table = np.stack([(n * averaged - same) / (n - 1), same], axis)
        return _from_pairs(tuple((n,) if n > 1 else () for n in x.shape), float(y.mean()), table, value=x)

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

    # ---- facts --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(math.prod(dim) for dim in self.dims)

    @property
    def var(self) -> float:
        """Variance of an entry about the common mean."""
        return max(float(self.v.sum()), 0.0)

    @property
    def q(self) -> float:
        """Mean square of an entry."""
        return max(self.mean**2 + float(self.v.sum()), 0.0)

    @property
    def rms(self) -> float:
        """Root mean square of an entry."""
        return math.sqrt(self.q)

    def pairs(self) -> Array:
        """The table K: mean product of two entries that share exactly the atoms with index 1."""
        return _sum_subsets(self.v) + self.mean**2

    def atoms(self, dim: int) -> range:
        """Positions in ``v`` of the atoms of one axis."""
        dim %= len(self.dims)
        start = sum(map(len, self.dims[:dim]))
        return range(start, start + len(self.dims[dim]))

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
                    v = _split(v, at)
                    queue[at : at + 1] = [need, queue[at] // need]
                else:  # the boundary cuts through an atom: average over it and its neighbour first
                    if dim:
                        at -= 1
                        dim.pop()
                    if at + 1 >= len(queue):
                        raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
                    v = _merge(v, at, queue[at], queue[at + 1])
                    queue[at : at + 2] = [queue[at] * queue[at + 1]]
            dims.append(tuple(dim))
        return Moments(tuple(dims), self.mean, v, None if self.value is None else self.value.reshape(shape))._capped()

    def permute(self, order: Sequence[int]) -> Moments:
        """Axes in a new order."""
        order = [d % len(self.dims) for d in order]
        axes = [a for d in order for a in self.atoms(d)]
        value = None if self.value is None else self.value.transpose(order)
        alive = None if self.alive is None else np.broadcast_to(self.alive, self.shape).transpose(order)
        taken = tuple((order.index(axis), index) for axis, index in self.taken)
        return Moments(tuple(self.dims[d] for d in order), self.mean, self.v.transpose(axes), value, alive, taken)

    def transpose(self, first: int, second: int) -> Moments:
        """Two axes swapped."""
        order = list(range(len(self.dims)))
        order[first], order[second] = order[second], order[first]
        return self.permute(order)

    def expand(self, shape: Sequence[int]) -> Moments:
        """Broadcast to ``shape``: the new axes carry nothing."""
        lead = len(shape) - len(self.dims)
        v, dims = self.v, []
        at = 0
        for size, dim in zip(shape, ((),) * lead + self.dims, strict=True):
            if not dim and size > 1:
                v = np.stack([v, np.zeros_like(v)], at)
                dim = (int(size),)
            dims.append(dim)
            at += len(dim)
        value = None if self.value is None else np.broadcast_to(self.value, shape)
        return Moments(tuple(dims), self.mean, v, value)

    def resize(self, dim: int, size: int) -> Moments:
        """A slice (or a periodic repetition) of an axis: the same law on another number of entries."""
        x = self._whole(dim)
        dim %= len(x.dims)
        if size > 1 and not x.dims[dim]:
            return x.expand((*x.shape[:dim], size, *x.shape[dim + 1 :]))
        v = x.v
        if size <= 1 and x.dims[dim]:
            v = v.sum(x.atoms(dim)[0])
        atoms: Atoms = (int(size),) if size > 1 else ()
        return Moments((*x.dims[:dim], atoms, *x.dims[dim + 1 :]), x.mean, v)

    def pad(self, dim: int, size: int) -> Moments:
        """Embed in an axis of ``size`` entries, zero elsewhere: the adjoint of :meth:`resize` as a slice."""
        x = self._whole(dim)
        dim %= len(x.dims)
        small = x.shape[dim]
        if small == size:
            return x
        table = x.pairs()
        at = sum(map(len, x.dims[:dim]))
        if x.dims[dim]:
            same, differ = _take(table, at, 1), _take(table, at, 0)
        else:
            same = differ = table
        both = small * (small - 1) / (size * (size - 1))
        table = np.stack([differ * both, same * (small / size)], at)
        return _from_pairs((*x.dims[:dim], (int(size),), *x.dims[dim + 1 :]), x.mean * small / size, table)

    # ---- sum ----------------------------------------------------------------------------------------------------

    def sum(self, dims: Iterable[int], *, keepdim: bool = False) -> Moments:
        """Sum over axes."""
        gone = {d % len(self.dims) for d in dims}
        v, mean = self.v, self.mean
        for d in sorted(gone, reverse=True):
            for a in reversed(self.atoms(d)):
                n = self._sizes()[a]
                v, mean = n * _take(v, a, 1) + n * n * _take(v, a, 0), mean * n
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
                n = self._sizes()[a]
                v = np.stack([_take(v, a, 0) + _take(v, a, 1) / n, np.zeros_like(_take(v, a, 0))], a)
        return Moments(self.dims, 0.0, self.v - v)

    # ---- linear combinations and products -----------------------------------------------------------------------

    def scale(self, factor: float) -> Moments:
        """Times a number."""
        value = None if self.value is None else self.value * factor
        return Moments(self.dims, self.mean * factor, self.v * factor**2, value, self.alive)

    def shift(self, offset: float) -> Moments:
        """Plus a number."""
        value = None if self.value is None else self.value + offset
        return Moments(self.dims, self.mean + offset, self.v, value, self.alive)

    def __add__(self, other: Moments) -> Moments:
        """Sum of two independent tensors, with broadcasting."""
        x, y = _align(self, other)
        return Moments(x.dims, x.mean + y.mean, x.v + y.v)

    def fold(self, shape: Sequence[int]) -> Moments:
        """Sum down to ``shape``: the adjoint of broadcasting."""
        lead = len(self.dims) - len(shape)
        out = self.sum(range(lead))
        return out.sum([d for d, n in enumerate(shape) if n == 1 and out.dims[d]], keepdim=True)

    # ---- map ----------------------------------------------------------------------------------------------------

    def map(self, values: Array) -> Moments:
        """Apply a scalar function to a Gaussian array.

        Args:
            values: φ(mean + σ·GRID.z), shape ``GRID.z.shape``, σ² = :attr:`var`.
        """
        if self.var <= 0.0:
            return Moments(self.dims, float(values[len(values) // 2]), np.zeros_like(self.v))
        rho = np.clip(_sum_subsets(self.v) / self.var, -1.0, 1.0)
        mean, table = GRID.dual(values, rho)
        return _from_pairs(self.dims, mean, table)

    def on_grid(self) -> Array:
        """The argument of a map: ``mean + σ·GRID.z``."""
        return self.mean + math.sqrt(self.var) * GRID.z

    # ---- inside -------------------------------------------------------------------------------------------------

    def _sizes(self) -> list[int]:
        return [n for dim in self.dims for n in dim]

    def _whole(self, dim: int) -> Moments:
        """The same law with at most one atom on an axis."""
        dim %= len(self.dims)
        at, atoms, v = self.atoms(dim).start, list(self.dims[dim]), self.v
        while len(atoms) > 1:
            v = _merge(v, at, atoms[0], atoms[1])
            atoms[:2] = [atoms[0] * atoms[1]]
        return replace(self, dims=(*self.dims[:dim], tuple(atoms), *self.dims[dim + 1 :]), v=v)

    def _capped(self) -> Moments:
        x = self
        while x.v.ndim > MAX_ATOMS:
            crowded = [d for d in range(len(x.dims)) if len(x.dims[d]) > 1]
            if not crowded:
                return x
            x = x._whole(crowded[-1])
        return x

    def _refined(self, dim: int, atoms: Atoms) -> Moments:
        """Split the atoms of an axis down to ``atoms`` (a refinement of them)."""
        v, at, i = self.v, self.atoms(dim).start, 0
        have = list(self.dims[dim])
        while i < len(atoms):
            if have[i] != atoms[i]:
                v = _split(v, at + i)
                have[i : i + 1] = [atoms[i], have[i] // atoms[i]]
            i += 1
        return replace(self, dims=(*self.dims[:dim], tuple(have), *self.dims[dim + 1 :]), v=v)


# ---- operations on several arrays ---------------------------------------------------------------------------------


def product(*factors: Moments) -> Moments:
    """Elementwise product of independent tensors, with broadcasting: ``K = Π K_i``."""
    out = factors[0]
    for factor in factors[1:]:
        x, y = _align(out, factor)
        out = _from_pairs(x.dims, x.mean * y.mean, x.pairs() * y.pairs())
    return out


def total(parts: Sequence[Moments]) -> Moments:
    """Sum of independent tensors of one shape: how cotangents of several consumers meet."""
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out


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
            joined = _refine(atoms, mine) if atoms and mine else atoms or mine
            atoms = joined if joined is not None else (math.prod(mine),)
        for i, d in holders:
            if ops[i].dims[d] and (_refine(ops[i].dims[d], atoms) != atoms):
                ops[i] = ops[i]._whole(d)
            if ops[i].dims[d]:
                ops[i] = ops[i]._refined(d, atoms)
        common[letter] = atoms
    order = [*output, *(x for x in letters if x not in output)]
    slots = [(letter, n) for letter in order for n in common[letter]]
    table, mean = np.ones((1,) * len(slots)), 1.0
    for x, labels in zip(ops, inputs, strict=True):
        arranged = x.permute([labels.index(letter) for letter in order if letter in labels])
        present = {letter for letter in labels if x.dims[labels.index(letter)]}
        table = table * arranged.pairs().reshape([2 if letter in present else 1 for letter, _ in slots])
        mean *= x.mean
    table = np.broadcast_to(table, (2,) * len(slots))
    keep = sum(len(common[letter]) for letter in output)
    for _, n in reversed(slots[keep:]):
        table, mean = n * table[..., 1] + n * (n - 1) * table[..., 0], mean * n
    return _from_pairs(tuple(common[letter] for letter in output), mean, table)._capped()


def concat(parts: Sequence[Moments], dim: int) -> Moments:
    """Concatenate independent tensors along an axis: pairs within a part keep their moment, pairs across are ``m_i m_j``."""
    dim %= len(parts[0].dims)
    sizes = [p.shape[dim] for p in parts]
    n = sum(sizes)
    bodies = [p.resize(dim, 1) for p in parts]
    reference = bodies[0]
    for body in bodies[1:]:
        reference = _align(reference, body)[0]
    same = np.zeros((2,) * reference.v.ndim)
    differ = np.zeros_like(same)
    for part, body, size in zip(parts, bodies, sizes, strict=True):
        same = same + _align(body, reference)[0].pairs() * (size / n)
        if size > 1:
            whole = part._whole(dim)
            constant = replace(
                whole,
                dims=(*whole.dims[:dim], (), *whole.dims[dim + 1 :]),
                v=_take(whole.v, whole.atoms(dim)[0], 0),
            )
            differ = differ + _align(constant, reference)[0].pairs() * (size * (size - 1) / max(n * (n - 1), 1))
    mean = sum(p.mean * size for p, size in zip(parts, sizes, strict=True)) / n
    crossing = (mean * n) ** 2 - sum((p.mean * size) ** 2 for p, size in zip(parts, sizes, strict=True))
    differ = differ + crossing / max(n * (n - 1), 1)
    if n == 1:
        return _from_pairs(reference.dims, mean, same)
    at = sum(map(len, reference.dims[:dim]))
    return _from_pairs(
        (*reference.dims[:dim], (n,), *reference.dims[dim + 1 :]), mean, np.stack([differ, same], at)
    )._capped()


def diagonal(x: Moments, weights: Mapping[int, float]) -> Array:
    """``Σ weights`` applied along axes of the pair table: K where each axis is summed as ``K[same] + w·K[differ]``.

    Used by norms: the sum over the partners of one entry has weight 1 for itself and n−1 for those that differ.
    """
    table = x.pairs()
    for d, weight in weights.items():
        for a in x.atoms(d):
            table = np.stack([_take(table, a, 1) + weight * _take(table, a, 0)] * 2, a)
    return table


def _align(x: Moments, y: Moments) -> tuple[Moments, Moments]:
    """Broadcast two laws against each other: the same dims and atoms afterwards."""
    if x.dims == y.dims:
        return x, y
    rank = max(len(x.dims), len(y.dims))
    x = replace(x, dims=((),) * (rank - len(x.dims)) + x.dims)
    y = replace(y, dims=((),) * (rank - len(y.dims)) + y.dims)
    for d in range(rank):
        a, b = x.dims[d], y.dims[d]
        if a == b or not a or not b:
            continue
        joined = _refine(a, b)
        if joined is None:
            x, y = x._whole(d), y._whole(d)
        else:
            x, y = x._refined(d, joined), y._refined(d, joined)
    for d in range(rank):
        x, y = _fill(x, y, d), _fill(y, x, d)
    return x, y


def _fill(x: Moments, y: Moments, d: int) -> Moments:
    """Give ``x`` the atoms of ``y`` on an axis where it has none; it is constant along them."""
    if x.dims[d] or not y.dims[d]:
        return x
    at, v = sum(map(len, x.dims[:d])), x.v
    for i in range(len(y.dims[d])):
        v = np.stack([v, np.zeros_like(v)], at + i)
    return Moments((*x.dims[:d], y.dims[d], *x.dims[d + 1 :]), x.mean, v)


def _refine(a: Atoms, b: Atoms) -> Atoms | None:
    """The coarsest common refinement of two factorisations of one axis, or None if their boundaries cross."""
    if a == b:
        return a
    strides = {1}
    for atoms in (a, b):
        stride = 1
        for n in reversed(atoms):
            stride *= n
            strides.add(stride)
    ordered = sorted(strides, reverse=True)
    if any(big % small for big, small in zip(ordered, ordered[1:], strict=False)):
        return None
    return tuple(big // small for big, small in zip(ordered, ordered[1:], strict=False))


def _take(table: Array, axis: int, index: int) -> Array:
    out: Array = table[(slice(None),) * axis + (index,)]
    return out


def _sum_subsets(v: Array) -> Array:
    for axis in range(v.ndim):
        v = v.cumsum(axis)
    return v


def _from_pairs(
    dims: tuple[Atoms, ...], mean: float, table: Array, value: npt.NDArray[np.generic] | None = None
) -> Moments:
    v = np.array(table, dtype=np.float64, ndmin=0)
    for axis in range(v.ndim):
        v[(slice(None),) * axis + (1,)] -= v[(slice(None),) * axis + (0,)]
    v[(0,) * v.ndim] -= mean**2
    return Moments(dims, float(mean), v, value)


def _split(v: Array, axis: int) -> Array:
    """One atom becomes two: pairs that differ in either part are simply different."""
    constant, varying = _take(v, axis, 0), _take(v, axis, 1)
    zero = np.zeros_like(constant)
    return np.stack([np.stack([constant, zero], axis), np.stack([zero, varying], axis)], axis)


def _merge(v: Array, axis: int, first: int, second: int) -> Array:
    """Two neighbouring atoms become one: differing pairs are averaged by their counts."""
    table = _sum_subsets(v)
    at = (slice(None),) * axis
    differ = (
        (second - 1) * table[(*at, 1, 0)]
        + (first - 1) * table[(*at, 0, 1)]
        + (first - 1) * (second - 1) * table[(*at, 0, 0)]
    ) / (first * second - 1)
    merged = np.stack([differ, table[(*at, 1, 1)]], axis)
    for other in range(merged.ndim):
        index = (slice(None),) * other
        merged[(*index, 1)] -= merged[(*index, 0)]
    return merged


def _pair_averages(x: Array) -> Array:
    """For every subset of axes: mean over it of the squared mean over the rest; shape ``(2,) * ndim``, 1 = kept."""
    if x.ndim == 0:
        return np.asarray(float(x) ** 2)

    def descend(y: Array, axis: int) -> Array:
        if axis == x.ndim:
            return np.asarray(np.mean(y * y))
        return np.stack([descend(y.mean(axis, keepdims=True), axis + 1), descend(y, axis + 1)])

    return descend(x, 0)


class _Grid:
    """Quadrature against the standard normal: midpoints over ±9 σ and normalised Hermite functions up to order 96.

    What the series misses (kinks, tails) is counted as one term of order 150, so that K at ρ = 1 is exact.
    """

    points, reach, orders, tail_order = 2400, 9.0, 96, 150

    def __init__(self) -> None:
        step = 2 * self.reach / self.points
        self.z: Array = (np.arange(self.points) + 0.5) * step - self.reach
        self.weights: Array = np.exp(-0.5 * self.z**2)
        self.weights /= self.weights.sum()

    @property
    def basis(self) -> Array:
        """``He_k(z)/√k!`` times the quadrature weights, shape (orders, points)."""
        return _hermite_basis()

    def dual(self, values: Array, rho: Array) -> tuple[float, Array]:
        """Mean of φ(z) and ``E[φ(z) φ(z')]`` for every correlation in ``rho``."""
        coefficients = self.basis @ values
        squares = coefficients**2
        tail = max(float(self.weights @ values**2) - float(squares.sum()), 0.0)
        powers = rho[..., None] ** np.arange(self.orders)
        return float(coefficients[0]), powers @ squares + tail * rho**self.tail_order


GRID = _Grid()


@cache
def _hermite_basis() -> Array:
    rows = [np.ones_like(GRID.z), GRID.z]
    for k in range(1, GRID.orders - 1):
        rows.append((GRID.z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * GRID.weights
