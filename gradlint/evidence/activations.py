"""How the nonlinearities behave on the values that they really see: how much is flat, which units are off, how steep it gets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import fx

from gradlint.evidence.calls import Op, Ops
from gradlint.flowed import Flowed
from gradlint.moments import GRID, Array, Moments

__all__ = ["Activation", "find_activations"]

BOUNDED = frozenset(
    {"tanh", "sigmoid", "expit", "hardtanh", "hardsigmoid", "softsign", "erf", "relu6", "atan", "arctan", "clamp"}
)
RECTIFIED = frozenset({"relu", "relu6", "threshold", "clamp_min"})
GROWING = frozenset({"exp", "exp2", "expm1", "square", "pow", "sinh", "cosh", "mul"})

_FLAT = 0.02
_NEVER = 4.0  # standard deviations: one value in 30,000 lies beyond


@dataclass(frozen=True)
class Activation:
    """One nonlinearity on its inputs.

    Args:
        call: of it.
        slope: ``√E φ'²``.
        rms: root mean square of its input.
        flat: share of the entries where the slope is below 2 % of the largest.
        off: share of the units that are flat for every input: what varies from input to input never takes them out of it.
        grows: faster than its input.
        bounded: it has flat parts on both sides.
    """

    call: Op
    slope: float
    rms: float
    flat: float
    off: float
    grows: bool
    bounded: bool


def find_activations(flowed: Flowed, ops: Ops) -> tuple[Activation, ...]:
    """Every bounded, rectified or fast-growing function of one tensor whose gradient is followed, in order of execution."""
    return tuple(_all(flowed, ops))


def _all(flowed: Flowed, ops: Ops) -> Iterator[Activation]:
    for node in flowed.traced.graph.nodes:
        call = ops.calls.get(node.name)
        if call is None or call.op not in BOUNDED | RECTIFIED | GROWING or node.name not in flowed.backward:
            continue
        if call.op == "clamp" and (call.argument(1, "min") is None or call.argument(2, "max") is None):
            continue
        found = _measured(flowed, ops, node, call)
        if found is not None:
            yield found


def _measured(flowed: Flowed, ops: Ops, node: fx.Node, call: Op) -> Activation | None:
    """The nonlinearity as a function of its own input, whatever the cone it is part of is a function of."""
    source = call.inputs[0].node if call.inputs else ""
    law, grid = flowed.forward.get(source), flowed.grids.get(node.name)
    if grid is None or not isinstance(law, Moments) or law.var <= 0 or len(call.shape) < 2:
        return None
    output, whole = grid.curve(node)
    inner = np.ones(len(whole)) if grid.root.name == source else grid.curve(_named(node, source))[1]
    values = grid.curve(_named(node, source))[0] if grid.root.name != source else law.on_grid()
    if len(whole) != len(GRID.weights) or len(values) != len(GRID.weights):
        return None
    steep = np.abs(np.divide(whole, inner, out=np.zeros_like(whole), where=np.abs(inner) > 0))
    weights = np.where(np.abs(inner) > 0, GRID.weights, 0.0)
    if weights.sum() < 0.5:
        return None
    weights = weights / weights.sum()
    top = float(steep.max())
    if top <= 0:
        return None
    flat = float(weights[steep < _FLAT * top].sum())
    off = _off(law, ops, call) if call.op in RECTIFIED else 0.0
    grows = call.op in GROWING and _superlinear(call, values, output)
    return Activation(call, math.sqrt(float(weights @ steep**2)), law.rms, flat, off, grows, call.op in BOUNDED)


def _named(node: fx.Node, name: str) -> fx.Node:
    return next(n for n in node.all_input_nodes if n.name == name)


def _superlinear(call: Op, values: Array, output: Array) -> bool:
    """A product with itself, a power above one, an exponential."""
    if call.op == "mul":
        squares = values**2
        scale = float(np.abs(squares).max())
        return len(call.inputs) == 2 and call.inputs[0] == call.inputs[1] and bool(np.abs(output - squares).max() <= 1e-6 * scale)
    if call.op == "pow":
        exponent = call.argument(1, "exponent")
        return isinstance(exponent, int | float) and exponent > 1
    return True


def _off(law: Moments, ops: Ops, call: Op) -> float:
    """Share of units whose inputs are all negative: their mean lies below zero by more than inputs make them vary."""
    axis = 1 if len(call.shape) >= 3 and _convolved(ops, call) else len(call.shape) - 1
    own = set(law.atoms(axis))
    if not own:
        return 0.0
    unit = float(law.v[tuple(int(a in own) for a in range(law.v.ndim))])
    unit = max(unit, 0.0)
    inside = math.sqrt(max(law.var - unit, 0.0))
    if inside <= 1e-6 * law.rms:  # it hears of no input, such as the first state of a recurrence
        return 0.0
    edge = -_NEVER * inside - law.mean
    if unit <= 1e-12 * max(law.var, 1e-300):
        return float(edge > 0)
    return 0.5 * math.erfc(-edge / math.sqrt(2 * unit))


def _convolved(ops: Ops, call: Op) -> bool:
    """It follows a convolution, be it behind a norm: units are channels."""
    near = ops.ancestors(call.name, lambda c: c.op.startswith("conv") or c.op in ("linear", "matmul"))
    return any(c.op.startswith("conv") for c in near)
