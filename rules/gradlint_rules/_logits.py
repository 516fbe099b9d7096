"""What the rules about logits share: the loss that they start with."""

from __future__ import annotations

import math

__all__ = ["initial_loss"]


def initial_loss(rms: float, classes: int) -> float:
    """Mean cross-entropy in nats of independent normal logits, their targets drawn evenly.

    ``ln C + v/2`` while ``v < 2 ln C`` and ``√(2 v ln C)`` beyond, v the variance (the random energy model, Derrida 1981).
    """
    v, even = rms**2, math.log(classes)
    return even + v / 2 if v < 2 * even else math.sqrt(2 * v * even)
