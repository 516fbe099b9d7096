"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: layers and directions of :mod:`gradlint.twotime`.

One weight acts at every step. For a vanilla RNN that does not matter to leading order (Pascanu et al. 2013; Chen, Pennington &
Schoenholz 2018, arXiv:1806.05394); a gated cell has a diagonal path along which it does: the gradient grows by ``a + g`` per
step, not by ``√(a² + g²)``, and successive steps have a share of it in common, which a sum over time feels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gradlint.moments import Array, Moments, alike, concat, join, piece, total
from gradlint.ops.packed import lengths_of, over, rows_of
from gradlint.ops.registry import Call, Flow, Returned, transfer
from gradlint.ops.simulated import Simulated, is_drawn
from gradlint.ops.steps import law_of, law_of_step, rows_of_gate, step_of, table_of
from gradlint.twotime import CELLS, Backward, Drive, Forward, Masked, Mirrored, Mixed, Seeds, Table, backward, forward, in_unit

__all__: list[str] = []

_CLASSES = (np.array([-(3**0.5), 0.0, 3**0.5]), np.array([1, 4, 1]) / 6)
"""Units that differ in the bias of the gate that carries the memory: nodes and weights of Gauss and Hermite, third order."""


class _Weights:
    """The parameters of one direction of one layer, and what their laws say of its cell."""

    def __init__(self, call: Call, layer: int, direction: int) -> None:
        options = call.options
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        self.kind = CELLS[str(options["mode"])]
        self.units, self.shown = int(options["hidden_size"]), int(options["proj_size"] or options["hidden_size"])
        self._given = call.parameters
        self._names = [f"{kind}_{side}{suffix}" for kind in ("weight", "bias") for side in ("ih", "hh")]
        self._projection = call.parameters.get(f"weight_hr{suffix}")
        self.gates = call.parameters[self._names[0]].shape[0] // self.units
        rows = [self._rows(name) for name in self._names]
        self.drives = [_drive(*(side[k] for side in rows)) for k in range(self.gates)]
        spread = sum(self.drives[self.kind.carrier].var) ** 0.5 if self.kind.carrier is not None else 0.0
        self.offsets, self.shares = (_CLASSES[0] * spread, _CLASSES[1]) if spread > 0 else (np.zeros(1), np.ones(1))

    def _rows(self, name: str) -> list[Moments | None]:
        whole = self._given.get(name)
        return [None if whole is None else rows_of_gate(whole, k, self.gates) for k in range(self.gates)]

    def run(self, x: Table, initial: tuple[Array, Array]) -> Forward:
        """Forward through the layer."""
        s = 0.0 if self._projection is None else self._projection.q
        projected = (1.0, 1.0) if self._projection is None else (self.units * s, self.shown * s)
        return forward(lambda n: self.kind(self.drives, self.offsets, self.shares, n, initial, projected), x)

    def gradients(self, found: Backward) -> dict[Moments, tuple[Moments, int]]:
        """Laws of the parameters' gradients, and their units."""
        out, (numbers, unit) = {}, (found.weights.numbers, found.weights.unit)
        for side, name in enumerate(self._names):
            if (whole := self._given.get(name)) is not None:
                shape = (self.units, *whole.shape[1:])
                each = numbers[side * self.gates : (side + 1) * self.gates]
                out[whole] = concat([Moments.iid(shape, 0.0, float(q)) for q in each], 0), unit
        if self._projection is not None:
            out[self._projection] = Moments.iid(self._projection.shape, 0.0, float(numbers[-1])), unit
        return out


def _drive(w: Moments | None, u: Moments | None, b: Moments | None, c: Moments | None) -> Drive:
    """Of one gate, from its rows of ``weight_ih``, ``weight_hh`` and the biases."""
    assert w is not None  # noqa: S101  (torch has both matrices)
    assert u is not None  # noqa: S101
    (units, inputs), states = w.shape, u.shape[1]
    mean = tuple(0.0 if x is None else x.mean for x in (b, c))
    var = tuple(0.0 if x is None else x.var for x in (b, c))
    return Drive(inputs * w.q, states * u.q, units * w.q, units * u.q, (mean[0], mean[1]), (var[0], var[1]))


@dataclass(frozen=True)
class _Pass:
    weights: _Weights
    forward: Forward

    @property
    def hidden(self) -> Table:
        """Pair moments of the output."""
        return Mixed([(self.forward.cell.projected[0], self.forward.hidden)])


class _Stack:
    """All layers and directions, on an input (steps, batch, features)."""

    def __init__(self, call: Call, x: Moments, initial: tuple[Moments | None, ...]) -> None:
        options = call.options
        self.steps, self.batch, _ = x.shape
        self.directions, self.layers = 2 if options["bidirectional"] else 1, int(options["num_layers"])
        dropped = float(options["dropout"]) if options["training"] else 0.0
        self.power = 1 / (1 - dropped) if dropped < 1 else 0.0
        self.input, self.initial, self.passes = x, initial, list[list[_Pass]]()
        table = table_of(x)
        for layer in range(self.layers):
            row = []
            for direction in range(self.directions):
                weights = _Weights(call, layer, direction)
                start = [self._start(state, layer * self.directions + direction) for state in initial]
                begun = (start[0], start[-1])
                row.append(_Pass(weights, weights.run(Mirrored(table) if direction else table, begun)))
            self.passes.append(row)
            table = Mixed([(1 / self.directions, t) for t in self._both([p.hidden for p in row])])
            if layer < self.layers - 1 and self.power != 1:
                table = Masked(table, self.power)
        self.table = table

    def _both(self, tables: list[Any]) -> list[Table]:
        """Of both directions, in the order of time."""
        return [Mirrored(table) if direction else table for direction, table in enumerate(tables)]

    def _start(self, state: Moments | None, index: int) -> Array:
        return np.zeros(2) if state is None else step_of(piece(state, 0, index, index + 1))

    def out(self) -> tuple[Moments, ...]:
        """The laws of the output and of the last states."""
        last = self.passes[-1]
        means = [_means(p.forward, self.steps) for p in last]
        mean = np.mean([m[::-1] if direction else m for direction, m in enumerate(means)], 0)
        shown = last[0].weights.shown
        law, _ = law_of(self.table, (self.steps, self.batch, shown * self.directions), mean)
        flat = [p for row in self.passes for p in row]
        ends = [[p.hidden.ahead(self.steps - 1, 1)[0][:, 0] for p in flat], [p.forward.last_memory for p in flat]]
        sizes = [shown, last[0].weights.units]
        return law, *(_joined([law_of_step(e, (self.batch, n)) for e in end]) for end, n in zip(ends, sizes, strict=True))

    def back(self, g: tuple[Any, ...]) -> Returned:
        """Gradients of everything, from those of the output and of the last states."""
        out, last = None if g[0] is None else table_of(g[0]), g[1:]
        grads = Returned()
        begun: dict[int, Backward] = {}
        for layer in reversed(range(self.layers)):
            below = []
            for direction, p in enumerate(self.passes[layer]):
                index = layer * self.directions + direction
                ends = [self._start(state, index) for state in (*last, None)]
                output = Mirrored(out) if direction and out is not None else out
                found = backward(p.forward, Seeds(output, ends[0], ends[1] if len(last) > 1 else np.zeros(2)), self.batch)
                for parameter, (law, unit) in p.weights.gradients(found).items():
                    grads.put(parameter, law, unit)
                begun[index] = found
                below.append(found.x)
            out = Mixed([(1.0, table) for table in self._both(below)])
            if layer and self.power != 1:
                out = Masked(out, self.power)
        assert out is not None  # noqa: S101  (a network has a layer)
        law, unit = law_of(out, (self.steps, self.batch, self.input.shape[2]))
        grads.put(self.input, law, unit)
        grads.trail = out.log2
        for k, state in enumerate(self.initial):
            if state is not None:
                sums = [begun[i].memory if k else begun[i].state for i in range(len(begun))]
                unit = max(s.unit for s in sums)
                laws = [law_of_step(in_unit((s.numbers, s.unit), unit), (self.batch, state.shape[2])) for s in sums]
                grads.put(state, concat(laws, 0), unit)
        return grads


def _joined(laws: list[Moments]) -> Moments:
    return concat(laws, 0) if alike(laws, 0) else join(laws, 0)


def _means(fw: Forward, steps: int) -> Array:
    return fw.means[np.minimum(np.arange(steps), len(fw.means) - 1)] * (fw.cell.projected == (1.0, 1.0))


def _turned(x: Moments, order: list[str]) -> Moments:
    """A tensor, or its gradient, with the axes that PyTorch has, as (steps, batch, features)."""
    if "batch" not in order:
        return x.reshape((x.shape[0], 1, x.shape[1]))
    return x.transpose(0, 1) if order[0] == "batch" else x


def _back_turned(x: Moments, order: list[str]) -> Moments:
    if "batch" not in order:
        return x.reshape((x.shape[0], x.shape[2]))
    return x.transpose(0, 1) if order[0] == "batch" else x


def _recurrent(call: Call, x: Any, initial: tuple[Moments | None, ...]) -> Flow:
    if isinstance(x, tuple):
        return _of_packed(call, x, initial)
    if len(x.dims) == 2:
        order, states = ["steps", "features"], ["layers", "features"]
    else:
        order = ["batch", "steps", "features"] if call.options["batch_first"] else ["steps", "batch", "features"]
        states = ["layers", "batch", "features"]
    starts = tuple(None if s is None else _turned(s, states) for s in initial)
    source = _turned(x, order).twin()
    stack = _Stack(call, source, starts) if is_drawn(call) else Simulated(call, source, starts)
    out, *last = stack.out()

    def back(g: tuple[Any, ...]) -> Returned:
        members = [None if m is None else _turned(m, order if not i else states) for i, m in enumerate(g)]
        grads = stack.back(tuple(members))
        grads.move(source, x, lambda m: _back_turned(m, order))
        for own, given in zip(starts, initial, strict=True):
            if own is not None and given is not None:
                grads.move(own, given, lambda m: _back_turned(m, states))
        return grads

    last = last[: len(initial)]
    return _shaped(Flow((_back_turned(out, order), *(_back_turned(s, states) for s in last)), back))


_GROUPS = 4
"""Samples of a packed batch are put into so many groups of one length."""


def _of_packed(call: Call, packed: tuple[Any, ...], initial: tuple[Moments | None, ...]) -> Flow:
    """A packed sequence: samples of (nearly) one length at a time."""
    data, lengths = packed[0], lengths_of(packed[1])
    groups = np.array_split(lengths, min(_GROUPS, len(set(lengths.tolist()))))
    shares = [float(group.sum()) / data.shape[0] for group in groups]
    stacks: list[_Stack | Simulated] = []
    for group in groups:
        x = over(data, (max(round(float(group.mean())), 1), len(group), data.shape[1]))
        starts = tuple(None if s is None else s.resize(1, len(group)) for s in initial)
        stacks.append((_Stack if is_drawn(call) else Simulated)(call, x, starts))
    outs = [stack.out() for stack in stacks]
    out = rows_of([o[0] for o in outs], shares, data.shape[0])
    last = [concat([o[i] for o in outs], 1) for i in range(1, 1 + len(initial))]

    def back(g: tuple[Any, ...]) -> Returned:
        shown = g[0][0] if isinstance(g[0], tuple) else None
        found = []
        for stack, group in zip(stacks, groups, strict=True):
            arriving = None if shown is None else over(shown, (*stack.input.shape[:2], shown.shape[1]))
            found.append(stack.back((arriving, *(None if s is None else s.resize(1, len(group)) for s in g[1:]))))
        grads = Returned()
        grads.trail = found[0].trail  # samples are sorted by length, the longest first
        grads.put(data, rows_of([f.near(s.input) for f, s in zip(found, stacks, strict=True)], shares, data.shape[0]), 0)
        for k, state in enumerate(initial):
            if state is not None:
                parts = [f.near(start) for f, s in zip(found, stacks, strict=True) if (start := s.initial[k]) is not None]
                grads.put(state, concat(parts, 1), 0)
        for parameter in call.parameters.values():
            grads.put(parameter, total([f.near(parameter) for f in found]), 0)
        return grads

    return _shaped(Flow(((out, *packed[1:]), *last), back))


def _shaped(flow: Flow) -> Flow:
    """``(output, state)`` as the module returns it: an LSTM's state is itself a pair."""
    if len(flow.out) == 2:
        return flow
    out, *states = flow.out

    def back(g: tuple[Any, Any]) -> Mapping[Moments, Moments]:
        inner = g[1] if isinstance(g[1], tuple) else (None,) * len(states)
        return flow.back((g[0], *inner))

    return Flow((out, tuple(states)), back)


@transfer(nn.RNN)
def rnn(call: Call, input: Moments, hx: Moments | None = None) -> Flow:
    """``h = φ(W x + b + U h + b')``: per step ``χ = H s² Eφ'²``."""
    return _recurrent(call, input, (hx,))


@transfer(nn.LSTM)
def lstm(call: Call, input: Moments, hx: Any = None) -> Flow:
    """Hochreiter & Schmidhuber 1997, PyTorch's gate order i, f, g, o."""
    if isinstance(hx, Moments):  # one tensor that holds both states
        hx = (hx.resize(0, 1).reshape(hx.shape[1:]), hx.resize(0, 1).reshape(hx.shape[1:]))
    return _recurrent(call, input, (None, None) if hx is None else tuple(hx))


@transfer(nn.GRU)
def gru(call: Call, input: Moments, hx: Moments | None = None) -> Flow:
    """Cho et al. 2014, PyTorch's gate order r, z, n."""
    return _recurrent(call, input, (hx,))
