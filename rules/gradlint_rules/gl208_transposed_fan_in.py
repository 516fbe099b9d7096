"""GL208 transposed-fan-in."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Layer, Location, Rule, Severity, collapse, times
from gradlint_rules._initialisers import initialiser

__all__ = ["TransposedFanIn"]


class TransposedFanIn(Rule):
    """Transposed convolutions whose fans PyTorch counts the wrong way round.

    ## What it finds
    ``kaiming_normal_`` or ``kaiming_uniform_``, called by the user, on a transposed convolution without a norm behind it,
    where the true number of terms per output differs a lot from the one that PyTorch counts.

    ## Why it matters
    The weight of a transposed convolution is (in, out / groups, kernel), and PyTorch takes axis 1 for the inputs. It also
    does not know the stride: each output of a stride-2 layer hears a quarter of the kernel. Both change the variance of
    every layer.

    ## How it is computed
    True fan-in: ``in / groups · kernel / stride^d``, the terms in the mean output entry. PyTorch's: ``out / groups · kernel``.

    ## What to do
    Use the standard deviation in the fix, or a norm behind the layer.

    ## When to ignore it
    In the last layer of a decoder, whose scale the loss sets within a few steps.

    ## References
    He et al. 2015 (arXiv:1502.01852); Dumoulin & Visin 2016 (arXiv:1603.07285), §4; PyTorch, ``torch.nn.init``.
    """

    code = "GL208"
    name = "transposed-fan-in"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[tuple[Layer, float]]] = {}
        for layer in context.evidence.layers:
            wrote = initialiser(context, layer)
            if wrote is None or wrote.constructor or "transpose" not in layer.call.op or layer.normalised:
                continue
            if not wrote.name.startswith("kaiming") or wrote.arguments.get("mode") == "fan_out":
                continue
            counted = math.prod(context.parameters[layer.weight].shape[1:])
            off = 0.5 * math.log2(layer.fan_in / counted)
            if abs(off) >= LIMITS["fan"].warning:
                groups.setdefault(context.guilty_line(layer.weight), []).append((layer, off))
        for place, members in groups.items():
            layer, off = max(members, key=lambda m: abs(m[1]))
            law = context.parameters[layer.weight].law
            counted = math.prod(context.parameters[layer.weight].shape[1:])
            yield self.finding(
                context,
                place,
                f"fan-in {counted} is counted where {layer.fan_in:.4g} terms make an output: its scale is off {times(off)}",
                module=layer.call.module,
                evidence={"quantity": "fan-in", "measured": counted, "expected": layer.fan_in, "log2": off},
                instances=[collapse(m.weight for m, _ in members)],
                fix=f"std {law.std:.3g} → {law.std * 2.0**-off:.3g}, or a norm behind the layer",
            )
