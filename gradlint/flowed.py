"""What the interpreter found: moments in both directions on every node of a traced model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradlint.handwritten import Norm
from gradlint.moments import Moments
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
        energy: of the gradient that arrives.
        source: energy of the consumer's own gradient.
    """

    consumer: str
    producer: str
    energy: float
    source: float


@dataclass(frozen=True)
class Flowed:
    """Moments on every node of a traced model.

    Args:
        forward: node name to the moments of its output (a tuple for ops that return one, None where unknown).
        backward: node name to the moments of its gradient; absent where no gradient arrives.
        parameters: parameter name to the moments of its gradient.
        edges: how the gradient energy got there.
        how: node name to ``known``, ``sampled`` or ``opaque``.
        notes: assumptions made on the way.
        unknown: nodes and parameters whose gradient is unknown; they are in neither ``backward`` nor ``parameters``.
        grids: name of every member of an elementwise cone to the cone's values on the grid of its root.
        norms: name of every node that ends a norm written by hand to that norm.
    """

    traced: Traced
    forward: Mapping[str, Any]
    backward: Mapping[str, Moments]
    parameters: Mapping[str, Moments]
    edges: tuple[Edge, ...]
    how: Mapping[str, str]
    notes: tuple[str, ...]
    unknown: Unknown
    grids: Mapping[str, Grid]
    norms: Mapping[str, Norm]
