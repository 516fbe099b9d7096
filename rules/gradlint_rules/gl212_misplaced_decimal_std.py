"""GL212 misplaced-decimal-std."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from gradlint.rule import LIMITS, Context, Finding, Layer, Location, Rule, Severity, collapse, times
from gradlint_rules._initialisers import initialiser

__all__ = ["MisplacedDecimalStd"]

_USUAL = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class MisplacedDecimalStd(Rule):
    """One standard deviation for all layers, ten times a usual one: 0.2 where 0.02 is meant.

    ## What it finds
    ``normal_`` or ``trunc_normal_`` with the same number for three layers or more, where every one of them amplifies, and a
    tenth of the number is a value in common use that would not.

    ## Why it matters
    Each layer multiplies the signal and its gradient by ten times what was intended; a few of them overflow. The papers
    that the number comes from (GPT, BERT, DCGAN, VGG) have 0.02 or 0.01.

    ## How it is computed
    The gain ``s·√fan_in`` of each layer without a norm behind it; their median with the number as it stands, and with a
    tenth of it.

    ## What to do
    Write the number that was meant, or one that follows the fan-in: ``std=(2 / fan_in) ** 0.5``.

    ## When to ignore it
    When the number was chosen for the widths at hand.

    ## References
    Radford et al. 2016 (DCGAN, arXiv:1511.06434), §3; Radford et al. 2018 (GPT), §4.1; HistAuGAN, pull request 4.
    """

    code = "GL212"
    name = "misplaced-decimal-std"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, float], list[Layer]] = {}
        for layer in {layer.weight: layer for layer in context.evidence.layers}.values():
            wrote, law = initialiser(context, layer), context.parameters[layer.weight].law
            if wrote is not None and wrote.name in ("normal_", "trunc_normal_") and not layer.normalised and law.mean == 0:
                groups.setdefault((context.guilty_line(layer.weight), wrote.number("std", 1.0)), []).append(layer)
        for (place, std), layers in groups.items():
            if len(layers) < 3 or not any(math.isclose(std / 10, usual, rel_tol=1e-3) for usual in _USUAL):
                continue
            gain = median(math.log2(std * math.sqrt(layer.fan_in)) for layer in layers)
            low, high = LIMITS["layer_small"].warning, LIMITS["layer_large"].warning
            if gain < high or not low <= gain - math.log2(10) <= high:
                continue
            yield self.finding(
                context,
                place,
                f"std {std:.3g} for {len(layers)} layers multiplies the signal {times(gain)} in each; {std / 10:.3g} would "
                f"{times(gain - math.log2(10))}",
                module=layers[0].call.module,
                evidence={
                    "quantity": "std",
                    "measured": std,
                    "expected": std / 10,
                    "log2_per_layer": gain,
                    "layers": len(layers),
                },
                instances=[collapse(layer.weight for layer in layers)],
                fix=f"std={std / 10:.3g}, or (2 / fan_in) ** 0.5",
            )
