"""Torch's recurrent layers on inputs of a law: what is in the model, and what could be in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.recurrence.cells import KINDS, Cell, Layer
from gradlint.recurrence.curve import Curve
from gradlint.recurrence.unroll import Sketch, measured

__all__ = ["FEWEST", "Settled", "Trial", "length"]

FEWEST = 4
"""Points of a curve."""
_NODES = 400  # of an unrolled graph: about a second of work
_STEPS = (12, 32)


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
        """What becomes of a layer."""
        sketch = Sketch(self.flowed.traced)
        cell = Cell(sketch, layer, self.fed.shape[0])
        for _ in range(length(6 * KINDS[layer.kind].gates)):
            cell.step(sketch.leaf(self.fed))
        flowed = sketch.flow(cell.states[-1])
        bits = measured(flowed, cell.states)
        gate = None if cell.gate is None else flowed.forward.get(cell.gate.name)
        output = flowed.forward.get(cell.hidden.name)
        return Settled(
            Curve(bits) if len(bits) >= FEWEST else None,
            gate.mean if isinstance(gate, Moments) else None,
            output if isinstance(output, Moments) else None,
        )
