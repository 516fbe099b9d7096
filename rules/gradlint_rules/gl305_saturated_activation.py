"""GL305 saturated-activation."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2

from gradlint.rule import LIMITS, Activation, Context, Finding, Location, Rule, Severity, collapse, times

__all__ = ["SaturatedActivation"]

_HARD = ("relu6", "clamp")


class SaturatedActivation(Rule):
    """A tanh, sigmoid or clamp most of whose inputs lie where it is flat.

    ## What it finds
    Bounded activations whose input is so large that most entries lie in their flat parts: weights drawn with std 1,
    unscaled features, a sum of many terms.

    ## Why it matters
    Flat entries pass no gradient, and the others pass a steep one: the layer behaves as a step. What lies before it
    learns from a few entries only. One layer is enough; a row of them is GL301.

    ## How it is computed
    The slope on the predicted law of the input. An entry counts as flat where the slope is below 2 % of the largest.

    ## What to do
    Scale the weights so that the input has size 1: the factor is in the fix. Or normalise before the activation.

    ## When to ignore it
    When a hard decision is meant, such as a gate that is annealed.

    ## References
    Glorot & Bengio 2010, §3; LeCun et al. 1998, "Efficient BackProp", §4.4.
    """

    code = "GL305"
    name = "saturated-activation"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["flat"]
        groups: dict[Location | None, list[Activation]] = {}
        for seen in context.evidence.activations:
            bounded = seen.bounded and seen.call.op not in _HARD
            if bounded and seen.flat >= limit.warning and context.evidence.ops.learned(seen.call.inputs[0].node):
                groups.setdefault(seen.call.location, []).append(seen)
        for place, members in groups.items():
            worst = max(members, key=lambda seen: seen.flat)
            yield self.finding(
                context,
                place,
                f"{worst.flat:.0%} of the inputs of this {worst.call.op} lie where it is flat: their rms is {worst.rms:.3g}",
                severity=Severity.ERROR if worst.flat >= limit.error else Severity.WARNING,
                module=worst.call.module,
                evidence={"quantity": "share of flat entries", "measured": worst.flat, "expected": 0.1, "input_rms": worst.rms},
                instances=[collapse(sorted({seen.call.module or seen.call.name for seen in members}))],
                notes=[f"it passes {times(log2(worst.slope))} of the gradient in root mean square"],
                fix=f"scale what it is applied to by {1 / worst.rms:.2g}, for an input of size 1, or normalise before it",
            )
