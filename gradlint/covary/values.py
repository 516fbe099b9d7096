"""Values of the forward pass: which covary, and by which rule."""

from __future__ import annotations

import operator
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary.ledger import Ledger
from gradlint.covary.maps import TableMap, folded, live_slot
from gradlint.covary.moves import Moves, value_moves
from gradlint.covary.repeats import Stand
from gradlint.covary.solver import Query, Rule, Table
from gradlint.covary.twins import Pair, Tables, is_multilinear, sample_axis
from gradlint.moments import GRID, Moments, joint, of_joint, own
from gradlint.moments.tables import differences, sum_subsets
from gradlint.trace.graph import step

__all__ = ["SCALED", "Values", "member_of"]

SCALED = {"layer_norm", "rms_norm", "unit_norm"}
"""Norms of many entries: one-sided rules on both sides say as much as the pair."""


class Values:
    """Items are nodes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._drawn = count()
        self._draws: dict[str, int] = {}
        self._masks: dict[fx.Node, int] = {}
        self._moves: dict[fx.Node, Moves | None] = {}
        self._pairs: dict[tuple[fx.Node, fx.Node], Pair | None] = {}
        self._linear: dict[tuple[fx.Node, fx.Node], int | None] = {}
        self._outputs: dict[tuple[fx.Node, fx.Node], list[Table]] = {}
        self._maps: dict[Any, TableMap] = {}

    def bit(self) -> int:
        """For a random thing not met before."""
        return 1 << next(self._drawn)

    def enter(self, node: fx.Node) -> None:
        """Find out what a new node depends on."""
        self._masks[node] = self._depends(node)

    def _depends(self, node: fx.Node) -> int:
        facts = step(node)
        if node.op == "get_attr":  # a parameter that is not constant, or something drawn in the forward
            draw = self.ledger.drawn.get(str(node.target))
            if draw is None:
                return self.bit() if facts.law is not None else 0
            if draw not in self._draws:
                self._draws[draw] = self.bit()
            return self._draws[draw]
        if node.op == "placeholder" or (facts.shape is not None and not facts.floating):
            return self.bit() if facts.floating else 0
        if node.target is not operator.getitem or node in self.ledger.records:
            record = self.ledger.records.get(node)
            known = self.ledger.root(node) is not None or node in self.ledger.norms
            if record is not None:
                weights = self.weights(node)
                if weights:
                    return weights
                known = record.op is None or is_multilinear(record.name) or sample_axis(record) is not None
                known = known or self.moves(node) is not None
            if not known:
                return self.bit()
        return self._union(node)

    def _union(self, node: fx.Node) -> int:
        mask = 0
        for n in node.all_input_nodes:
            mask |= self._masks.get(n, 0)
        return mask

    def weights(self, node: fx.Node, but: int | None = None) -> int:
        """The draws that decide the sign of a call's output: weights of mean zero that multiply its input."""
        record = self.ledger.records.get(node)
        if record is None or record.name in ("add", "sub", "rsub"):
            return 0
        mask = 0
        for slot, handle in enumerate(record.handles):
            source = record.node(handle)
            if slot == but or source is None or source not in self.ledger.weights or node in self.ledger.weights:
                continue
            random = handle.value is None and handle.var > handle.mean**2
            if random and (len(handle.dims) > 1 or record.name == "mul"):
                mask |= self._masks[source]
        return mask

    def mask(self, item: fx.Node) -> int:
        """See :class:`~gradlint.covary.solver.Side`."""
        return self._masks.get(item, 0)

    def plain(self, item: fx.Node) -> fx.Node:
        """The node itself."""
        return item

    def position(self, item: fx.Node) -> int:
        """In the order of the graph."""
        return self.ledger.order[item]

    def own(self, item: fx.Node) -> Table:
        """The law of the value."""
        value = self.ledger.values[item]
        return own(value) if isinstance(value, Moments) else None

    def shape(self, item: fx.Node) -> tuple[int, ...]:
        """Of the value."""
        return step(item).shape or ()

    def moves(self, item: fx.Node) -> Moves | None:
        """By the op's arguments."""
        if item not in self._moves:
            self._moves[item] = value_moves(self.ledger, item)
        return self._moves[item]

    def counterparts(self, first: fx.Node, second: fx.Node) -> Sequence[Stand[fx.Node]]:
        """In steps that came before."""
        return self.ledger.repeats.counterparts(first, second)

    def twins(self, first: fx.Node, second: fx.Node) -> Rule | None:
        """Equal draws, functions of two tensors entry by entry, calls of one function, or members of what these return."""
        if first.op == second.op == "get_attr":
            return _answer(self.own(first))
        if self._curved(first) and self._curved(second):
            return self.dual(first, second, slopes=False)
        a, b = member_of(first), member_of(second)
        if a is not None and b is not None:
            return self._output(a[0], b[0], a[1]) if a[1] == b[1] and self.alike(a[0], b[0]) else None
        if not self.alike(first, second) or self.ledger.records[first].name in SCALED:
            return None
        return self._output(first, second, 0)

    def _curved(self, node: fx.Node) -> bool:
        return self.ledger.root(node) is not None and not self.ledger.curve(node).affine

    def dual(self, first: fx.Node, second: fx.Node, *, slopes: bool) -> Rule:
        """``cov(φ(u), ψ(u')) = Σ_{k≥1} a_k b_k ρ^k`` of two functions of their roots, or ``E[φ'(u) ψ'(u')]`` (with ``k = 0``)."""
        roots = [self.ledger.cones[n].root for n in (first, second)]
        curves = [self.ledger.curve(first), self.ledger.curve(second)]
        u = yield Query(self, *roots)
        if u is None and not slopes:
            return None
        laws: list[Any] = [self.ledger.values[r] for r in roots]
        scale = float(np.sqrt(laws[0].var * laws[1].var))
        pick = [c.slopes if slopes else c.values for c in curves]
        constant = float(pick[0][1][0] * pick[1][1][0])
        if u is None or scale <= 0:
            flat = own(laws[0])
            v = np.zeros_like(flat.v)
            v[(0,) * v.ndim] = constant
            return Moments(flat.dims, 0.0, v) if slopes else None
        rho = np.clip(sum_subsets(u.v) / scale, -1.0, 1.0)
        rho = np.mean([rho if x.law is None else x.law.latent(rho) for x in laws], axis=0)
        table = GRID.cross(pick[0], pick[1], rho)
        return Moments(u.dims, 0.0, differences(table if slopes else table - constant))

    def alike(self, first: fx.Node, second: fx.Node) -> bool:
        """Two calls of one function on tensors of the same shapes."""
        a, b = self.ledger.records.get(first), self.ledger.records.get(second)
        if a is None or b is None or a.op is None or a.signature != b.signature:
            return False
        return is_multilinear(a.name) or sample_axis(a) is not None

    def _output(self, first: fx.Node, second: fx.Node, index: int) -> Rule:
        """One output of two calls of one function."""
        slot = self.linear(first, second)
        if slot is None:
            pair = yield from self.pair(first, second)
            return pair.out[index] if pair is not None else None
        key = (first, second)
        if key not in self._outputs:
            handles = [self.ledger.records[n].handles[slot] for n in key]
            table = yield Query(self, *(self.ledger.records[n].node(h) for n, h in zip(key, handles, strict=True)))
            raw = folded(joint(handles[0], handles[1], table))
            outs = self.map(first, slot, raw.dims).forth(raw)
            values = [_members(self.ledger.values[n]) for n in key]
            self._outputs[key] = [None if out is None else of_joint(out, a, b) for out, a, b in zip(outs, *values, strict=True)]
        return self._outputs[key][index]

    def linear(self, first: fx.Node, second: fx.Node) -> int | None:
        """The slot of the one live tensor of two multilinear calls with equal weights; None if they are no such calls."""
        key = (first, second)
        if key not in self._linear:
            self._linear[key] = self._live(first, second)
        return self._linear[key]

    def _live(self, first: fx.Node, second: fx.Node) -> int | None:
        record, other = (self.ledger.records[n] for n in (first, second))
        if not is_multilinear(record.name):
            return None
        fixed = []
        for x, y in zip(record.handles, other.handles, strict=True):
            a, b = record.node(x), other.node(y)
            known = x.value is not None or a in self.ledger.weights
            if known and a is not b and (a is None or b is None or a.op != "get_attr" or self._masks[a] != self._masks[b]):
                return None
            fixed.append(known)
        slot = live_slot(record, fixed)
        if slot is None:
            return None
        try:
            self.map(first, slot, record.handles[slot].dims)
        except (NotImplementedError, ValueError, IndexError):
            return None
        return slot

    def map(self, node: fx.Node, slot: int, dims: tuple[tuple[int, ...], ...]) -> TableMap:
        """The call as a matrix."""
        record = self.ledger.records[node]
        weights = tuple(self._masks.get(n, 0) for h in record.handles if (n := record.node(h)) in self.ledger.weights)
        key = record.signature, slot, dims, weights
        if key not in self._maps:
            self._maps[key] = TableMap(record, slot, dims)
        return self._maps[key]

    def pair(self, first: fx.Node, second: fx.Node) -> Generator[Query, Table, Pair | None]:
        """The two calls evaluated together; None where that is impossible or their weights differ."""
        key = (first, second)
        if key not in self._pairs:
            records = [self.ledger.records[n] for n in key]
            tables: list[Table] = []
            for x, y in zip(*(r.handles for r in records), strict=True):
                sources = records[0].node(x), records[1].node(y)
                if sources[0] is None or sources[1] is None:
                    tables.append(None)
                else:
                    tables.append((yield Query(self, *sources)))
            self._pairs[key] = self._evaluate(first, second, tuple(tables))
        return self._pairs[key]

    def _evaluate(self, first: fx.Node, second: fx.Node, tables: Tables) -> Pair | None:
        record = self.ledger.records[first]
        for handle, table in zip(record.handles, tables, strict=True):
            source = record.node(handle)
            if table is None and handle.value is None and handle.var > 0 and source in self.ledger.weights:
                return None  # weights of their own
        try:
            return Pair.of(self.ledger, (first, second), tables)
        except (NotImplementedError, ValueError, IndexError):
            return None


def _answer(table: Table) -> Rule:
    return table
    yield  # a generator that asks for nothing


def member_of(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The call that returned several tensors, and which one a node is."""
    source: Any = node.args[0] if node.target is operator.getitem else None
    if not isinstance(source, fx.Node) or step(source).shape is not None:
        return None
    index = node.args[1]
    return (source, index) if isinstance(index, int) else None


def _members(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)
