"""The one way that most of the gradient takes, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradlint.flowed import Edge

__all__ = ["Route", "dominant"]


@dataclass(frozen=True)
class Route:
    """A path through the graph.

    Args:
        nodes: from the output to where the gradient leaves the model.
        share: of the gradient's energy there that has come this way; the shares of all paths add up to one.
    """

    nodes: tuple[str, ...]
    share: float


def dominant(
    order: Iterable[str], edges: Iterable[Edge], members: Mapping[str, str], bits: Mapping[str, float], source: str, end: str
) -> Route | None:
    """The path that carries most.

    Energy is additive, so that each op's gradient has come over its consumers in certain shares, and a path's share is the
    product of those of its edges.

    Args:
        order: names of nodes, as they were executed.
        edges: how the energy got there.
        members: name of a member of a tuple to the name of the call that returned it.
        bits: log2 of the energy of every node's gradient.
        source: where the gradient starts.
        end: where it leaves.
    """
    arriving: dict[str, dict[str, float]] = {}
    for edge in edges:
        if edge.energy > 0:
            _add(arriving, edge.producer, edge.consumer, math.log2(edge.energy) + 2 * edge.unit)
    for member, call in members.items():
        if member in bits:
            _add(arriving, call, member, bits[member])
    best: dict[str, tuple[float, str]] = {source: (0.0, "")}
    for name in reversed(list(order)):
        ways = arriving.get(name, {})
        if name == source or not ways:
            continue
        total = _sum(ways.values())
        known = [(best[via][0] + log2 - total, via) for via, log2 in ways.items() if via in best]
        if known:
            best[name] = max(known)
    if end not in best:
        return None
    nodes = [end]
    while nodes[-1] != source:
        nodes.append(best[nodes[-1]][1])
    return Route(tuple(reversed(nodes)), 2.0 ** best[end][0])


def _add(arriving: dict[str, dict[str, float]], producer: str, consumer: str, log2: float) -> None:
    ways = arriving.setdefault(producer, {})
    ways[consumer] = _sum([ways[consumer], log2]) if consumer in ways else log2


def _sum(logs: Iterable[float]) -> float:
    """log2 of a sum of powers of two."""
    logs = list(logs)
    top = max(logs)
    return top + math.log2(sum(2.0 ** (log - top) for log in logs))
