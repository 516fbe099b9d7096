"""What is reported of a recurrence: growth per step, and what it comes to. Frozen, JSON-able, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradlint.comparison import significant

__all__ = ["RecurrenceFacts"]


@dataclass(frozen=True)
class RecurrenceFacts:
    """One recurrence at the number of steps it is judged for.

    Args:
        module: dotted path; ``""`` is the model.
        cell: ``RNN_TANH``, ``RNN_RELU``, ``LSTM``, ``GRU``, or ``loop`` for anything else.
        along: ``sequence`` or ``depth``.
        parameters: used at every step, the recurrent matrix first.
        where: the line that made the weights, as ``path:line:column``; empty where unknown.
        steps: as configured or traced.
        log2_per_step: bits of gradient norm per step back, once it has settled.
        log2: over all steps.
        transient: the most by which it rises above its settled line, in bits.
        half_life: steps in which half of the gradient is lost; None where it is not lost.
    """

    module: str
    cell: str
    along: str
    parameters: tuple[str, ...]
    where: str
    steps: int
    log2_per_step: float
    log2: float
    transient: float
    half_life: float | None

    def to_dict(self) -> dict[str, Any]:
        """The recurrence as the JSON report shows it."""
        return {
            "module": self.module,
            "cell": self.cell,
            "along": self.along,
            "parameters": list(self.parameters),
            "where": self.where,
            "steps": self.steps,
            "log2_per_step": significant(self.log2_per_step),
            "log2": significant(self.log2),
            "transient": significant(self.transient),
            "half_life": significant(self.half_life),
        }
