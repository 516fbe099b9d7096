"""Gradients of the backward pass: which covary, and by which rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary.ledger import Ledger
from gradlint.covary.maps import folded
from gradlint.covary.moves import Moves, gradient_moves
from gradlint.covary.repeats import Stand
from gradlint.covary.solver import Query, Rule, Table
from gradlint.covary.twins import Pair, Returned, Tables, is_multilinear, sample_axis
from gradlint.covary.values import SCALED, Values, member_of
from gradlint.moments import Moments, joint, own, product, weighted
from gradlint.moments.tables import differences, sum_subsets
from gradlint.trace.graph import step

__all__ = ["Gradients", "Sent"]


@dataclass(frozen=True, eq=False)
class Sent:
    """A gradient that a call sends to one of its inputs.

    Args:
        consumer: the call; None for the cotangent of the output.
        slot: of the input among the call's tensors.
        target: the node it is sent to.
    """

    consumer: fx.Node | None
    slot: int
    target: fx.Node
    grad: Moments


class Gradients:
    """Items are nodes (the gradient that has met there) and :class:`Sent`."""

    def __init__(self, ledger: Ledger, values: Values) -> None:
        self.ledger = ledger
        self.values = values
        self.arrived: dict[fx.Node, list[Sent]] = {}
        self._by_slot: dict[tuple[fx.Node, int], Sent] = {}
        self._masks: dict[Any, int] = {}
        self._moves: dict[Any, Moves | None] = {}
        self._backs: dict[tuple[fx.Node, fx.Node], Returned | None] = {}

    def send(self, item: Sent) -> None:
        """A gradient was sent."""
        self.arrived.setdefault(item.target, []).append(item)
        if item.consumer is not None:
            self._by_slot[item.consumer, item.slot] = item
        self._masks[item] = self._depends(item)

    def sent_by(self, consumer: fx.Node, slot: int) -> Sent | None:
        """What a call has sent to its input number ``slot``."""
        return self._by_slot.get((consumer, slot))

    def _depends(self, item: Sent) -> int:
        node = item.consumer
        if node is None:
            return self.values.bit()
        if self.ledger.root(node) is not None or node in self.ledger.norms:
            return self.mask(node)
        record = self.ledger.records.get(node)
        if record is None:
            return self.values.bit()
        weights = self.values.weights(node, but=item.slot)
        if weights:
            return weights
        known = is_multilinear(record.name) or sample_axis(record) is not None or self.moves(item) is not None
        return self.mask(node) if known else self.values.bit()

    def mask(self, item: Any) -> int:
        """See :class:`~gradlint.covary.solver.Side`."""
        if isinstance(item, fx.Node) and item not in self._masks:
            mask = 0
            for sent in self.arrived.get(item, ()):
                mask |= self._masks[sent]
            if step(item).shape is None:
                for user in item.users:
                    mask |= self.mask(user)
            self._masks[item] = mask
        return self._masks[item]

    def plain(self, item: Any) -> Any:
        """What has arrived at a node, if that is one gradient."""
        arrived = self.arrived.get(item, ()) if isinstance(item, fx.Node) else ()
        return arrived[0] if len(arrived) == 1 and not self.shift(arrived[0], item) else item

    def shift(self, sent: Sent, node: fx.Node) -> int:
        """From the unit of a gradient that has arrived at a node to that of the node's own."""
        units = self.ledger.gathered.units
        return (0 if sent.consumer is None else units[sent.consumer]) - units.get(node, 0)

    def position(self, item: Any) -> int:
        """Against the order of the graph."""
        if isinstance(item, Sent):
            return 1 if item.consumer is None else 1 - 2 * self.ledger.order[item.consumer] + 2 * len(self.ledger.order)
        return 2 * (len(self.ledger.order) - self.ledger.order[item])

    def own(self, item: Any) -> Table:
        """The law of the gradient."""
        grad = item.grad if isinstance(item, Sent) else self.ledger.grads.get(item)
        return own(grad) if isinstance(grad, Moments) else None

    def shape(self, item: Any) -> tuple[int, ...]:
        """Of the tensor that it is the gradient of."""
        return step(item.target if isinstance(item, Sent) else item).shape or ()

    def moves(self, item: Any) -> Moves | None:
        """What has met, or what the call makes of the gradient of its output."""
        if item not in self._moves:
            if isinstance(item, fx.Node):
                found = Moves(tuple((sent, self._arriving(sent, item)) for sent in self.arrived.get(item, ())))  # type: ignore[misc]
            elif item.consumer is None:
                found = None
            else:
                found = gradient_moves(self.ledger, item.consumer, item.slot, item.target)
            self._moves[item] = found
        return self._moves[item]

    def _arriving(self, sent: Sent, node: fx.Node) -> Callable[[Moments], Moments]:
        shift = self.shift(sent, node)
        return lambda table: weighted(table, math.ldexp(1.0, shift)) if shift else table

    def counterparts(self, first: Any, second: Any) -> Sequence[Stand[Any]]:
        """In steps nearer the loss."""
        nodes = [item.consumer if isinstance(item, Sent) else item for item in (first, second)]
        if nodes[0] is None or nodes[1] is None:
            return ()
        found = []
        for pair in self.ledger.repeats.counterparts(nodes[0], nodes[1], mirrored=True):
            a, b = (
                self._by_slot.get((node, item.slot)) if isinstance(item, Sent) else node
                for node, item in ((pair.first, first), (pair.second, second))
            )
            if a is None or b is None:
                return ()
            found.append(Stand(a, b, pair.weight))
        return found

    def twins(self, first: Any, second: Any) -> Rule | None:
        """What two calls of one function send back from one slot."""
        if not isinstance(first, Sent) or not isinstance(second, Sent) or first.consumer is None or second.consumer is None:
            return None
        u, v = first.consumer, second.consumer
        if u is v and u in self.ledger.records and self.ledger.records[u].name == "mul":
            return self._factors(u)
        if u is v or first.slot != second.slot:
            return None
        if self.ledger.root(u) is not None and self.ledger.root(v) is not None:
            return self._curves(u, v)
        if not self.values.alike(u, v) or (first.slot == 0 and self.ledger.records[u].name in SCALED):
            return None
        return self._linear(u, v, first.slot) if self.values.linear(u, v) == first.slot else self._sent(first, second)

    def _linear(self, first: fx.Node, second: fx.Node, slot: int) -> Rule:
        """By the matrix of the calls."""
        out: Table = None
        table_map = self.values.map(first, slot, self.ledger.records[first].handles[slot].dims)
        for index, (a, b) in enumerate(zip(self._members(first), self._members(second), strict=True)):
            table = None if a is None or b is None else (yield Query(self, a, b))
            if table is not None:
                part = table_map.back(index, table)
                out = part if out is None else Moments(out.dims, 0.0, (out + part).v)
        return out

    def _factors(self, node: fx.Node) -> Rule:
        """What a product sends to its factors, ``g·b`` and ``g·a``: ``K_g·E[b_i a_j]``."""
        record = self.ledger.records[node]
        a, b = record.handles[:2]
        sources = record.node(a), record.node(b)
        g = self.ledger.grads.get(node)
        if None in sources or not isinstance(g, Moments):
            return None
        return folded(product(replace(g, parts=None, profile=None), joint(a, b, (yield Query(self.values, *sources)))))

    def _curves(self, first: fx.Node, second: fx.Node) -> Rule:
        """``K_g·E[φ' ψ']``."""
        g = yield Query(self, first, second)
        if g is None:
            return None
        slopes = yield from self.values.dual(first, second, slopes=True)
        if slopes is None:
            return None
        x, y = g + Moments(slopes.dims, 0.0, np.zeros_like(slopes.v)), slopes + Moments(g.dims, 0.0, np.zeros_like(g.v))
        return Moments(x.dims, 0.0, differences(sum_subsets(x.v) * sum_subsets(y.v)))

    def _sent(self, first: Sent, second: Sent) -> Rule:
        """By the pair of the calls."""
        assert first.consumer is not None  # noqa: S101
        assert second.consumer is not None  # noqa: S101
        key = (first.consumer, second.consumer)
        if key not in self._backs:
            tables = []
            for a, b in zip(*(self._members(n) for n in key), strict=True):
                tables.append(None if a is None or b is None else (yield Query(self, a, b)))
            pair = None
            if any(table is not None for table in tables):
                pair = yield from self.values.pair(*key)
            self._backs[key] = None if pair is None else self._back(pair, tuple(tables), key)
        back = self._backs[key]
        try:
            return None if back is None else back.table(first.slot, first.grad, second.grad)
        except (NotImplementedError, ValueError, IndexError):
            return None

    def _back(self, pair: Pair, tables: Tables, key: tuple[fx.Node, fx.Node]) -> Returned | None:
        try:
            return pair.back(tables, (self.ledger.grads.get(key[0]), self.ledger.grads.get(key[1])))
        except (NotImplementedError, ValueError, IndexError):
            return None

    def _members(self, node: fx.Node) -> list[fx.Node | None]:
        """The nodes that hold the gradients of a call's outputs."""
        if step(node).shape is not None:
            return [node]
        members: list[fx.Node | None] = [None] * len(self.ledger.values[node])
        for user in node.users:
            found = member_of(user)
            if found is not None and user in self.ledger.grads:
                members[found[1]] = user
        return members
