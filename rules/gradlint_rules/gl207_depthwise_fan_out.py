"""GL207 depthwise-fan-out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Layer, Location, Rule, Severity, collapse, times
from gradlint_rules._initialisers import initialiser

__all__ = ["DepthwiseFanOut"]


class DepthwiseFanOut(Rule):
    """Grouped convolutions initialised by a fan-out that ignores the groups.

    ## What it finds
    ``kaiming_normal_(w, mode="fan_out")`` on a depthwise or grouped convolution without a norm behind it.

    ## Why it matters
    PyTorch's fan-out of a weight is its first axis times the kernel, whatever the groups. In a depthwise convolution of C
    channels that is C times too much, and the weights are √C times too small: the signal shrinks by that factor in every
    block.

    ## How it is computed
    The initialiser is seen when the model is built; the true fan-out is the number of outputs that one input reaches, the
    weight's first axis over the groups times the kernel.

    ## What to do
    ``mode="fan_in"`` for grouped convolutions (it is right for them), or a BatchNorm behind each.

    ## When to ignore it
    When a norm follows later on the same path and nothing non-linear lies before it.

    ## References
    He et al. 2015 (arXiv:1502.01852), eq. 14; PyTorch, documentation of ``torch.nn.init``.
    """

    code = "GL207"
    name = "depthwise-fan-out"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[tuple[Layer, float]]] = {}
        for layer in context.evidence.layers:
            wrote = initialiser(context, layer)
            if wrote is None or layer.groups == 1 or layer.normalised or wrote.arguments.get("mode") != "fan_out":
                continue
            lost = -0.5 * math.log2(layer.groups)
            if abs(lost) >= LIMITS["fan"].warning:
                groups.setdefault(context.guilty_line(layer.weight), []).append((layer, lost))
        for place, members in groups.items():
            layer, lost = members[0]
            law = context.parameters[layer.weight].law
            yield self.finding(
                context,
                place,
                f"a fan-out counted without the {layer.groups} groups of the convolution: {times(lost)} of the fitting std",
                module=layer.call.module,
                evidence={"quantity": "std", "measured": law.std, "expected": law.std * 2.0**-lost, "groups": layer.groups},
                instances=[collapse(m.weight for m, _ in members)],
                notes=[f"{len(members)} such layers: {times(sum(bits for _, bits in members))} together"],
                fix=f'mode="fan_in", or std {law.std:.3g} → {law.std * 2.0**-lost:.3g}; or a norm behind it',
            )
