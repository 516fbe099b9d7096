"""Zero gradients that wake up, and those that never do.

A weight that starts at zero is harmless if a gradient reaches it: one step moves it, and what waits behind it hears of the loss
(zero-initialised branches and heads, LayerScale at zero, ReZero, the second matrix of LoRA). Where two zeros are multiplied with
one another on every path, each waits for the other: the gradient of both is a product with a zero, at every step, for ever
(Zhang, Dauphin & Ma 2019, arXiv:1901.09321, start one layer of a branch at zero and not two, for this reason).

Whether it does is computed as it happens: parameters that a gradient reaches are moved off zero, the model is propagated again,
until no other parameter wakes up. What has no gradient even where no parameter is zero is no matter of zeros, and not meant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from torch import fx

from gradlint.flow import propagate
from gradlint.flowed import Flowed
from gradlint.idle import cancelled, only_added, unused
from gradlint.moments import Moments, energy
from gradlint.trace.graph import ParameterRecord, Traced, annotate, step
from gradlint.trace.law import Law

__all__ = ["Dormant", "dormant", "woken"]

_STEPS = 16
"""Steps that are followed: zeros in series that are woken one by one. No stock initialiser has more than three."""

_MOVED = 1e-2
"""Standard deviation of a vector or scale that has left zero; only that it is not zero matters."""


@dataclass(frozen=True)
class Dormant:
    """Trainable parameters that no gradient reaches, at any step, because others are zero.

    Args:
        dead: their names.
        zeros: those of them that are themselves zero.
    """

    dead: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()


def dormant(flowed: Flowed) -> Dormant:
    """Which zero gradients of an analysed model stay zero."""
    zeros = set(_zeros(flowed.traced.parameters))
    asleep = set(_unreached(flowed, _asleep(flowed)))
    if not asleep or not set(_unreached(flowed, zeros - only_added(flowed.traced))):
        return Dormant()  # every zero that is multiplied moves in the first step
    # what stays without a gradient though nothing is zero is so by symmetry, or for want of positions to choose between
    waiting = asleep - set(_unreached(propagate(_stepped(flowed.traced, zeros)), asleep))
    moved: set[str] = set()
    for _ in range(_STEPS):
        fresh = {name for name in zeros - moved if _reached(flowed, name)}
        if not waiting or not fresh:
            break
        moved |= fresh
        flowed = propagate(_stepped(flowed.traced, fresh))
        waiting = set(_unreached(flowed, waiting))
    dead = tuple(name for name in flowed.traced.parameters if name in waiting)
    return Dormant(dead, tuple(name for name in dead if name in zeros))


def woken(flowed: Flowed) -> Flowed | None:
    """The model after the zeros that a gradient reaches have moved; None where there are none.

    How far they move is the optimiser's affair: matrices are given the standard deviation ``1/√fan_in``, at which they neither
    amplify nor attenuate the gradient, so that the gain behind them is that of the rest of the model.
    """
    fresh = {name for name in _zeros(flowed.traced.parameters) if _reached(flowed, name)}
    return propagate(_stepped(flowed.traced, fresh)) if fresh else None


def _asleep(flowed: Flowed) -> Iterator[str]:
    """Trainable parameters that the output depends on, and whose gradient is not zero by symmetry."""
    idle = {*unused(flowed.traced), *(found.parameter for found in cancelled(flowed))}
    judged = _behind(flowed.traced)
    for name, record in flowed.traced.parameters.items():
        if record.requires_grad and name in judged and name not in idle and name not in flowed.unknown.parameters:
            yield name


def _behind(traced: Traced) -> set[str]:
    """Parameters that lead to the output the gradient starts at; what leads to others alone is not judged."""
    waiting = [n for n in traced.graph.nodes if n.name == traced.output]
    seen, found = set(waiting), set[str]()
    while waiting:
        node = waiting.pop()
        if node.op == "get_attr":
            found.add(str(node.target))
        if node.op == "call_module":
            found |= {r.name for r in traced.parameters.values() if any(n.startswith(f"{node.target}.") for n in r.names)}
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        waiting += fresh
    return found


def _unreached(flowed: Flowed, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not _reached(flowed, name))


def _reached(flowed: Flowed, name: str) -> bool:
    """A step moves it. Where the gradient is unknown, or comes from another output, it is taken to."""
    record = flowed.traced.parameters[name]
    if not record.requires_grad:
        return False
    return name in flowed.unknown.parameters or energy(flowed.parameters.get(name)) > 0 or name not in _behind(flowed.traced)


def _zeros(parameters: Mapping[str, ParameterRecord]) -> Iterator[str]:
    return (name for name, record in parameters.items() if record.law.mean == 0 and record.law.std == 0)


def _stepped(traced: Traced, moved: AbstractSet[str]) -> Traced:
    """The model after a step that moved these parameters off zero."""
    parameters = {name: _off_zero(record) if name in moved else record for name, record in traced.parameters.items()}
    return replace(traced, graph=_recomputed(traced.graph, moved), parameters=parameters)


def _off_zero(record: ParameterRecord) -> ParameterRecord:
    std = math.prod(record.shape[1:]) ** -0.5 if len(record.shape) > 1 else _MOVED
    law = Law("normal", 0.0, std, Moments.iid(record.shape, 0.0, std**2), record.law.location)
    return replace(record, law=law, drawn_with=record.name)


def _recomputed(graph: fx.Graph, moved: AbstractSet[str]) -> fx.Graph:
    """The graph without the numbers that were made of these parameters while tracing (``tanh(gate)``)."""
    made, places = fx.Graph(), dict[fx.Node, fx.Node]()
    output = made.output(made.graph_copy(graph, places))
    stale: set[fx.Node] = set()
    for node in graph.nodes:
        copy = output if node.op == "output" else places[node]
        copy.meta = dict(node.meta)
        if (node.op == "get_attr" and str(node.target) in moved) or stale.intersection(node.all_input_nodes):
            stale.add(node)
            if node.op not in ("get_attr", "output"):
                annotate(copy, replace(step(node), scalar=None))
    return made
