"""What a recurrence is like, read off the graph around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import networkx as nx
from torch import fx

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.recurrence.body import Cycle, made_of
from gradlint.trace.graph import ParameterRecord, op_name, step

__all__ = ["bypassed", "kept_share", "starved"]


def bypassed(cycle: Cycle, matrices: list[ParameterRecord]) -> bool:
    """A path leads from step to step around every matrix."""
    names = {name for record in matrices for name in record.names}
    uses = {o for o in cycle.offsets if any(str(p.target) in names for n, _ in cycle.body.reads(o) for p in made_of(n))}
    return not nx.is_directed_acyclic_graph(cycle.body.template.subgraph(set(cycle.offsets) - uses))


def starved(flowed: Flowed, states: Sequence[str], gain: float) -> tuple[str, ...]:
    """Trainable parameters whose whole gradient passes every step: they act on the first state, and the last one alone is read.

    Args:
        states: the nodes of the state, first step first; or a leaf.
        gain: bits over all steps.
    """
    nodes = {node.name: node for node in flowed.traced.graph.nodes}
    first, last, output = nodes[states[0]], nodes[states[-1]], nodes[flowed.traced.output]
    if first.op == "call_module":
        through = first.all_input_nodes[1:]
        read_early = any(_bits(flowed, node) - _bits(flowed, output) > gain / 2 for node in through)
        fed = [(source, first) for source in through]
    else:
        through, fed = [first], [(source, first) for source in first.all_input_nodes]
        read_early = nx.has_path(_without(nodes.values(), [(source, last) for source in last.all_input_nodes]), first, output)
    if read_early or not through:
        return ()
    free = nx.ancestors(_without(nodes.values(), fed), output)
    whole = _without(nodes.values(), [])
    behind = set(through).union(*(nx.ancestors(whole, node) for node in through))
    names = {str(n.target) for n in behind - free if n.op == "get_attr" and step(n).value is None}
    return tuple(name for name, record in flowed.traced.parameters.items() if name in names and record.requires_grad)


def _without(nodes: Iterable[fx.Node], edges: Sequence[tuple[fx.Node, fx.Node]]) -> nx.DiGraph[fx.Node]:
    """Where a gradient can pass, some edges left out."""
    graph: nx.DiGraph[fx.Node] = nx.DiGraph()
    for node in nodes:
        graph.add_node(node)
        graph.add_edges_from((source, node) for source in node.all_input_nodes if step(source).grad and node.op != "output")
    graph.remove_edges_from(edges)
    return graph


def _bits(flowed: Flowed, node: fx.Node) -> float:
    found = flowed.log2_energy(node.name)
    return -math.inf if found is None else found / 2


def kept_share(flowed: Flowed, cycle: Cycle) -> float | None:
    """The mean of a gate that multiplies the state of the step before."""
    for offset in cycle.offsets:
        if op_name(cycle.body.node(offset)) != "mul":
            continue
        reads = list(cycle.body.reads(offset))
        late = [here for here, before in reads if (cycle.body.back(here, before) or 0) > 0]
        gates = [here for here, _ in reads if op_name(here) == "sigmoid"]
        value = flowed.forward.get(gates[0].name) if gates and late else None
        if isinstance(value, Moments):
            return value.mean
    return None
