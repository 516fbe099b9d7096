"""The recursion: a table is asked for, and the rule that gives it asks for others.

Rules are generators, ``table = yield Query(side, a, b)``, run on a stack of their own, so that a loop of a thousand steps
needs no thousand frames. Every table is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gradlint.covary.moves import Moves
from gradlint.covary.repeats import Stand
from gradlint.moments import Moments, fitted, weighted

__all__ = ["Query", "Rule", "Side", "Solver", "Table"]

Table = Moments | None
"""Covariances of two tensors over their broadcast shape (``gradlint.moments.cross``); None: they are independent."""

_SMALL = 3e-4
"""A covariance below this share of the two tensors' own, component by component, is taken for none."""

_NEAR = 16


@dataclass(frozen=True)
class Query:
    """Ask for the table of two items of one side."""

    side: Side
    first: Any
    second: Any


Rule = Generator[Query, Table, Table]


class Side(Protocol):
    """What can covary: the values of the forward pass, or the gradients of the backward pass."""

    def mask(self, item: Any) -> int:
        """The random things that an item depends on, one bit each: items that share none are independent."""
        ...

    def plain(self, item: Any) -> Any:
        """The one item that an item is made of without change, or itself."""
        ...

    def position(self, item: Any) -> int:
        """An item is made of items with smaller numbers."""
        ...

    def own(self, item: Any) -> Table:
        """The table of an item with itself."""
        ...

    def shape(self, item: Any) -> tuple[int, ...]:
        """Of the tensor."""
        ...

    def moves(self, item: Any) -> Moves | None:
        """An item in terms of items with smaller numbers."""
        ...

    def counterparts(self, first: Any, second: Any) -> Sequence[Stand[Any]]:
        """Pairs whose correlations stand for that of these two (``gradlint.covary.repeats``); none: work it out."""
        ...

    def twins(self, first: Any, second: Any) -> Rule | None:
        """The rule for two items that come from calls of one function; None if they do not."""
        ...


class Solver:
    """Runs rules and remembers tables.

    Args:
        limit: number of tables to compute; pairs that are asked for after that are taken as independent.
    """

    def __init__(self, limit: int) -> None:
        self._known: dict[Query, Table] = {}
        self._reached: dict[Query, bool] = {}
        self._left = limit

    @property
    def exhausted(self) -> bool:
        """The limit was reached."""
        return self._left < 0

    def table(self, query: Query) -> Table:
        """The answer to a query."""
        stack: list[tuple[Query, Rule]] = []
        while True:
            query = _ordered(query)
            answer, rule = self._begin(query)
            if rule is not None:
                stack.append((query, rule))
            while stack:
                try:
                    query = next(stack[-1][1]) if rule is not None else stack[-1][1].send(answer)
                except StopIteration as end:
                    done = stack.pop()[0]
                    answer = self._known[done] = end.value
                    rule = None
                else:
                    break
            else:
                return answer

    def _begin(self, query: Query) -> tuple[Table, Rule | None]:
        """What is known at once, or the rule to run."""
        side, a, b = query.side, query.first, query.second
        if a is b:
            return side.own(a), None
        if not side.mask(a) & side.mask(b):
            return None, None
        if query in self._known:
            return self._known[query], None
        self._left -= 1
        return None, None if self.exhausted else self._rule(side, a, b)

    def _rule(self, side: Side, a: Any, b: Any) -> Rule:
        """``a`` is the later of the two."""
        standing = side.counterparts(a, b)
        if standing:
            total: Table = None
            for pair in standing:
                part = _rescaled(side, (a, b), pair, (yield Query(side, pair.first, pair.second)))
                total = part if total is None or part is None else Moments(total.dims, 0.0, (total + part).v)
            return total
        twins = side.twins(a, b)
        if twins is not None:
            return _kept(side, a, b, (yield from twins))
        mine, others = side.moves(a), side.moves(b)
        # A function of b itself ends in b's own law; otherwise what is linear is taken apart first, until twins are found.
        if mine is not None and (others is None or mine.exact or not others.exact or self._reaches(side, a, b)):
            return (yield from self._step(side, mine, a, b))
        return (yield from self._step(side, others, b, a)) if others is not None else None

    def _step(self, side: Side, moves: Moves, item: Any, other: Any) -> Rule:
        shape: tuple[int, ...] | None = None
        out: Table = None
        for child, act in moves.terms:
            table = yield Query(side, child, other)
            if table is not None:
                shape = shape or _broadcast(side.shape(item), side.shape(other))
                part = fitted(act(table), shape)
                out = part if out is None else Moments(out.dims, 0.0, (out + part).v)
        return out

    def _reaches(self, side: Side, a: Any, b: Any) -> bool:
        """One-sided rules lead from ``a`` to ``b`` within a few steps."""
        query = Query(side, a, b)
        if query not in self._reached:
            end, stack, seen = side.position(b), [a], {a}
            while stack and b not in seen and len(seen) < _NEAR:
                moves = side.moves(stack.pop())
                for child, _ in () if moves is None else moves.terms:
                    if child not in seen and side.position(child) >= end:
                        seen.add(child)
                        stack.append(child)
            self._reached[query] = b in seen
        return self._reached[query]


def _ordered(query: Query) -> Query:
    side = query.side
    a, b = side.plain(query.first), side.plain(query.second)
    return Query(side, a, b) if side.position(a) >= side.position(b) else Query(side, b, a)


def _rescaled(side: Side, items: tuple[Any, Any], pair: Stand[Any], table: Table) -> Table:
    """What a pair with its ``table`` contributes to that of ``items``."""
    laws = [side.own(item) for item in (*items, pair.first, pair.second)]
    if table is None or any(law is None or law.var <= 0 for law in laws):
        return None
    a, b, x, y = (law.var for law in laws if law is not None)
    return weighted(table, pair.weight * math.sqrt(a * b / (x * y)))


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return first if first == second else tuple(np.broadcast_shapes(first, second))


def _kept(side: Side, a: Any, b: Any, table: Table) -> Table:
    """The table, unless there is nothing in it that matters."""
    if table is None or not table.v.any():
        return None
    x, y = side.own(a), side.own(b)
    if x is None or y is None or x.dims != table.dims or y.dims != table.dims:
        return table
    bound = np.sqrt(np.abs(x.v * y.v))
    return None if np.all(np.abs(table.v) <= _SMALL * bound + 1e-9 * bound.max()) else table
