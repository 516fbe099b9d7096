"""Torch's recurrent layers on inputs of a law: what is in the model, and what could be in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.recurrence.cells import KINDS, Cell, Layer
from gradlint.recurrence.curve import Curve
from gradlint.recurrence.unroll import Sketch, measured

__all__ = ["FEWEST", "Settled", "Trial", "length"]

FEWEST = 4
"""Points of a curve."""
_NODES = 300  # of an unrolled graph: less than a second of work
_STEPS = (12, 32)
_UNSETTLED = 0.05  # share of its first state that a gate may still hold at the end


def length(nodes: int) -> int:
    """Steps worked out of a loop of so many nodes each; it does not depend on the trace."""
    return min(max(_NODES // nodes, _STEPS[0]), _STEPS[1])


class Settled(NamedTuple):
    """A layer after many steps.

    Args:
        curve: None where its gradient is unknown.
        keeps: mean of the gate that keeps the state; None without one.
        output: law of what it passes on in one step.
    """

    curve: Curve | None
    keeps: float | None
    output: Moments | None


@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs of a law, drawn anew at each step, for layers of torch's cells.

    Args:
        fed: the law of what a layer reads in one step.
    """

    flowed: Flowed
    fed: Moments

    def run(self, layer: Layer) -> Settled:
        """What becomes of a layer; one that takes more steps than are worked out to settle is started from where it settles."""
        found = self._started(layer, None)
        state = _settled(found)
        if state is not None:
            found = self._started(layer, state)
        output = found.law(found.cell.hidden.name)
        return Settled(Curve(found.bits) if len(found.bits) >= FEWEST else None, found.keeps, output)

    def _started(self, layer: Layer, state: Moments | None) -> _Run:
        sketch = Sketch(self.flowed.traced)
        cell = Cell(sketch, layer, self.fed.shape[0], state)
        for _ in range(length(6 * KINDS[layer.kind].gates)):
            cell.step(sketch.leaf(self.fed))
        return _Run(cell, sketch.flow(cell.states[-1]))


@dataclass(frozen=True, eq=False)
class _Run:
    cell: Cell
    flowed: Flowed

    @property
    def bits(self) -> tuple[float, ...]:
        return measured(self.flowed, self.cell.states)

    def law(self, node: str) -> Moments | None:
        found = self.flowed.forward.get(node)
        return found if isinstance(found, Moments) else None

    @property
    def keeps(self) -> float | None:
        gate = None if self.cell.gate is None else self.law(self.cell.gate.name)
        return None if gate is None else gate.mean


def _settled(found: _Run) -> Moments | None:
    """The state that a slow gate comes to rest in: the last one found, scaled; None where it has come to rest already.

    What the gate f integrates is constant in time (biases) or not, so ``q_k = A(1-fᵏ)² + B(1-f²ᵏ)``; A and B by least squares.
    """
    states = [found.law(name) for name in found.cell.states]
    last, keeps, steps = states[-1], found.keeps, len(states)
    if last is None or keeps is None or keeps**steps < _UNSETTLED or last.q <= 0:
        return None
    k = np.arange(1, steps + 1, dtype=float)
    table = np.stack([(1 - keeps**k) ** 2, 1 - keeps ** (2 * k)], 1)
    q = np.array([0.0 if state is None else state.q for state in states])
    coherent, random = np.linalg.lstsq(table, q, rcond=None)[0]
    rest = max(float(coherent), 0.0) + max(float(random), 0.0)
    return last.scale(math.sqrt(max(rest / last.q, 1.0)))
