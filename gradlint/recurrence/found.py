"""The recurrences of an analysed model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import networkx as nx
from torch import fx, nn

from gradlint.flowed import Flowed
from gradlint.moments import Moments, concat, product
from gradlint.recurrence.body import Cycle, find_bodies
from gradlint.recurrence.cells import KINDS, Kept, Layer, default_layer
from gradlint.recurrence.curve import Curve
from gradlint.recurrence.matrix import Powers, independent, powers_of
from gradlint.recurrence.reading import bypassed, kept_share, starved
from gradlint.recurrence.trial import FEWEST, Trial, length
from gradlint.recurrence.unroll import measured, unrolled
from gradlint.trace.graph import op_name, step

__all__ = ["Recurrence", "find_recurrences"]

_EXACT = 64  # steps of a loop in depth that are worked out, all of them
_LARGE = 800  # nodes that they may be
_POWERS = 512


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
        nodes: the ops that make the state, first step first; the leaf for a module.
        members: all ops of the recurrence.
        keeps: mean of the gate that multiplies the state; None without one.
        bypass: a path leads around the weights from step to step: a skip connection, a gate, a leak.
        diagonal: no matrix mixes the entries of the state: each has a rate of its own (a state-space scan), of which the curve is
            the root mean square at first and too small an account later.
        rectified: its only nonlinearity is a ReLU.
        layer: the weights of torch's own cells.
        untied: parameters within the loop of which every step has its own.
        powers: of the recurrent matrix, where its values are known and nothing leads around it.
        slope: bits per step that the activations take, where ``powers`` are known.
        starved: trainable parameters whose whole gradient passes all the steps: they act on the first state alone.
    """

    module: str
    cell: str
    along: str
    parameters: tuple[str, ...]
    steps: int
    curve: Curve
    nodes: tuple[str, ...]
    members: tuple[str, ...]
    keeps: float | None = None
    bypass: bool = False
    diagonal: bool = False
    rectified: bool = False
    layer: Layer | None = None
    untied: tuple[str, ...] = ()
    powers: Powers | None = None
    slope: float = 0.0
    starved: tuple[str, ...] = ()
    _trial: Trial | None = field(default=None, repr=False, compare=False)

    def instead(self, cell: str, keeps: float = 0.0) -> Curve | None:
        """The curve of torch's ``LSTM`` or ``GRU`` as it comes, fed as this one is; None where that is unknown.

        Args:
            keeps: a bias added to the gate that keeps the state.
        """
        if self.layer is None or self._trial is None:
            return None
        return self._trial.run(default_layer(cell, self.layer, keeps=keeps)).curve

    def biased(self, keeps: float) -> Curve | None:
        """The curve with a bias added to the gate that keeps the state; None where there is none."""
        if self.layer is None or self._trial is None or KINDS[self.cell].keeper is None or "bias_hh" not in self.layer.records:
            return None
        return self._trial.run(Kept(self.cell, self.layer.records, keeps)).curve


def find_recurrences(flowed: Flowed) -> tuple[Recurrence, ...]:
    """All recurrences, in the order of the graph. What cannot be followed (an op without moments) is left out."""
    found = [*_leaves(flowed), *_loops(flowed)]
    order = {node.name: i for i, node in enumerate(flowed.traced.graph.nodes)}
    return tuple(sorted(found, key=lambda r: (order[r.nodes[0]], r.module, r.parameters)))


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
        calls_ = tuple(node.name for node in nodes)
        for depth in range(module.num_layers):
            ways = ("", "_reverse") if module.bidirectional else ("",)
            layers = [_layer(flowed, kind, f"{path}.", f"_l{depth}{way}") for way in ways]
            trial = Trial(flowed, fed)
            outputs: list[Moments | None] = []
            for number, layer in enumerate(layers):
                if number > 0 and _alike(layer, layers[0]):
                    outputs.append(outputs[0])
                    continue
                recurrence, output = _of_cell(trial, layer, _Place(path, "sequence", steps, calls_, calls_))
                outputs.append(output)
                if recurrence is not None:
                    yield recurrence
            known = [output for output in outputs if output is not None]
            if len(known) < len(ways):
                break
            fed = known[0] if len(known) == 1 else concat(known, 1)
            if module.training and 0 < module.dropout < 1:
                fed = product(fed, Moments.iid(fed.shape, 1.0, module.dropout / (1 - module.dropout)))


def _layer(flowed: Flowed, kind: str, prefix: str, suffix: str) -> Layer:
    names = {name: f"{prefix}{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")}
    known = {name: record for record in flowed.traced.parameters.values() for name in record.names}
    return Layer(kind, {name: known[full] for name, full in names.items() if full in known})


def _alike(a: Layer, b: Layer) -> bool:
    """The same laws, no real values among them."""
    laws = [(r.law.kind, r.law.mean, r.law.std) for r in a.records.values()]
    drawn = all(kind not in ("values", "mixed", "identity") for kind, _, _ in laws)
    return drawn and laws == [(r.law.kind, r.law.mean, r.law.std) for r in b.records.values()]


class _Place(NamedTuple):
    """Where a recurrence is: fields of :class:`Recurrence`."""

    module: str
    along: str
    steps: int
    nodes: tuple[str, ...]
    members: tuple[str, ...]


def _of_cell(trial: Trial, layer: Layer, place: _Place) -> tuple[Recurrence | None, Moments | None]:
    """The recurrence of a layer, and the law of what it passes on in one step."""
    kind, matrix, slope = KINDS[layer.kind], layer.records["weight_hh"], 0.0
    powers = powers_of(matrix.law, _powers(place.steps)) if kind.gates == 1 else None
    plain = layer if powers is None else Layer(layer.kind, {**layer.records, "weight_hh": independent(matrix)})
    settled, rectified = trial.run(plain), layer.kind == "RNN_RELU"
    curve = settled.curve
    if curve is None:
        return None, settled.output
    if powers is not None:
        curve, slope = _with_powers(curve, powers, rectified=rectified)
    names = (matrix.name, *(r.name for name, r in layer.records.items() if name in ("bias_hh", "weight_hr")))
    left_out = starved(trial.flowed, place.nodes, curve.at(place.steps))
    recurrence = Recurrence(
        place.module, layer.kind, place.along, names, place.steps, curve, place.nodes, place.members, settled.keeps,
        kind.keeper is not None, False, rectified, layer, (), powers, slope, left_out, trial,
    )  # fmt: skip
    return recurrence, settled.output


def _powers(steps: int) -> int:
    return min(max(steps, _EXACT), _POWERS)


def _with_powers(curve: Curve, powers: Powers, *, rectified: bool) -> tuple[Curve, float]:
    """The growth that the matrix's own powers give, and what the activations take of it per step.

    Args:
        curve: with the law of independent entries in place of the matrix.
    """
    if rectified and powers.diagonal > 0.5:
        # Units that feed themselves (Le et al. 2015): one that is active stays so. Half of them, not a half anew at each step.
        return Curve(tuple(b - 0.5 * (k > 0) for k, b in enumerate(powers.bits))), 0.0
    bits = tuple(curve.at(k) + more for k, more in enumerate(powers.beyond_law))
    return Curve(bits), curve.per_step - powers.law


def _loops(flowed: Flowed) -> Iterator[Recurrence]:
    for cycle in find_bodies(flowed.traced.graph):
        members = [cycle.body.node(offset) for offset in cycle.offsets]
        if any(node.op == "call_module" for node in members):
            continue  # a module called step by step
        module = _common([step(node).module for node in members])
        along = "sequence" if cycle.sequence else "depth"
        nodes = tuple(node.name for node in cycle.instances(cycle.states[0]))
        every = tuple(node.name for offset in cycle.offsets for node in cycle.instances(offset))
        cell = _cell(flowed, cycle, module)
        if cell is not None:
            recurrence, _ = _of_cell(*cell, _Place(module, along, cycle.body.steps, nodes, every))
        else:
            recurrence = _of_loop(flowed, cycle, _Place(module, along, cycle.body.steps, nodes, every))
        if recurrence is not None:
            yield recurrence


def _of_loop(flowed: Flowed, cycle: Cycle, place: _Place) -> Recurrence | None:
    body, members = cycle.body, [cycle.body.node(offset) for offset in cycle.offsets]
    records = [flowed.traced.parameters[name] for name in cycle.shared if name in flowed.traced.parameters]
    records.sort(key=lambda record: -len(record.shape))
    matrices = [record for record in records if len(record.shape) > 1]
    bypass = bypassed(cycle, matrices)
    alone = matrices[0] if len(matrices) == 1 and not bypass else None
    powers = None if alone is None else powers_of(alone.law, _powers(body.steps))
    needed = set(cycle.offsets).union(*(nx.ancestors(body.template, offset) for offset in cycle.offsets))
    exact = place.along == "depth" and body.steps <= _EXACT and body.steps * len(needed) <= _LARGE
    instead = {} if alone is None or powers is None else {name: independent(alone) for name in alone.names}
    sketch = unrolled(cycle, flowed, body.steps if exact else length(len(needed)), instead)
    bits = () if sketch is None else measured(sketch.flow(sketch.states[-1]), sketch.states)
    if len(bits) < FEWEST:
        return None
    curve, slope = Curve(bits), 0.0
    rectified = {op_name(node) for node in members} & _ACTIVATIONS == {"relu"}
    if powers is not None:
        curve, slope = _with_powers(curve, powers, rectified=rectified)
    names = tuple(record.name for record in records)
    left_out = starved(flowed, place.nodes, curve.at(place.steps))
    return Recurrence(
        place.module, "loop", place.along, names, place.steps, curve, place.nodes, place.members, kept_share(flowed, cycle),
        bypass, not matrices, rectified, None, cycle.untied, powers, slope, left_out,
    )  # fmt: skip


_ACTIVATIONS = {"relu", "tanh", "sigmoid", "gelu", "silu", "softmax", "elu", "selu", "leaky_relu", "softplus", "hardtanh", "exp"}


def _cell(flowed: Flowed, cycle: Cycle, module: str) -> tuple[Trial, Layer] | None:
    """The layer, where the loop steps one of torch's cells and nothing else feeds back."""
    record = flowed.traced.modules.get(module)
    kind = None if record is None else record.type.removesuffix("Cell")
    if record is None or kind not in ("RNN", "LSTM", "GRU"):
        return None
    if kind == "RNN":
        kind = f"RNN_{str(flowed.traced.model.get_submodule(module).nonlinearity).upper()}"
    layer = _layer(flowed, kind, f"{module}.", "" if record.type.endswith("Cell") else "_l0")
    for offset in range(cycle.body.period):
        inputs = cycle.body.node(offset).all_input_nodes
        if any(n.op == "get_attr" and str(n.target) == layer.records["weight_ih"].name for n in inputs):
            fed = flowed.forward.get(inputs[0].name)
            if isinstance(fed, Moments) and len(fed.dims) == 2:
                return Trial(flowed, fed), layer
    return None


def _common(paths: list[str]) -> str:
    """The module around all of these."""
    shared = [parts[0] for parts in zip(*(path.split(".") for path in paths), strict=False) if len(set(parts)) == 1]
    return ".".join(shared)
