"""The recurrences of an analysed model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import networkx as nx
import torch
from torch import fx, nn
from torch.nn import functional

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.recurrence.body import Cycle, find_bodies
from gradlint.recurrence.cells import KINDS, Cell, Kept, Layer, default_layer
from gradlint.recurrence.curve import Curve
from gradlint.recurrence.matrix import Powers, powers_of
from gradlint.recurrence.unroll import Sketch, measured, unrolled
from gradlint.trace.graph import ParameterRecord, op_name, step

__all__ = ["Recurrence", "find_recurrences"]

_NODES = 400  # of an unrolled graph, about: a second of work
_STEPS = (12, 32)
_EXACT = 64


@dataclass(frozen=True)
class Recurrence:
    """Weights that act again and again on what they made.

    Args:
        module: dotted path of the module whose weights they are; ``""`` is the model.
        cell: ``RNN_TANH``, ``RNN_RELU``, ``LSTM``, ``GRU`` for torch's own, ``loop`` for anything else.
        along: ``sequence`` (the number of steps is the length of an input) or ``depth`` (it is the model's own).
        parameters: names of the weights that every step uses; the recurrent matrix first, if there is one.
        steps: how many were traced.
        curve: growth of the gradient as a function of the number of steps.
        keeps: mean of the gate that multiplies the state; None without one.
        nodes: the ops that make the state, first step first; the leaf for a module.
        layer: the weights of torch's own cells.
        untied: parameters within the loop of which every step has its own.
        powers: of the recurrent matrix, where its values are known and it acts alone.
    """

    module: str
    cell: str
    along: str
    parameters: tuple[str, ...]
    steps: int
    curve: Curve
    keeps: float | None
    nodes: tuple[str, ...]
    layer: Layer | None = None
    untied: tuple[str, ...] = ()
    powers: Powers | None = None
    _try: Trial | None = field(default=None, repr=False, compare=False)

    def instead(self, cell: str, *, keeps: float = 0.0) -> Curve | None:
        """The curve of torch's ``LSTM`` or ``GRU`` as it comes, fed as this one is; None where that is unknown.

        Args:
            keeps: a bias added to the gate that keeps the state.
        """
        if self.layer is None or self._try is None:
            return None
        return self._try.curve(default_layer(cell, self.layer, keeps=keeps))

    def biased(self, keeps: float) -> Curve | None:
        """The curve with a bias added to the gate that keeps the state."""
        if self.layer is None or self._try is None or KINDS[self.cell].keeper is None:
            return None
        records = dict(self.layer.records)
        if "bias_hh" not in records:
            return None
        return self._try.curve(Kept(self.cell, records, keeps))


def find_recurrences(flowed: Flowed) -> tuple[Recurrence, ...]:
    """All recurrences, in the order of the graph. What cannot be followed (an op without moments) is left out."""
    found = [*_leaves(flowed), *_loops(flowed)]
    order = {node.name: i for i, node in enumerate(flowed.traced.graph.nodes)}
    return tuple(sorted(found, key=lambda r: (order[r.nodes[0]], r.module, r.parameters)))


@dataclass(frozen=True, eq=False)
class Trial:
    """Layers of torch's cells fed with inputs of a law.

    Args:
        fed: the law of what the first layer reads in one step.
        below: the layers below, the lowest first, all directions of each.
        dropout: between layers.
    """

    flowed: Flowed
    fed: Moments
    below: tuple[tuple[Layer, ...], ...] = ()
    dropout: float = 0.0

    def curve(self, layer: Layer) -> Curve | None:
        """Of a layer on top."""
        return self.run(layer)[0]

    def run(self, layer: Layer) -> tuple[Curve | None, float | None]:
        """Its curve, and the mean of the gate that keeps the state."""
        batch = self.fed.shape[0]
        sketch = Sketch(self.flowed.traced)
        lower = [[Cell(sketch, one, batch) for one in layers] for layers in self.below]
        top = Cell(sketch, layer, batch)
        for _ in range(_length(6 * KINDS[layer.kind].gates)):
            x = sketch.leaf(self.fed)
            for cells in lower:
                outs = [cell.step(x) for cell in cells]
                width = sum(cell.layer.out for cell in cells)
                x = outs[0] if len(outs) == 1 else sketch.call(torch.cat, outs, -1, shape=(batch, width))
                if self.dropout:
                    x = sketch.call(functional.dropout, x, self.dropout, shape=(batch, width))
            top.step(x)
        flowed = sketch.flow(top.states[-1])
        bits = measured(flowed, top.states)
        gate = None if top.gate is None else flowed.forward.get(top.gate.name)
        return (Curve(bits) if len(bits) > 3 else None), gate.mean if isinstance(gate, Moments) else None


def _length(nodes: int) -> int:
    """Steps worked out of a loop of so many nodes each."""
    return min(max(_NODES // nodes, _STEPS[0]), _STEPS[1])


def _leaves(flowed: Flowed) -> Iterator[Recurrence]:
    """Every layer of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``; the reverse direction where its laws are others."""
    calls: dict[str, list[fx.Node]] = {}
    for node in flowed.traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    for path, nodes in calls.items():
        module = flowed.traced.model.get_submodule(path)
        x = flowed.forward.get(nodes[0].all_input_nodes[0].name)
        if not isinstance(module, nn.RNNBase) or not isinstance(x, Moments) or len(x.dims) not in (2, 3):
            continue
        axis = 1 if module.batch_first and len(x.dims) == 3 else 0
        steps = x.shape[axis] * len(nodes)  # called step by step, or once
        fed = x.resize(axis, 1).reshape((x.shape[1 - axis] if len(x.dims) == 3 else 1, x.shape[-1]))
        kind = f"RNN_{module.nonlinearity.upper()}" if isinstance(module, nn.RNN) else module.mode
        below: list[tuple[Layer, ...]] = []
        for depth in range(module.num_layers):
            ways = ("", "_reverse") if module.bidirectional else ("",)
            layers = tuple(_layer(flowed, kind, f"{path}.", f"_l{depth}{way}") for way in ways)
            trial = Trial(flowed, fed, tuple(below), module.dropout if module.training else 0.0)
            for number, layer in enumerate(layers):
                if number == 0 or not _alike(layer, layers[0]):
                    yield from _of_cell(trial, layer, path, "sequence", steps, tuple(n.name for n in nodes))
            below.append(layers)


def _layer(flowed: Flowed, kind: str, prefix: str, suffix: str) -> Layer:
    names = {name: f"{prefix}{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")}
    known = {name: record for record in flowed.traced.parameters.values() for name in record.names}
    return Layer(kind, {name: known[full] for name, full in names.items() if full in known})


def _alike(a: Layer, b: Layer) -> bool:
    """The same laws, no real values among them."""
    laws = [(r.law.kind, r.law.mean, r.law.std) for r in a.records.values()]
    drawn = all(kind not in ("values", "mixed", "identity") for kind, _, _ in laws)
    return drawn and laws == [(r.law.kind, r.law.mean, r.law.std) for r in b.records.values()]


def _of_cell(trial: Trial, layer: Layer, module: str, along: str, steps: int, nodes: tuple[str, ...]) -> Iterator[Recurrence]:
    curve, keeps = trial.run(layer)
    if curve is None:
        return
    matrix = layer.records["weight_hh"]
    powers = powers_of(matrix.law, len(curve.bits) - 1) if KINDS[layer.kind].gates == 1 else None
    if powers is not None:
        curve = _with_powers(curve, powers, rectified=layer.kind == "RNN_RELU")
    names = (matrix.name, *(r.name for name, r in layer.records.items() if name in ("bias_hh", "weight_hr")))
    yield Recurrence(module, layer.kind, along, names, steps, curve, keeps, nodes, layer, (), powers, trial)


def _with_powers(curve: Curve, powers: Powers, *, rectified: bool) -> Curve:
    """The growth that the matrix's own powers give."""
    if rectified and powers.diagonal > 0.5:
        # Units that feed themselves: one that is active stays so, half of them are (Le et al. 2015). Not a half anew at each step.
        return Curve(tuple(b - 0.5 * (k > 0) for k, b in enumerate(powers.bits)))
    return curve.shifted(powers.beyond_law)


def _loops(flowed: Flowed) -> Iterator[Recurrence]:
    for cycle in find_bodies(flowed.traced.graph):
        body = cycle.body
        members = [body.node(offset) for offset in cycle.offsets]
        if any(node.op == "call_module" for node in members):
            continue  # a module called step by step
        state = cycle.instances(cycle.states[0])
        along = "sequence" if cycle.sequence else "depth"
        module = _common([step(node).module for node in members])
        nodes = tuple(node.name for node in state)
        cell = _cell(flowed, cycle, module)
        if cell is not None:
            trial, layer = cell
            yield from _of_cell(trial, layer, module, along, body.steps, nodes)
            continue
        needed = set(cycle.offsets).union(*(nx.ancestors(body.template, offset) for offset in cycle.offsets))
        exact = along == "depth" and body.steps <= _EXACT and body.steps * len(needed) <= 2 * _NODES
        sketch = unrolled(cycle, flowed, body.steps if exact else _length(len(needed)))
        if sketch is None:
            continue
        bits = measured(sketch.flow(sketch.states[-1]), sketch.states)
        if len(bits) <= 3:
            continue
        curve = Curve(bits)
        records = [flowed.traced.parameters[name] for name in cycle.shared if name in flowed.traced.parameters]
        records.sort(key=lambda record: -len(record.shape))
        powers = _alone(cycle, records, len(bits) - 1)
        if powers is not None:
            curve = _with_powers(curve, powers, rectified=any(op_name(node) in ("relu", "relu_") for node in members))
        names = tuple(record.name for record in records)
        yield Recurrence(
            module, "loop", along, names, body.steps, curve, _keeper(flowed, cycle), nodes, None, cycle.untied, powers
        )


def _cell(flowed: Flowed, cycle: Cycle, module: str) -> tuple[Trial, Layer] | None:
    """The layer, where the loop steps one of torch's cells and nothing else feeds back."""
    record = flowed.traced.modules.get(module)
    if record is None or record.type not in ("RNNCell", "LSTMCell", "GRUCell"):
        return None
    kind = record.type.removesuffix("Cell")
    if kind == "RNN":
        kind = f"RNN_{str(flowed.traced.model.get_submodule(module).nonlinearity).upper()}"
    layer = _layer(flowed, kind, f"{module}.", "")
    for offset in range(cycle.body.period):
        for user in (cycle.body.node(offset),):
            inputs = user.all_input_nodes
            if any(n.op == "get_attr" and str(n.target) == layer.records["weight_ih"].name for n in inputs):
                fed = flowed.forward.get(inputs[0].name)
                if isinstance(fed, Moments) and len(fed.dims) == 2:
                    return Trial(flowed, fed), layer
    return None


def _common(paths: list[str]) -> str:
    """The module around all of these."""
    shared = [parts[0] for parts in zip(*(path.split(".") for path in paths), strict=False) if len(set(parts)) == 1]
    return ".".join(shared)


def _alone(cycle: Cycle, records: list[ParameterRecord], count: int) -> Powers | None:
    """Powers of the only matrix of a loop, where no path leads around it."""
    matrices = [record for record in records if len(record.shape) > 1]
    if len(matrices) != 1:
        return None
    uses = [
        o
        for o in cycle.offsets
        if any(n.op == "get_attr" and str(n.target) in matrices[0].names for n in cycle.body.node(o).all_input_nodes)
    ]
    rest = cycle.body.template.subgraph(set(cycle.offsets) - set(uses))
    if len(uses) != 1 or not nx.is_directed_acyclic_graph(rest):
        return None
    return powers_of(matrices[0].law, count)


def _keeper(flowed: Flowed, cycle: Cycle) -> float | None:
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
