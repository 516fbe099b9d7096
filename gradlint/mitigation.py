"""What else helps against a gradient that grows or shrinks, each with its number: clipping, weight decay, a norm.

The fix of a finding removes the cause. These keep training going where the cause cannot be removed. Gradients are those of a loss
that is the mean over the model's outputs with unit derivative (mean squared error at a distance of one half, cross-entropy
within a factor of √C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gradlint.analysis import Analysis
from gradlint.recipe import Optimizer, Recipe
from gradlint.trace.graph import step
from gradlint.wording import times

__all__ = ["Mitigation", "Norm"]

_LR, _DECAY = 1e-3, 0.1
"""Of AdamW as transformers are trained, where no script says otherwise."""

_MATTERS = 2.0
"""Bits: what is below needs no remedy of its own."""


@dataclass(frozen=True)
class Norm:
    """The norm of the gradient of all parameters together, for a loss averaged over the outputs.

    Args:
        typical: median over draws of the weights.
        low: 10 % of the draws are below.
        high: 10 % of the draws are above.
    """

    typical: float
    low: float
    high: float


class Mitigation:
    """Remedies for one model.

    Args:
        analysis: the prediction.
        recipe: what the training script says; None where none was named.
    """

    def __init__(self, analysis: Analysis, recipe: Recipe | None) -> None:
        self._analysis, self._recipe = analysis, recipe

    @cached_property
    def norm(self) -> Norm | None:
        """The predicted norm of the gradient; None where no gradient arrives or one is unknown."""
        squares = [0.0, 0.0, 0.0]
        for name, facts in self._analysis.parameters.items():
            if not self._analysis.flowed.traced.parameters[name].requires_grad:
                continue
            if facts.grad_rms is None or not math.isfinite(facts.grad_rms):
                return None
            found = self._analysis.grad_typical(name) or (facts.grad_rms, (facts.grad_rms, facts.grad_rms))
            entries = math.prod(facts.shape)
            for i, rms in enumerate((found[0], *found[1])):
                squares[i] += entries * rms * rms
        traced = self._analysis.flowed.traced
        output = next(n for n in traced.graph.nodes if n.name == traced.output)
        outputs = max(math.prod(step(output).shape or ()), 1)
        if squares[0] <= 0 or not all(map(math.isfinite, squares)):
            return None
        typical, low, high = (math.sqrt(square) / outputs for square in squares)
        return Norm(typical, low, high)

    def max_norm(self, growth: float) -> float | None:
        """Where to clip: at nine of ten draws where nothing grows, at the norm without its growth where something does.

        Args:
            growth: bits by which the gradient grows on its way.
        """
        if self.norm is None:
            return None
        return self.norm.high if growth <= 0 else self.norm.high * 2.0 ** -min(growth, 1000.0)

    def notes(self, log2: float | None, evidence: Mapping[str, float | int | str]) -> Iterator[str]:
        """Remedies for a gain, a sentence each.

        Args:
            log2: bits of gradient norm gained, of the finding's claim; None: what the evidence says of a recurrence.
            evidence: of the finding: ``log2_per_layer`` or ``log2_per_step``, ``layers`` or ``steps``.
        """
        if log2 is None:
            per, steps = evidence.get("log2_per_step"), evidence.get("steps")
            log2 = per * steps if isinstance(per, int | float) and isinstance(steps, int | float) else 0.0
        if not math.isfinite(log2) or abs(log2) < _MATTERS:
            return
        if log2 > 0:
            yield from self._clipped(log2)
            yield from self._decayed(evidence)
        yield from self._normalised(log2, evidence)

    def _clipped(self, log2: float) -> Iterator[str]:
        norm, limit = self.norm, self.max_norm(log2)
        if norm is None or limit is None or limit <= 0:
            return
        spread = f", {norm.low:.2g} to {norm.high:.2g} in 80 % of draws" if norm.high > 1.05 * norm.low else ""
        yield (
            f"clip_grad_norm_(parameters, max_norm={limit:.2g}) keeps the steps finite, not the layers in balance: the norm is "
            f"{norm.typical:.2g} for a loss averaged over the outputs{spread}"
        )

    def _decayed(self, evidence: Mapping[str, float | int | str]) -> Iterator[str]:
        per = next((evidence[k] for k in ("log2_per_layer", "log2_per_sum", "log2_per_step") if k in evidence), None)
        if not isinstance(per, int | float) or per <= 0:
            return
        known: Optimizer | None = next(iter(self._recipe.optimizers), None) if self._recipe is not None else None
        lr = known.lr.value if known is not None and known.lr is not None and known.lr.value else _LR
        decay = known.weight_decay.value if known is not None and known.weight_decay is not None else None
        steps = float(f"{per * math.log(2) / (lr * (decay or _DECAY)):.2g}")
        yield f"weight decay {decay or _DECAY:g} at lr {lr:g} shrinks the weights by as much ({times(-per)}) in {steps:g} steps"

    @staticmethod
    def _normalised(log2: float, evidence: Mapping[str, float | int | str]) -> Iterator[str]:
        layers = evidence.get("layers", evidence.get("sums"))
        if isinstance(layers, int) and layers > 1:
            gain = 0.5 * math.log2(layers + 1)
            if abs(gain) < abs(log2):
                yield f"normalised branches, x + f(norm(x)), gain {times(gain)} over {layers} layers: √(L + 1)"
