"""Loops in a traced graph: the same piece of graph at successive steps, each fed by the one before.

Python ran the loop, so the graph holds it unrolled. What every step reads (a weight, the sequence that it takes its slice of) is
used at equal distances; that gives the period. A step is then a template, its edges annotated with how many steps back they come
from, and a recurrence is a strongly connected component of the template: what feeds itself through time. Layers stacked within
one loop are components of their own; what only reads a state (an output at every step) belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import networkx as nx
from torch import fx

from gradlint.trace.graph import op_name, step

__all__ = ["Body", "Cycle", "find_bodies", "made_of"]

FEWEST = 4
"""Steps that make a loop."""
_USES = 4  # of one tensor per step, at most


@dataclass(frozen=True)
class Body:
    """One step of a loop as a template.

    Args:
        nodes: of the graph, in order.
        start: number of the node that begins the first step.
        period: nodes per step.
        steps: how often the step was run.
        at: the step that is the template, from 0.
    """

    nodes: Sequence[fx.Node]
    start: int
    period: int
    steps: int
    at: int

    @cached_property
    def order(self) -> Mapping[fx.Node, int]:
        """Node to its number."""
        return {node: i for i, node in enumerate(self.nodes)}

    def offset(self, node: fx.Node) -> int | None:
        """Which node of the template this is in its own step; None outside of the loop."""
        at = self.order[node] - self.start
        return at % self.period if 0 <= at < self.period * self.steps else None

    def lag(self, node: fx.Node, seen_from: int | None = None) -> int:
        """How many steps before the template (or step ``seen_from``) a node is."""
        at = self.at if seen_from is None else seen_from
        return at - (self.order[node] - self.start) // self.period

    def node(self, offset: int, at: int | None = None) -> fx.Node:
        """A node of the template, or its counterpart in another step."""
        return self.nodes[self.start + (self.at if at is None else at) * self.period + offset]

    def reads(self, offset: int) -> Iterator[tuple[fx.Node, fx.Node]]:
        """The inputs of a node of the template, each with what the step before read in its place."""
        return zip(self.node(offset).all_input_nodes, self.node(offset, self.at - 1).all_input_nodes, strict=True)

    def back(self, here: fx.Node, before: fx.Node) -> int | None:
        """How many steps back an input comes from: None if it comes from outside of the loop, or always from one place in it."""
        inside = self.offset(here)
        if inside is None or here is before or here.op == "get_attr" or inside != self.offset(before):
            return None
        lag = self.lag(here)
        return lag if lag == self.lag(before, self.at - 1) and 0 <= lag <= self.at else None

    @cached_property
    def template(self) -> nx.MultiDiGraph[int]:
        """Offsets, an edge from input to user with ``lag``; only what a gradient can pass."""
        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        graph.add_nodes_from(range(self.period))
        for offset in range(self.period):
            for here, before in self.reads(offset):
                lag = self.back(here, before)
                if lag is not None:
                    inside = self.offset(here)
                    graph.add_edge(inside, offset, lag=lag)
        return graph

    def varies(self, offset: int) -> bool:
        """The call differs between steps by itself: another index, another constant."""
        here, before = self.node(offset), self.node(offset, self.at - 1)
        return bool(_shown(here) != _shown(before))

    def taken_apart(self, offset: int) -> bool:
        """It reads a tensor that every step has another of: a member of a list, a slice made before the loop."""
        return any(here is not before and self.back(here, before) is None for here, before in self.reads(offset))


@dataclass(frozen=True)
class Cycle:
    """A component of a body that feeds itself.

    Args:
        offsets: its nodes in the template, in order.
        states: those among them that a later step reads.
        shared: parameters that every step uses, in the order of use.
        untied: of its parameters, those of which every step has its own.
        sequence: every step reads another piece of the input: the loop runs along a sequence, and its length is the input's.
    """

    body: Body
    offsets: tuple[int, ...]
    states: tuple[int, ...]
    shared: tuple[str, ...]
    untied: tuple[str, ...]
    sequence: bool

    def instances(self, offset: int) -> tuple[fx.Node, ...]:
        """The nodes that a node of the template is at each step, first step first; a first step unlike the others is left out."""
        kind = _kind(self.body.node(offset))
        steps = (self.body.node(offset, at) for at in range(self.body.steps))
        return tuple(node for node in steps if _kind(node) == kind)


def find_bodies(graph: fx.Graph) -> list[Cycle]:
    """The recurrences of a graph: the longest loops first; a node belongs to one of them at most."""
    nodes = list(graph.nodes)
    cycles: list[Cycle] = []
    taken: set[fx.Node] = set()
    for body in _bodies(nodes):
        for cycle in _cycles(body):
            members = {body.node(offset, at) for offset in cycle.offsets for at in range(body.steps)}
            if not members & taken:
                taken |= members
                cycles.append(cycle)
    return cycles


def _bodies(nodes: Sequence[fx.Node]) -> Iterator[Body]:
    """Templates, the longest loop and the longest period first: of ``t`` steps of ``k`` layers each, the steps come first."""
    order = {node: i for i, node in enumerate(nodes)}
    found: dict[tuple[int, int, int], None] = {}
    leaves: dict[str, list[int]] = {}
    for node in nodes:
        if node.op == "call_module":
            leaves.setdefault(str(node.target), []).append(order[node])
    uses: Iterable[Sequence[int]] = (sorted(order[user] for user in node.users) for node in nodes if len(node.users) >= FEWEST)
    for places in (*uses, *leaves.values()):
        for stride in range(1, _USES + 1):
            run = _longest_run(places, stride)
            if run is not None:
                found[run] = None
                break
    seen: set[tuple[int, int]] = set()
    for start, period, steps in sorted(found, key=lambda run: (-run[1] * run[2], run[0])):
        if (period, start % period) in seen or (start + steps * period) > len(nodes) + period:
            continue
        seen.add((period, start % period))
        body = _checked(nodes, start, period, steps)
        if body is not None:
            yield body


def _longest_run(places: Sequence[int], stride: int) -> tuple[int, int, int] | None:
    """Start, period and steps of the longest stretch of uses at equal distances; the first step may be longer than the others."""
    every = places[::stride]
    gaps = [b - a for a, b in pairwise(every)]
    best: tuple[int, int, int] | None = None
    first = 0
    for i in range(1, len(gaps) + 1):
        if i == len(gaps) or gaps[i] != gaps[first]:
            steps = i - first + 1
            if steps + (first > 0) >= FEWEST and (best is None or steps > best[2]):
                best = (every[first], gaps[first], steps)
            first = i
    if best is None:
        return None
    start, period, steps = best
    begun = every[0] < start and start - every[0] <= 2 * period + 8  # a first step that also fetches the weights
    return (start - period, period, steps + 1) if begun and start >= period else (start, period, steps)


def _checked(nodes: Sequence[fx.Node], start: int, period: int, steps: int) -> Body | None:
    """A body whose last two whole steps are alike; the alignment is moved back so that the template is whole."""
    whole = min(steps, (len(nodes) - start) // period)
    at = whole - 1
    while at >= 2:
        body = Body(nodes, start, period, whole, at)
        if all(_kind(body.node(i)) == _kind(body.node(i, at - 1)) for i in range(period)):
            return body
        at -= 1
        if at < whole - 3:
            return None
    return None


def _kind(node: fx.Node) -> tuple[Any, ...]:
    target = str(node.target) if node.op != "get_attr" else ""
    return node.op, target, step(node).shape, len(node.all_input_nodes)


def _shown(node: fx.Node) -> Any:
    """The arguments without the tensors."""
    return repr(fx.node.map_arg((node.args, node.kwargs), lambda _: "·"))


def _cycles(body: Body) -> Iterator[Cycle]:
    graph = body.template
    for component in sorted(nx.strongly_connected_components(graph), key=min):
        inside = graph.subgraph(component)
        if not any(lag > 0 for _, _, lag in inside.edges(data="lag")):
            continue
        offsets = tuple(sorted(component))
        if not all(_passes(body.node(offset)) for offset in offsets):
            continue
        shared, untied = _parameters(body, offsets)
        own = [name for name, axes in untied.items() if axes > 1]
        if own and len(own) > sum(axes > 1 for axes in shared.values()):
            continue  # layers of their own that share a mask, a table of positions
        if not shared and all(op_name(body.node(o)) in _GAIN_ONE for o in offsets):
            continue  # a running total, a buffer that is filled: its gain is one
        states = tuple(sorted({a for a, _, lag in inside.edges(data="lag") if lag > 0}))
        yield Cycle(body, offsets, states, tuple(shared), tuple(untied), _along_a_sequence(body, graph, offsets))


_ENTRYWISE = ("add", "sub", "rsub", "mul", "div")
_GAIN_ONE = {
    "add", "sub", "getitem", "to", "view", "reshape", "cat", "stack", "clone", "copy", "setitem", "select_scatter", "index_put",
    "index_copy", "scatter", "slice_scatter", "index_add", "scatter_add",
}  # fmt: skip


def _passes(node: fx.Node) -> bool:
    facts = step(node)
    return facts.grad and (facts.shape is None or facts.floating)


def _parameters(body: Body, offsets: Iterable[int]) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters that every step uses, and those of which every step has its own, with their axes: 1 where they act entrywise."""
    shared: dict[str, int] = {}
    untied: dict[str, int] = {}
    for offset in offsets:
        node = body.node(offset)
        if node.op == "call_module":
            shared[str(node.target)] = 2
        entrywise = op_name(node) in _ENTRYWISE
        for here, before in body.reads(offset):
            same = {str(parameter.target) for parameter in made_of(before)}
            for parameter in made_of(here):
                name = str(parameter.target)
                (shared if name in same else untied)[name] = 1 if entrywise else len(step(parameter).shape or ())
    return shared, untied


def made_of(node: fx.Node) -> Iterator[fx.Node]:
    """The parameters that a tensor is, or is made of alone (``weight.t()``, a normalised weight)."""
    stack, seen = [node], set()
    found = []
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if n.op == "placeholder" or len(seen) > 32:
            return
        if n.op == "get_attr" and step(n).value is None:
            found.append(n)
        stack += n.all_input_nodes
    yield from reversed(found)


def _along_a_sequence(body: Body, graph: nx.MultiDiGraph[int], offsets: Sequence[int]) -> bool:
    """Something that a step is fed with is another piece at every step, and no parameter."""
    fed = set(offsets)
    for offset in offsets:
        fed |= nx.ancestors(graph, offset)
    for offset in fed:
        if body.varies(offset) and any(not list(made_of(n)) for n in body.node(offset).all_input_nodes):
            return True
        for here, before in body.reads(offset):
            parameter = here.op == "get_attr" and step(here).value is None
            if here is not before and body.back(here, before) is None and not parameter:
                return True
    return False
