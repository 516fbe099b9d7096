"""A loop of any length, from one of its steps: the graph whose gradient tells how a state depends on one many steps before.

The gradient starts at the last state alone, so what is read at every step does not blur the growth, and what reused weights add
up coherently (:mod:`gradlint.covary`) is in it. The length is not that of the trace: the same loop traced over 8 and over 40
steps gives the same graph, and the work does not grow with the length of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
from torch import fx

from gradlint.flow import propagate
from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.recurrence.body import Cycle
from gradlint.trace.graph import ParameterRecord, Step, Traced, annotate, step
from gradlint.trace.law import Law

__all__ = ["Sketch", "measured", "unrolled"]


@dataclass
class Sketch:
    """A graph in the making, on the parameters of a traced model.

    Args:
        states: names of the state after each step, the first step first.
    """

    traced: Traced
    graph: fx.Graph = field(default_factory=fx.Graph)
    parameters: dict[str, ParameterRecord] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    _made: dict[str, fx.Node] = field(default_factory=dict)

    def leaf(self, moments: Moments) -> fx.Node:
        """A random tensor of its own, to which no gradient is sent."""
        name = f"leaf_{len(self.graph.nodes)}"
        node = self.graph.create_node("placeholder", name, name=name)
        law = Law("normal", moments.mean, moments.var**0.5, replace(moments, value=None))
        annotate(node, Step(moments.shape, "float32", "", None, grad=False, law=law))
        return node

    def parameter(self, record: ParameterRecord) -> fx.Node:
        """A parameter; its own gradient is not asked for."""
        if record.name not in self._made:
            self.parameters[record.name] = record
            node = self.graph.create_node("get_attr", record.name)
            annotate(node, Step(record.shape, record.dtype, "", None, grad=False))
            self._made[record.name] = node
        return self._made[record.name]

    def call(self, function: Any, *args: Any, shape: tuple[int, ...] | None, op: str = "call_function", **kwargs: Any) -> fx.Node:
        """One op."""
        node = self.graph.create_node(op, function, args, kwargs)
        annotate(node, Step(shape, None if shape is None else "float32", "", None))
        return node

    def kept(self, node: fx.Node, inputs: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """A copy of a node of the traced graph."""
        made = self.graph.node_copy(node, lambda n: inputs[n])
        annotate(made, step(node))
        return made

    def flow(self, source: str) -> Flowed:
        """Moments in both directions, the gradient from the node ``source``."""
        return propagate(replace(self.traced, graph=self.graph, parameters=self.parameters, modules={}, output=source))


def measured(flowed: Flowed, states: list[str]) -> tuple[float, ...]:
    """Bits of gradient norm gained from the last state to the one 0, 1, 2 … steps before; cut where none is known."""
    bits: list[float] = []
    for name in reversed(states):
        found = flowed.log2_energy(name)
        if found is None or not math.isfinite(found) or name in flowed.unknown.nodes:
            break
        bits.append(found / 2)
    return tuple(b - bits[0] for b in bits)


def unrolled(cycle: Cycle, flowed: Flowed, steps: int, instead: Mapping[str, ParameterRecord] | None = None) -> Sketch | None:
    """``steps`` steps of a recurrence; None where something that it needs is unknown.

    What a step is fed with from outside has the law found in the template step, drawn anew at each step if it differed between
    steps. The first state is the one that the first traced step left behind.

    Args:
        instead: parameters in place of those of the same name.
    """
    return _Unroller(cycle, flowed, Sketch(flowed.traced), instead or {}).run(steps)


@dataclass
class _Unroller:
    cycle: Cycle
    flowed: Flowed
    sketch: Sketch
    instead: Mapping[str, ParameterRecord]
    copies: dict[tuple[int, int], fx.Node] = field(default_factory=dict)
    outside: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def run(self, steps: int) -> Sketch | None:
        body = self.cycle.body
        needed = set(self.cycle.offsets)
        for offset in self.cycle.offsets:
            needed |= nx.ancestors(body.template, offset)
        state = self.cycle.states[0]
        try:
            for k in range(steps):
                for offset in sorted(needed):
                    self.copies[offset, k] = self._copy(offset, k)
                self.sketch.states.append(self.copies[state, k].name)
        except _Unknown:
            return None
        return self.sketch

    def _copy(self, offset: int, k: int) -> fx.Node:
        body = self.cycle.body
        node = body.node(offset)
        if offset not in self.cycle.offsets and self._begins(offset):
            return self._fresh(node)
        inputs = {here: self._input(here, before, k) for here, before in body.reads(offset)}
        return self.sketch.kept(node, inputs)

    def _begins(self, offset: int) -> bool:
        """A floating tensor made of what differs between steps: its law is known, drawn anew it stands for the next step's."""
        body = self.cycle.body
        if not step(body.node(offset)).floating:
            return False
        return any(self._other(o) for o in self._behind(offset))

    def _behind(self, offset: int) -> Iterator[int]:
        """The node and, through those that are no floating tensors, what it is made of."""
        yield offset
        for before, _, lag in self.cycle.body.template.in_edges(offset, data="lag"):
            if lag == 0 and not step(self.cycle.body.node(before)).floating and before != offset:
                yield from self._behind(before)

    def _other(self, offset: int) -> bool:
        body = self.cycle.body
        return body.varies(offset) or any(
            here is not before and body.back(here, before) is None and not _is_parameter(here)
            for here, before in body.reads(offset)
        )

    def _input(self, here: fx.Node, before: fx.Node, k: int) -> fx.Node:
        body = self.cycle.body
        lag = body.back(here, before)
        inside = body.offset(here)
        if lag is not None and inside is not None:
            found = self.copies.get((inside, k - lag))
            return found if found is not None else self._initial(inside)
        if _is_parameter(here):
            record = self._record(here)
            if here is not before:  # every step has its own: as many are made
                name = f"{record.name}#{k}"
                record = replace(record, names=(name,), drawn_with=name)
            return self.sketch.parameter(record)
        if here is not before:
            return self._fresh(here)
        return self._constant(here)

    def _record(self, node: fx.Node) -> ParameterRecord:
        name = str(node.target)
        return self.instead.get(name) or self.flowed.traced.parameters[name]

    def _initial(self, offset: int) -> fx.Node:
        """The state before the first step: where the trace has one, what its first step left behind."""
        return self._fresh(self.cycle.instances(offset)[0])

    def _fresh(self, node: fx.Node) -> fx.Node:
        moments = self.flowed.forward.get(node.name)
        if not isinstance(moments, Moments):
            raise _Unknown
        return self.sketch.leaf(moments)

    def _constant(self, node: fx.Node) -> fx.Node:
        """What every step reads from outside: the same tensor each time."""
        if node not in self.outside:
            if node.op == "get_attr":
                self.outside[node] = self.sketch.kept(node, {})
            elif any(True for _ in _weights(node)):
                self.outside[node] = self.sketch.kept(node, {n: self._input(n, n, 0) for n in node.all_input_nodes})
            else:
                self.outside[node] = self._fresh(node)
        return self.outside[node]


def _is_parameter(node: fx.Node) -> bool:
    return node.op == "get_attr" and step(node).value is None


def _weights(node: fx.Node) -> Iterator[fx.Node]:
    """The parameters that a tensor outside of the loop is made of, if of nothing else."""
    stack, found = [node], []
    while stack:
        n = stack.pop()
        if n.op == "placeholder":
            return
        if _is_parameter(n):
            found.append(n)
        stack += n.all_input_nodes
    yield from found


class _Unknown(Exception):  # noqa: N818
    """A tensor without moments."""
