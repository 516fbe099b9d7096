"""Where the gradient grows: gains along the graph, split into causes that multiply back to the total.

Mean field makes gradient energy (sum of squares over entries) additive over paths, so the gain from the loss to a node is one
number per node. The *spine* is the chain of nodes that all gradient to the input must pass (the dominators); between two
neighbours of the spine lies one segment, a single op or a region with several paths, and the bits of the segments add up to
the end-to-end gain exactly.

A gain is a ratio of norms, ``‖Jᵀv‖/‖v‖``, in bits: +1 doubles the gradient's norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
from torch import fx

from gradlint.analysis import Analysis
from gradlint.blocks import Repeat, find_repeats
from gradlint.causes import NEUTRAL, cause_of
from gradlint.moments import Moments
from gradlint.recurrence import Recurrence, find_recurrences
from gradlint.route import Route, dominant
from gradlint.trace.graph import Step, op_name, step

__all__ = ["Paths", "Segment", "find_paths"]

_ENTRY = "<input>"

_BRANCH = 2.0
"""Bits that the first residual branch may gain by itself."""


@dataclass(frozen=True)
class Segment:
    """A stretch of the spine, from ``start`` (nearer the loss) to ``end``.

    Args:
        cause: ``recurrence``, or as :func:`~gradlint.causes.cause_of` names it.
        log2: bits of gradient norm gained from start to end.
        nodes: the ops whose backward the segment is.
        parameter: the weight that acts in it, if one does.
        normalised: a norm on the way out makes the segment's weight scale-invariant.
    """

    start: str
    end: str
    cause: str
    log2: float
    nodes: tuple[str, ...]
    module: str
    parameter: str | None = None
    normalised: bool = False


@dataclass(frozen=True)
class Paths:
    """Gains of one analysis.

    Args:
        log2: end-to-end gain from the output to the input of the first layer, in bits; None when nothing leads there.
        segments: of the spine, from the output to the input; their bits sum to ``log2``.
        gains: node name to the bits of its gradient's norm over the output's.
        recurrences: weights that act again and again on what they made.
        entries: where the gradient leaves the model (its inputs, or the lookups that stand in for them), the largest first.
        route: the way that most of it takes there.
        repeats: blocks that repeat, with the gain of each and the law of depth.
    """

    log2: float | None
    segments: tuple[Segment, ...]
    gains: Mapping[str, float]
    recurrences: tuple[Recurrence, ...]
    entries: tuple[str, ...] = ()
    route: Route | None = None
    repeats: tuple[Repeat, ...] = ()

    @property
    def dominators(self) -> tuple[str, ...]:
        """The nodes that all gradient to the first layer passes, from the output on."""
        return (*(s.start for s in self.segments), *(s.end for s in self.segments[-1:]))

    @property
    def layers(self) -> Mapping[str, float]:
        """Parameter of two or more axes to the bits from the output to the op on the spine that it acts in."""
        return {s.parameter: self.gains[s.start] for s in self.segments if s.parameter is not None and s.start in self.gains}

    def worst(self, sign: int) -> tuple[Segment, ...]:
        """The contiguous stretch of the spine that gains most (``sign`` +1) or loses most (-1); empty where none does."""
        best, total, begin, found = 0.0, 0.0, 0, (0, 0)
        for i, segment in enumerate(self.segments):
            if total <= 0.0:
                total, begin = 0.0, i
            total += sign * segment.log2
            if total > best:
                best, found = total, (begin, i + 1)
        return self.segments[slice(*found)]

    @property
    def entry(self) -> str | None:
        """The node where the spine ends; the largest entry where it ends at several."""
        end = self.segments[-1].end if self.segments else None
        return self.entries[0] if end == _ENTRY and self.entries else end


def find_paths(analysis: Analysis) -> Paths:
    """Gains, spine and recurrences of an analysed model."""
    flowed = analysis.flowed
    nodes = {n.name: n for n in flowed.traced.graph.nodes}
    bits = {name: found for name in flowed.backward if (found := flowed.log2_energy(name)) is not None}
    source = flowed.traced.output
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node(source)
    for edge in flowed.edges:
        producer = nodes.get(edge.producer)
        if producer is None or producer.op == "get_attr":
            continue
        graph.add_edge(edge.consumer, edge.producer)
    for name, node in nodes.items():
        if _is_member(node):
            graph.add_edge(name, str(node.args[0]))
    entries = _entries(graph, nodes, bits, flowed.unknown.nodes)
    for name in entries:
        graph.add_edge(name, _ENTRY)
    gains = {n: (b - bits[source]) / 2 for n, b in bits.items()} if source in bits else {}
    recurrences = find_recurrences(flowed)
    if _ENTRY not in graph or not nx.has_path(graph, source, _ENTRY):
        return Paths(None, (), gains, recurrences)
    most = max(bits[name] for name in entries)
    bits[_ENTRY] = most + math.log2(sum(2.0 ** (bits[name] - most) for name in entries))
    spine = [n for n in _spine(graph, source) if n in bits]
    if len(entries) == 1:  # the input itself is the end of the spine
        spine.remove(_ENTRY)
    reused = {name for recurrence in recurrences for name in recurrence.members}
    place = {name: i for i, name in enumerate(graph)}
    leading = nx.ancestors(graph, _ENTRY)
    segments = tuple(_segment(graph, leading, place, nodes, bits, start, end, reused) for start, end in pairwise(spine))
    segments = _to_first_layer(segments, flowed.forward)
    if not segments:
        return Paths(None, (), gains, recurrences)
    by_size = tuple(sorted(entries, key=lambda name: (-bits[name], name)))
    members = {name: str(node.args[0]) for name, node in nodes.items() if _is_member(node)}
    route = dominant(nodes, flowed.edges, members, bits, source, by_size[0])
    repeats = find_repeats(flowed.traced.modules, spine, bits, flowed.traced.parameters)
    return Paths(sum(s.log2 for s in segments), _with_norms(segments), gains, recurrences, by_size, route, repeats)


def _is_member(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and getattr(node.target, "__name__", "") == "getitem"
        and (isinstance(node.args[0], fx.Node) and step(node.args[0]).shape is None)
    )


def _entries(graph: nx.DiGraph[str], nodes: Mapping[str, fx.Node], bits: Mapping[str, float], unknown: set[str]) -> list[str]:
    """Where gradient leaves the model: its floating inputs, or the lookups that stand in for them; none where it is unknown."""
    floats = [n for n, node in nodes.items() if node.op == "placeholder" and (n in unknown or n in bits)]
    if floats:
        return [] if unknown.intersection(floats) else floats
    lookups = [n for n, node in nodes.items() if "embedding" in op_name(node) and (n in unknown or n in bits)]
    if unknown.intersection(lookups):
        return []
    if lookups:
        biggest = max(_vocabulary(nodes[n]) for n in lookups)
        return [n for n in lookups if _vocabulary(nodes[n]) == biggest]
    ends = [n for n in graph if graph.out_degree(n) == 0 and n in nodes and n in bits]
    return [] if unknown else ends


def _vocabulary(node: fx.Node) -> int:
    weight = next((n for n in node.all_input_nodes if n.op == "get_attr"), None)
    shape = None if weight is None else step(weight).shape
    return shape[0] if shape else 0


def _spine(graph: nx.DiGraph[str], source: str) -> list[str]:
    idom = nx.immediate_dominators(graph, source)
    chain = [_ENTRY]
    while chain[-1] != source:
        chain.append(idom[chain[-1]])
    return chain[::-1]


def _segment(
    graph: nx.DiGraph[str],
    leading: set[str],
    place: Mapping[str, int],
    nodes: Mapping[str, fx.Node],
    bits: Mapping[str, float],
    start: str,
    end: str,
    reused: set[str],
) -> Segment:
    """One stretch of the spine: the ops between, and what they are called."""
    ops = [n for n in sorted(_between(graph, start, end) & leading, key=place.__getitem__) if n in nodes]
    log2 = (bits[end] - bits[start]) / 2
    if reused.intersection(ops) or any(nodes[n].op == "call_module" for n in ops):
        cause = "recurrence"
    else:
        cause = cause_of(nodes[start], several=len(ops) > 1) if start in nodes else "other"
    weight = _weight(nodes, ops)
    module = next((step(nodes[n]).module for n in ops), "")
    return Segment(start, end, cause, log2, tuple(ops), module, weight)


def _between(graph: nx.DiGraph[str], start: str, end: str) -> set[str]:
    """Nodes on paths from start (included) to end (excluded)."""
    seen, stack = {start}, [start]
    while stack:
        for n in graph.successors(stack.pop()):
            if n != end and n not in seen:
                seen.add(n)
                stack.append(n)
    return seen


def _weight(nodes: Mapping[str, fx.Node], ops: Iterable[str]) -> str | None:
    """The last parameter of two or more axes that acts in these ops (nearest the loss first)."""
    for name in ops:
        for n in nodes[name].all_input_nodes:
            facts: Step = step(n)
            if n.op == "get_attr" and facts.value is None and len(facts.shape or ()) > 1:
                return str(n.target)
    return None


def _to_first_layer(segments: tuple[Segment, ...], forward: Mapping[str, Any]) -> tuple[Segment, ...]:
    """Leave out what is done to the input before the first layer (``x / 255``, a norm of embeddings): no weight hears of it.

    So too where it enters a residual stream: a branch that begins with a norm hands ``1/rms`` of its gradient to small
    embeddings, and to nothing else.
    """
    kept = _from_a_layer(segments)
    x = forward.get(kept[-1].end) if kept else None
    small = -math.log2(x.rms) if isinstance(x, Moments) and 0.0 < x.rms < 1.0 else 0.0
    by_scale = small > 0.0 and kept[-1].cause == "residual" and 0.0 < kept[-1].log2 < small + _BRANCH
    return _from_a_layer(kept[:-1]) if by_scale else kept


def _from_a_layer(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    last = max((i for i, s in enumerate(segments) if s.parameter or s.cause not in (*NEUTRAL, "activation", "norm")), default=-1)
    return segments[: last + 1]


def _with_norms(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Mark weights whose output goes through a norm before anything else: their scale does not matter."""
    out: list[Segment] = []
    behind_norm = False
    for s in segments:  # from the loss to the input
        marked = s.cause == "weights" and behind_norm
        out.append(Segment(s.start, s.end, s.cause, s.log2, s.nodes, s.module, s.parameter, marked))
        if s.cause == "norm":
            behind_norm = True
        elif s.cause not in NEUTRAL:
            behind_norm = False
    return tuple(out)
