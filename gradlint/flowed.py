"""What the interpreter found: moments in both directions on every node of a traced model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradlint.handwritten import Norm
from gradlint.moments import Array, Moments, energy
from gradlint.recognise import Grid
from gradlint.trace.graph import Traced
from gradlint.unknown import Unknown

__all__ = ["Edge", "Flowed"]


@dataclass(frozen=True)
class Edge:
    """Gradient energy (sum of squares over entries) that a consumer's gradient sends to one of its inputs.

    Args:
        consumer: node name.
        producer: node name of the input; for a recurrent leaf's parameter, the parameter's name.
        energy: of the gradient that arrives, over ``4^unit``.
        unit: of the consumer's gradient.
    """

    consumer: str
    producer: str
    energy: float
    unit: int


@dataclass(frozen=True)
class Units:
    """Powers of two that gradients are kept in (:mod:`gradlint.gathered`), by node and by parameter name; 0 for most."""

    backward: Mapping[str, int]
    parameters: Mapping[str, int]


@dataclass(frozen=True)
class Flowed:
    """Moments on every node of a traced model.

    Args:
        forward: node name to the moments of its output (a tuple for ops that return one, None where unknown).
        backward: node name to the moments of its gradient, over ``2^unit``; absent where no gradient arrives.
        parameters: parameter name to the moments of its gradient, likewise.
        units: their units.
        edges: how the gradient energy got there.
        how: node name to ``known``, ``sampled`` or ``opaque``.
        notes: assumptions made on the way.
        unknown: nodes and parameters whose gradient is unknown; they are in neither ``backward`` nor ``parameters``.
        grids: name of every member of an elementwise cone to the cone's values on the grid of its root.
        norms: name of every node that ends a norm written by hand to that norm.
        trails: name of a recurrent module's node to the gradient at its input step by step: log2 of root mean squares.
    """

    traced: Traced
    forward: Mapping[str, Any]
    backward: Mapping[str, Moments]
    parameters: Mapping[str, Moments]
    units: Units
    edges: tuple[Edge, ...]
    how: Mapping[str, str]
    notes: tuple[str, ...]
    unknown: Unknown
    grids: Mapping[str, Grid]
    norms: Mapping[str, Norm]
    trails: Mapping[str, Array]

    def energy(self, node: str, unit: int = 0) -> float:
        """Sum of squares over the gradient at a node, over ``4^unit``."""
        return _in(energy(self.backward.get(node)), 2 * (self.units.backward.get(node, 0) - unit))

    def arrived(self, edge: Edge, unit: int = 0) -> float:
        """What arrives by an edge, over ``4^unit``."""
        return _in(edge.energy, 2 * (edge.unit - unit))

    def log2_energy(self, node: str) -> float | None:
        """Binary logarithm of :meth:`energy`; None where there is none."""
        found = energy(self.backward.get(node))
        return math.log2(found) + 2 * self.units.backward[node] if found > 0 else None

    def rms(self, name: str, *, parameter: bool = False) -> float | None:
        """Root mean square of the gradient at a node or of a parameter, zero where it is too small for a float; None without."""
        grads, units = (self.parameters, self.units.parameters) if parameter else (self.backward, self.units.backward)
        return _in(grads[name].rms, units[name]) if name in grads else None


def _in(x: float, shift: int) -> float:
    try:
        return math.ldexp(x, shift)
    except OverflowError:
        return math.inf
