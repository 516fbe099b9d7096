"""The cells of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``, written out gate by gate from the laws of a layer's weights.

Each gate has the law of its own rows: a forget gate whose bias was set apart is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx
from torch.nn import functional

from gradlint.moments import Moments
from gradlint.recurrence.matrix import values_of
from gradlint.recurrence.unroll import Sketch
from gradlint.trace.graph import ParameterRecord

__all__ = ["KINDS", "Cell", "Layer", "default_layer"]


@dataclass(frozen=True)
class Layer:
    """One direction of one recurrent layer.

    Args:
        kind: a key of :data:`KINDS`.
        records: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, ``weight_hr``, as far as there are such.
    """

    kind: str
    records: Mapping[str, ParameterRecord]

    @property
    def hidden(self) -> int:
        """Features of the cell."""
        return self.records["weight_hh"].shape[0] // KINDS[self.kind].gates

    @property
    def out(self) -> int:
        """Features of the state that the next layer reads: fewer where the cell projects it."""
        return self.records["weight_hr"].shape[0] if "weight_hr" in self.records else self.hidden

    def rows(self, name: str, gate: int) -> ParameterRecord:
        """The part of a parameter that one gate has: of real values its own rows, else the common law."""
        record = self.records[name]
        law, size = record.law, record.shape[0] // KINDS[self.kind].gates
        known = values_of(law)
        if known is None:
            moments = law.moments.resize(0, size)
        else:
            values = np.asarray(known, dtype=np.float64)[gate * size : (gate + 1) * size]
            moments = Moments.of_sample(values)
            if values.std() == 0:
                moments = Moments.iid(values.shape, float(values.flat[0]), 0.0)
        label = f"{record.name}[{gate}]"
        law = replace(law, mean=moments.mean, std=moments.var**0.5, moments=replace(moments, value=None))
        return replace(record, names=(label,), shape=(size, *record.shape[1:]), law=law, drawn_with=label)


class Cell:
    """Steps of one layer in a sketch; ``states`` holds the state after each that a gate keeps, or the only one.

    Args:
        state: its law before the first step; zero if None.
    """

    def __init__(self, sketch: Sketch, layer: Layer, batch: int, state: Moments | None = None) -> None:
        self.sketch, self.layer = sketch, layer
        self.shape = (batch, layer.hidden)
        self.states: list[str] = []
        self.gate: fx.Node | None = None
        first = sketch.leaf(Moments.zeros(self.shape) if state is None else state)
        two = KINDS[layer.kind].gates == 4  # a hidden state beside the one that is kept
        self.hidden = sketch.leaf(Moments.zeros((batch, layer.out))) if two else first
        self.cell = first

    def step(self, x: fx.Node) -> fx.Node:
        """One step; the output."""
        kind = KINDS[self.layer.kind]
        self.hidden, self.cell, self.gate = kind.step(self, x)
        self.states.append((self.cell if kind.gates == 4 else self.hidden).name)
        return self.hidden

    def linear(self, x: fx.Node, side: str, gate: int) -> fx.Node:
        """``W x + b`` of one gate from one side, ``ih`` or ``hh``."""
        names = [n for n in (f"weight_{side}", f"bias_{side}") if n in self.layer.records]
        records = [self.sketch.parameter(self.layer.rows(name, gate)) for name in names]
        return self.sketch.call(functional.linear, x, *records, shape=self.shape)

    def driven(self, x: fx.Node, gate: int) -> fx.Node:
        """What goes into a gate."""
        return self.of("add", self.linear(x, "ih", gate), self.linear(self.hidden, "hh", gate))

    def of(self, method: str, *args: fx.Node) -> fx.Node:
        """An op from states to a state."""
        return self.sketch.call(method, *args, op="call_method", shape=self.shape)


_Stepped = tuple[fx.Node, fx.Node, fx.Node | None]


def _tanh(cell: Cell, x: fx.Node) -> _Stepped:
    return cell.of("tanh", cell.driven(x, 0)), cell.cell, None


def _relu(cell: Cell, x: fx.Node) -> _Stepped:
    return cell.sketch.call(torch.relu, cell.driven(x, 0), shape=cell.shape), cell.cell, None


def _lstm(cell: Cell, x: fx.Node) -> _Stepped:
    i, f, g, o = (cell.driven(x, gate) for gate in range(4))
    i, f, g, o = cell.of("sigmoid", i), cell.of("sigmoid", f), cell.of("tanh", g), cell.of("sigmoid", o)
    c = cell.of("add", cell.of("mul", f, cell.cell), cell.of("mul", i, g))
    h = cell.of("mul", o, cell.of("tanh", c))
    if "weight_hr" in cell.layer.records:
        record = cell.sketch.parameter(cell.layer.records["weight_hr"])
        h = cell.sketch.call(functional.linear, h, record, shape=(cell.shape[0], cell.layer.out))
    return h, c, f


def _gru(cell: Cell, x: fx.Node) -> _Stepped:
    r, z = (cell.of("sigmoid", cell.driven(x, gate)) for gate in (0, 1))
    n = cell.of("tanh", cell.of("add", cell.linear(x, "ih", 2), cell.of("mul", r, cell.linear(cell.hidden, "hh", 2))))
    rest = cell.sketch.call(torch.rsub, z, 1, shape=cell.shape)
    return cell.of("add", cell.of("mul", rest, n), cell.of("mul", z, cell.hidden)), cell.cell, z


@dataclass(frozen=True)
class _Kind:
    """A cell: its gates, the number of the one that keeps the state (None: there is none), and one step."""

    gates: int
    keeper: int | None
    step: Callable[[Cell, fx.Node], _Stepped]


KINDS: Mapping[str, _Kind] = {
    "RNN_TANH": _Kind(1, None, _tanh),
    "RNN_RELU": _Kind(1, None, _relu),
    "LSTM": _Kind(4, 1, _lstm),
    "GRU": _Kind(3, 1, _gru),
}


def default_layer(kind: str, layer: Layer, *, keeps: float = 0.0) -> Layer:
    """What torch makes in place of ``layer``: uniform weights of bound 1/√H (``nn.RNNBase.reset_parameters``).

    Args:
        keeps: bias added to the gate that keeps the state.
    """
    gates, hidden, inputs = KINDS[kind].gates, layer.hidden, layer.records["weight_ih"].shape[1]
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates * hidden, inputs), "weight_hh": (gates * hidden, hidden)}
    shapes |= {name: (gates * hidden,) for name in ("bias_ih", "bias_hh") if name in layer.records or keeps}
    out = {}
    for name, shape in shapes.items():
        like = layer.records.get(name, layer.records["weight_hh"])
        law = replace(
            like.law, kind="uniform", mean=0.0, std=(3 * hidden) ** -0.5, moments=Moments.iid(shape, 0.0, 1 / (3 * hidden))
        )
        out[name] = replace(like, names=(f"{kind}.{name}",), shape=shape, law=law, drawn_with=f"{kind}.{name}")
    return Kept(kind, out, keeps) if keeps else Layer(kind, out)


@dataclass(frozen=True)
class Kept(Layer):
    """A layer with a bias added to the gate that keeps the state."""

    bias: float = 0.0

    def rows(self, name: str, gate: int) -> ParameterRecord:
        """See :class:`Layer`."""
        record = super().rows(name, gate)
        if name != "bias_hh" or gate != KINDS[self.kind].keeper:
            return record
        law = replace(record.law, mean=record.law.mean + self.bias, moments=record.law.moments.shift(self.bias))
        return replace(record, law=law)
