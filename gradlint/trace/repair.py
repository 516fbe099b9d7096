"""Change described arguments so that a call that refused its operands gets what it asks for.

How an operand depends on an argument is measured, not derived: the argument's dimension is changed, forward runs up to the
same call, and the operand is looked at. So it does not matter what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from gradlint.trace.demand import Bound, Demand, Entries, Field, Kind, Least, Number, Rank, Shape, Size
from gradlint.trace.demands import demands
from gradlint.trace.examples import LENGTH
from gradlint.trace.leaves import Batch, Key, Leaf, Record, Values, at, leaves, put
from gradlint.trace.probe import Called, Operand, Outcome, Prober

__all__ = ["Suggest", "repairs"]

_USUAL = (8, 16, 28, 32, 64, 84, 96, 105, 112, 128, 224, 256, 299, 384, 512)
_NEW = 4  # suggestions that are tried; size of a dimension that was not there

_Grown = list[tuple[Key, int]]


Suggest = Callable[[str], list[Any]]
"""What an argument or field of this name may be, likely first."""


def repairs(prober: Prober, values: Values, outcome: Outcome, fixed: frozenset[Key], suggest: Suggest) -> Iterator[Values]:
    """Arguments changed in one respect each, likely ones first. What is in ``fixed`` is not changed."""
    seen = {_shown(values)}
    for changed in _changes(_Repair(prober, values, outcome.call, fixed, suggest), outcome):
        if (text := _shown(changed)) not in seen:
            seen.add(text)
            yield changed


def _shown(values: Values) -> str:
    return repr(sorted(leaves(values), key=repr)) + repr(list(values))


def _changes(repair: _Repair, outcome: Outcome) -> Iterator[Values]:
    error = outcome.error
    if isinstance(error, AttributeError) and error.name and error.obj is not None:
        yield from repair.field_of(error.name, attribute=True)
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        yield from repair.field_of(error.args[0], attribute=False)
    for name in outcome.omitted:
        yield from repair.given(name)
    for demand in demands(outcome):
        yield from repair.meet(demand)


@dataclass(frozen=True)
class _Repair:
    """One failure: the arguments, the call that failed, and means to run up to it again."""

    prober: Prober
    values: Values
    call: Called | None
    fixed: frozenset[Key]
    suggest: Suggest

    def meet(self, demand: Demand) -> Iterator[Values]:
        """Arguments that may satisfy the demand."""
        match demand:
            case Size(operand, dim, size):
                yield from self._resized(operand, lambda o: o.shape[dim] if len(o.shape) >= -dim else 0, size)
            case Least(operand, dim, size):
                yield from self._enlarged(operand, dim, size)
            case Entries(operand, count):
                yield from self._resized(operand, lambda o: o.numel // max(o.shape[0], 1) if o.shape else 0, count)
            case Rank(operand, rank):
                for key, leaf in self._sources(operand):
                    yield from (self._with(key, replace(leaf, shape=s)) for s in _ranked(leaf, rank - len(operand.shape)))
            case Shape(operand, shape):
                for key, leaf in self._sources(operand):
                    if leaf.shape == operand.shape:
                        yield self._with(key, replace(leaf, shape=shape))
                yield from self._shaped(operand, shape)
            case Kind(operand, kind):
                for key, leaf in self._sources(operand):
                    if leaf.kind != kind:
                        yield self._with(key, _of_kind(leaf, kind))
            case Bound(operand, high):
                for key, leaf in self._sources(operand):
                    if leaf.kind == "int":
                        filled = None if leaf.fill is None else min(leaf.fill, high)
                        yield self._with(key, replace(leaf, high=min(leaf.high or high, high), fill=filled))
            case Field(operand, name):
                for key, _ in self._sources(operand):
                    yield from (self._with(key, Batch({name: tree})) for tree in self.suggest(name)[:_NEW])
            case Number(operand):
                for key, leaf in self._sources(operand):
                    yield from (self._with(key, number) for number in ((1, 16) if leaf.kind == "int" else (1.0, 1, 16)))

    def field_of(self, name: str, *, attribute: bool) -> Iterator[Values]:
        """Something was asked for a field that it has not: an argument is a batch with fields, or forward takes keywords."""
        for key in _containers(self.values):
            if isinstance(found := at(self.values, key), Batch) and name not in found and not _frozen(key, self.fixed):
                yield from (put(self.values, (*key, name), tree) for tree in self.suggest(name)[:_NEW])
        if attribute:
            for key, _ in leaves(self.values):
                if len(key) == 1 and not _frozen(key, self.fixed):
                    yield from (self._with(key, Record({name: tree})) for tree in self.suggest(name)[:_NEW])
        else:
            yield from ({**self.values, name: tree} for tree in self.suggest(name)[:_NEW])

    def given(self, name: str) -> Iterator[Values]:
        """One more argument."""
        yield from ({**self.values, name: tree} for tree in self.suggest(name)[:_NEW])

    def _with(self, key: Key, tree: Any) -> Values:
        changed: Values = put(self.values, key, tree)
        return changed

    def _sources(self, operand: Operand) -> Iterator[tuple[Key, Leaf]]:
        for key, leaf in leaves(self.values):
            if key in operand.sources and not _frozen(key, self.fixed):
                yield key, leaf

    def _shaped(self, operand: Operand, shape: tuple[int, ...]) -> Iterator[Values]:
        if len(shape) != len(operand.shape):
            yield from self.meet(Rank(operand, len(shape)))
            return
        for k in range(-len(shape), 0):
            if shape[k] != operand.shape[k]:
                yield from self.meet(Size(operand, k, shape[k]))

    def _resized(self, operand: Operand, measure: Callable[[Operand], int], wanted: int) -> Iterator[Values]:
        """Change dimensions of arguments until what is measured of the operand is as wanted."""
        here, squares = measure(operand), []
        if here == wanted:
            return
        slopes: list[tuple[Key, int, int, _Grown]] = []
        for key, leaf in self._sources(operand):
            if len(leaf.shape) >= 4 and leaf.shape[-1] == leaf.shape[-2]:
                squares.append(key)
            for dim, size in enumerate(leaf.shape):
                for group in self._together(key, dim, size):
                    there = self._at(operand, measure, self._grown(group, 1))
                    if there is not None:
                        if there != here:
                            slopes.append((key, dim, there - here, group))
                        break
        for key in squares:
            rank = len(at(self.values, key).shape)
            counting = {dim for k, dim, _, _ in slopes if k == key}
            if not counting or counting >= {rank - 2, rank - 1}:
                yield from self._searched([(key, rank - 2), (key, rank - 1)], operand, measure, wanted)
        yield from self._shared(slopes, wanted - here)
        for key, dim, slope, group in slopes:
            if _solves(slope, wanted - here) and at(self.values, key).shape[dim] + (wanted - here) // slope > 0:
                yield self._grown(group, (wanted - here) // slope)
        for key, dim, slope, _ in slopes:
            yield from self._alike(key, dim, (wanted - here) // slope if _solves(slope, wanted - here) else 0)
        for key, leaf in self._sources(operand):
            if key not in squares and len(leaf.shape) > 2:
                yield from self._searched([(key, len(leaf.shape) - 1)], operand, measure, wanted)

    def _alike(self, key: Key, dim: int, by: int) -> Iterator[Values]:
        """The same for all dimensions of that size: of the argument, such as a square matrix; then of all arguments."""
        size = at(self.values, key).shape[dim]
        same = [(k, d) for k, leaf in leaves(self.values) for d, n in enumerate(leaf.shape) if n == size]
        for group in ([(k, d) for k, d in same if k == key], same):
            if by and size + by > 0 and len(group) > 1 and not any(_frozen(k, self.fixed) for k, _ in group):
                yield self._grown(group, by)

    def _enlarged(self, operand: Operand, dim: int, size: int) -> Iterator[Values]:
        """Double dimensions of arguments until one of the operand is large enough."""
        for key, leaf in self._sources(operand):
            for group in ([(key, len(leaf.shape) + dim)], [(key, k) for k in range(2, len(leaf.shape))]):
                for factor in (2, 4, 8):
                    grown = self.values
                    for k, d in group:
                        if 0 <= d < len(leaf.shape):
                            grown = _sized(grown, k, d, leaf.shape[d] * factor)
                    there = self._at(operand, lambda o: o.shape[dim], grown)
                    if there is not None and there >= size:
                        yield grown
                        break

    def _shared(self, slopes: list[tuple[Key, int, int, _Grown]], missing: int) -> Iterator[Values]:
        """Several dimensions with the same effect share what is wanted: halves of a concatenation."""
        parts = [(key, dim) for key, dim, slope, _ in slopes if slope == 1 and dim > 0]
        if len(parts) > 1:
            total = sum(at(self.values, key).shape[dim] for key, dim in parts) + missing
            if total >= len(parts):
                changed = self.values
                for place, (key, dim) in enumerate(parts):
                    changed = _sized(changed, key, dim, (total - place + len(parts) - 1) // len(parts))
                yield changed

    def _together(self, key: Key, dim: int, size: int) -> Iterator[_Grown]:
        """Dimensions to change at once: this one; or all of this size, which may have to agree."""
        yield [(key, dim)]
        same = [
            (k, d)
            for k, leaf in leaves(self.values)
            for d, n in enumerate(leaf.shape)
            if n == size and not _frozen(k, self.fixed)
        ]
        if len(same) > 1:
            yield same

    def _grown(self, group: _Grown, by: int) -> Values:
        changed = self.values
        for key, dim in group:
            changed = _sized(changed, key, dim, max(at(changed, key).shape[dim] + by, 1))
        return changed

    def _at(self, operand: Operand, measure: Callable[[Operand], int], values: Values) -> int | None:
        """What is measured of the same operand with other arguments; None if the call is not reached."""
        if self.call is None or self.prober.exhausted:
            return None
        found = self.prober.run(values, stop=self.call.index)
        if found.error is not None or found.call is None or found.call.name != self.call.name:
            return None
        return measure(found.call.operands[operand.place]) if operand.place < len(found.call.operands) else None

    def _searched(self, group: _Grown, operand: Operand, measure: Callable[[Operand], int], wanted: int) -> Iterator[Values]:
        """The sizes with which a growing function of one size is as wanted; a usual one among them."""

        def sized(size: int) -> Values:
            changed = self.values
            for key, dim in group:
                changed = _sized(changed, key, dim, size)
            return changed

        def value(size: int) -> int:
            return self._at(operand, measure, sized(size)) or 0

        known: dict[int, int] = {}
        for size in _USUAL:
            known[size] = value(size)
            if known[size] >= wanted:
                break
        if known[size] == wanted:
            yield sized(size)
            return
        low = max((n for n in known if n < size), default=0) + 1
        while low < size:
            middle = (low + size) // 2
            low, size = (low, middle) if value(middle) >= wanted else (middle + 1, size)
        if value(size) == wanted:
            yield sized(size)


def _solves(slope: int, missing: int) -> bool:
    return missing % slope == 0


def _sized(values: Values, key: Key, dim: int, size: int) -> Values:
    leaf: Leaf = at(values, key)
    shape = (*leaf.shape[:dim], size, *leaf.shape[dim + 1 :])
    changed: Values = put(values, key, replace(leaf, shape=shape))
    return changed


def _ranked(leaf: Leaf, more: int) -> Iterator[tuple[int, ...]]:
    """Shapes with ``more`` dimensions, new ones behind the first or at the end; with fewer, the same ones dropped."""
    shape = leaf.shape
    if more > 0:
        if len(shape) == 1 and (leaf.kind == "float" or leaf.fill is not None):
            yield (*shape, *(1,) * more)
        new = (LENGTH if len(shape) + more < 4 else _NEW,) * more
        yield (*shape[:1], *new, *shape[1:]) if shape else (2, *new[1:])
        yield (*shape, *new)
    elif more < 0 and len(shape) >= -more:
        yield (*shape[:1], *shape[1 - more :]) if len(shape) > -more else ()
        yield shape[:more]
        yield shape[-more:]


def _of_kind(leaf: Leaf, kind: str) -> Leaf:
    if kind == "float":
        return replace(leaf, dtype=str(torch.get_default_dtype()).removeprefix("torch."), high=None, fill=None)
    return replace(leaf, dtype="bool" if kind == "bool" else "int64", fill=None)


def _containers(values: Any, key: Key = ()) -> Iterator[Key]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, tuple | list) else ()
    for name, item in items:
        if isinstance(item, Batch):
            yield (*key, name)
        yield from _containers(item, (*key, name))


def _frozen(key: Key, fixed: frozenset[Key]) -> bool:
    return any(key[: len(f)] == f for f in fixed)
