"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: one step's law, unrolled over time.

Successive steps are treated as if their weights were fresh, which is right to leading order for a vanilla RNN (Pascanu et al.
2013; Chen, Pennington & Schoenholz 2018, arXiv:1806.05394). A gated cell adds a diagonal path. Along it the gradients of
successive steps have a share in common, which the sum over the steps in a parameter's gradient feels; and there the reused weight
makes the growth coherent (``a + g`` per step, not ``√(a² + g²)``), so the gradient of the far past is underestimated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from gradlint.moments import Array, Moments, concat, piece, product, total
from gradlint.ops.primitives import Tape, affine, function, multiply, plus
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _sigmoid(u: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-u)))


def _gate(tape: Tape, x: Moments) -> Moments:
    return tape(function(x, _sigmoid, lambda u: _sigmoid(u) * (1 - _sigmoid(u))))


def _tanh(tape: Tape, x: Moments) -> Moments:
    return tape(function(x, np.tanh, lambda u: 1 - np.tanh(u) ** 2))


def _complement(tape: Tape, x: Moments) -> Moments:
    return tape(Flow(x.scale(-1).shift(1.0), lambda g: {x: g.scale(-1)}))


_CARRIED: dict[int, tuple[int, dict[int, int]]] = {4: (1, {1: 2, 2: 1}), 3: (1, {1: 2, 2: 1})}
"""By number of gates: the gate that carries the state, and for each gate that the state's gradient drives how many persistent
factors its gradient has (LSTM: forget gate, times the old cell; candidate. GRU: update gate, times the old state; candidate)."""


class _Weights:
    """The parameters of one direction of one layer, cut into gates; collects their gradients over the steps."""

    def __init__(self, parameters: dict[str, Moments], suffix: str, gates: int) -> None:
        self.gates = gates
        names = [f"{kind}_{side}{suffix}" for kind in ("weight", "bias") for side in ("ih", "hh")]
        self.whole = {name: parameters[name] for name in names if name in parameters}
        if f"weight_hr{suffix}" in parameters:
            raise NotImplementedError("an LSTM with projections")
        self.rows = {name: [_gate_rows(x, gate, gates) for gate in range(gates)] for name, x in self.whole.items()}
        self.suffix = suffix
        self.driven: dict[tuple[str, int], list[tuple[Moments, Moments]]] = {}

    def drive(self, tape: Tape, side: str, x: Moments, gate: int) -> Moments:
        """``W x + b`` of one gate from one side."""
        bias = self.rows.get(f"bias_{side}{self.suffix}")
        out = tape(affine(x, self.rows[f"weight_{side}{self.suffix}"][gate], None if bias is None else bias[gate]))
        self.driven.setdefault((side, gate), []).append((out, x))
        return out

    def gradients(self, grads: dict[Moments, Moments]) -> dict[Moments, Moments]:
        """Gate gradients put together per parameter, with what successive steps have in common."""
        out = {}
        for name, whole in self.whole.items():
            parts = [grads[row] if row in grads else Moments.zeros(row.shape) for row in self.rows[name]]
            shared = [self._shared(name, gate, grads) for gate in range(self.gates)]
            out[whole] = concat([p + Moments.iid(p.shape, 0.0, s) for p, s in zip(parts, shared, strict=True)], 0)
        return out

    def _shared(self, name: str, gate: int, grads: dict[Moments, Moments]) -> float:
        """Cross terms ``2 Σ_{t<t'} E[δ_t δ_t']`` of a parameter's gradient over the steps.

        The state's gradient keeps the share a per step (a: mean of the gate that carries the state), so a gate that it drives
        through factors of non-zero mean sees ``E[δ_t δ_t'] = a^{p(t'−t)} E[δ_t'²]``; p counts the persistent factors.
        """
        carrier, persistence = _CARRIED.get(self.gates, (0, {}))
        side = "ih" if "_ih" in name else "hh"
        if gate not in persistence or (name.startswith("weight") and side == "ih"):
            return 0.0
        keeps = self._mean_gate(carrier)
        weighted = name.startswith("weight")
        decay = keeps ** (persistence[gate] + weighted)
        total_, ahead = 0.0, 0.0
        for drive, x in reversed(self.driven[side, gate]):  # ahead = Σ_{t' > t} decay^{t'−t} E[δ_t'²]
            total_ += 2 * ahead * decay
            q = grads[drive].q * (x.q if weighted else 1.0) if drive in grads else 0.0
            ahead = ahead * decay + q
        return total_ * self.driven[side, gate][0][0].shape[0]

    def _mean_gate(self, gate: int) -> float:
        u = self.driven["ih", gate][-1][0] + self.driven["hh", gate][-1][0]
        return u.map(_sigmoid(u.on_grid())).mean


def _gate_rows(x: Moments, gate: int, gates: int) -> Moments:
    """The rows of one gate; from the real values where the gates were initialised apart."""
    if x.value is not None:
        size = x.shape[0] // gates
        return Moments.of_sample(x.value[gate * size : (gate + 1) * size])
    return x.resize(0, x.shape[0] // gates)


_Step = Callable[[Tape, _Weights, Moments, tuple[Moments, ...]], tuple[Moments, ...]]


def _rnn_step(slope: str) -> _Step:
    def step(tape: Tape, w: _Weights, x: Moments, state: tuple[Moments, ...]) -> tuple[Moments, ...]:
        u = tape(plus(w.drive(tape, "ih", x, 0), w.drive(tape, "hh", state[0], 0)))
        if slope == "relu":
            return (tape(function(u, lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float))),)
        return (_tanh(tape, u),)

    return step


def _lstm_step(tape: Tape, w: _Weights, x: Moments, state: tuple[Moments, ...]) -> tuple[Moments, ...]:
    h, c = state
    i, f, g, o = (tape(plus(w.drive(tape, "ih", x, k), w.drive(tape, "hh", h, k))) for k in range(4))
    i, f, g, o = _gate(tape, i), _gate(tape, f), _tanh(tape, g), _gate(tape, o)
    c = tape(plus(tape(multiply(f, c)), tape(multiply(i, g))))
    return tape(multiply(o, _tanh(tape, c))), c


def _gru_step(tape: Tape, w: _Weights, x: Moments, state: tuple[Moments, ...]) -> tuple[Moments, ...]:
    (h,) = state
    r = _gate(tape, tape(plus(w.drive(tape, "ih", x, 0), w.drive(tape, "hh", h, 0))))
    z = _gate(tape, tape(plus(w.drive(tape, "ih", x, 1), w.drive(tape, "hh", h, 1))))
    inner = tape(multiply(r, w.drive(tape, "hh", h, 2)))
    n = _tanh(tape, tape(plus(w.drive(tape, "ih", x, 2), inner)))
    return (tape(plus(tape(multiply(_complement(tape, z), n)), tape(multiply(z, h)))),)


def _unroll(call: Call, x: Moments, initial: tuple[Moments | None, ...], gates: int, step: _Step) -> Flow:  # noqa: PLR0915 (both directions in one body)
    """All layers and directions; the input is (time, batch, features) here."""
    options, given = call.options, dict(call.parameters)
    steps, batch, _ = x.shape
    hidden, directions = options["hidden_size"], 2 if options["bidirectional"] else 1
    passes: list[tuple[Tape, _Weights, list[Moments], list[tuple[Moments, ...]], tuple[Moments, ...]]] = []
    layer_input, finals = x, []
    masks: dict[int, Moments] = {}
    for layer in range(options["num_layers"]):
        outs = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            weights, tape = _Weights(given, suffix, gates), Tape()
            entry = layer_input.resize(0, 1).reshape(layer_input.shape[1:])
            state = tuple(
                Moments.zeros((batch, hidden)) if s is None else s.resize(0, 1).reshape((batch, hidden)) for s in initial
            )
            inputs, states, starts = [], [], state
            for _t in range(steps):
                moment = Moments(entry.dims, entry.mean, entry.v)
                state = step(tape, weights, moment, state)
                inputs.append(moment)
                states.append(state)
            passes.append((tape, weights, inputs, states, starts))
            outs.append(concat([s[0].reshape((1, batch, hidden)) for s in states], 0))
            finals.append(states[-1])
        layer_input = outs[0] if directions == 1 else concat(outs, 2)
        if options["dropout"] > 0 and options["training"] and layer < options["num_layers"] - 1:
            masks[layer] = Moments.iid(layer_input.shape, 1.0, options["dropout"] / (1 - options["dropout"]))
            layer_input = product(layer_input, masks[layer])
    state_outs = tuple(concat([f[i].reshape((1, batch, hidden)) for f in finals], 0) for i in range(len(initial)))

    def back(g: tuple[Any, ...]) -> dict[Moments, Moments]:
        out_grad, final_grads = g[0], g[1:]
        grads: dict[Moments, Moments] = {}
        begun: dict[int, list[Moments]] = {}
        for layer in reversed(range(options["num_layers"])):
            below: list[Moments] = []
            for direction in range(directions):
                index = layer * directions + direction
                tape, weights, inputs, states, starts = passes[index]
                seeds: dict[Moments, Moments] = {}
                for t in range(steps):
                    part = _at_step(out_grad, steps - 1 - t if direction else t, steps, hidden)
                    if part is not None:
                        seeds[states[t][0]] = part
                for i, final in enumerate(final_grads):
                    if final is not None:
                        own = final.resize(0, 1).reshape((batch, hidden))
                        last = states[-1][i]
                        seeds[last] = seeds[last] + own if last in seeds else own
                found = tape.back(seeds)
                grads.update(weights.gradients(found))
                begun[index] = [found.get(m, Moments.zeros(m.shape)) for m in starts]
                each = [found.get(m, Moments.zeros(m.shape)) for m in inputs]
                each = each[::-1] if direction else each
                below.append(concat([e.reshape((1, *e.shape)) for e in each], 0))
            out_grad = total(below)
            if layer - 1 in masks:
                out_grad = product(out_grad, masks[layer - 1])
        grads[x] = out_grad
        for i, s in enumerate(initial):
            if s is not None:
                grads[s] = concat([begun[p][i].reshape((1, batch, hidden)) for p in range(len(passes))], 0)
        return grads

    return Flow((layer_input, *state_outs), back)


def _at_step(g: Moments | None, t: int, steps: int, hidden: int) -> Moments | None:
    """The gradient at one time step."""
    if g is None:
        return None
    part = piece(g, 0, t, t + 1).reshape(g.shape[1:]).resize(1, hidden)
    return part if part.q > 0 else None


def _recurrent(call: Call, x: Moments, initial: tuple[Moments | None, ...], gates: int, step: _Step) -> Flow:
    if len(x.dims) != 3:
        raise NotImplementedError("an unbatched or packed sequence")
    if not call.options["batch_first"]:
        flow = _unroll(call, x, initial, gates, step)
        return _shaped(flow)
    turned = x.transpose(0, 1)
    flow = _unroll(call, turned, initial, gates, step)
    out = flow.out[0].transpose(0, 1)

    def back(g: tuple[Any, ...]) -> dict[Moments, Moments]:
        first = None if g[0] is None else g[0].transpose(0, 1)
        grads = dict(flow.back((first, *g[1:])))
        grads[x] = grads.pop(turned).transpose(0, 1)
        return grads

    return _shaped(Flow((out, *flow.out[1:]), back))


def _shaped(flow: Flow) -> Flow:
    """``(output, state)`` as the module returns it: an LSTM's state is itself a pair."""
    if len(flow.out) == 2:
        return flow
    out, *states = flow.out

    def back(g: tuple[Any, Any]) -> dict[Moments, Moments]:
        inner = g[1] if isinstance(g[1], tuple) else (None,) * len(states)
        return dict(flow.back((g[0], *inner)))

    return Flow((out, tuple(states)), back)


@transfer(nn.RNN)
def rnn(call: Call, input: Moments, hx: Moments | None = None) -> Flow:
    """``h = φ(W x + b + U h + b')``: per step ``χ = H s² Eφ'²``."""
    return _recurrent(call, input, (hx,), 1, _rnn_step(str(call.options["nonlinearity"])))


@transfer(nn.LSTM)
def lstm(call: Call, input: Moments, hx: Any = None) -> Flow:
    """Hochreiter & Schmidhuber 1997, PyTorch's gate order i, f, g, o."""
    if isinstance(hx, Moments):  # one tensor that holds both states
        hx = (hx.resize(0, 1).reshape(hx.shape[1:]), hx.resize(0, 1).reshape(hx.shape[1:]))
    return _recurrent(call, input, (None, None) if hx is None else tuple(hx), 4, _lstm_step)


@transfer(nn.GRU)
def gru(call: Call, input: Moments, hx: Moments | None = None) -> Flow:
    """Cho et al. 2014, PyTorch's gate order r, z, n."""
    return _recurrent(call, input, (hx,), 3, _gru_step)
