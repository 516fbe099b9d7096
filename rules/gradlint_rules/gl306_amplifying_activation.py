"""GL306 amplifying-activation."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2

from gradlint.rule import LIMITS, Activation, Context, Finding, Location, Rule, Severity, collapse, times

__all__ = ["AmplifyingActivation"]


class AmplifyingActivation(Rule):
    """Squares, powers and exponentials of large numbers: the slope grows with the input.

    ## What it finds
    ``x ** 2``, ``x * x``, ``exp`` and the hyperbolic functions on tensors so large that they multiply the gradient by a large
    factor.

    ## Why it matters
    The slope is as unbounded as the input. A batch that is twice as large gets a gradient four times as large or more, a
    few outliers rule the step, and two such functions in a row grow doubly exponentially.

    ## How it is computed
    ``√E φ'²`` on the predicted law of the input: 2·rms for a square, ``exp(σ²)`` for an exponential.

    ## What to do
    Normalise or bound the input (LayerNorm, tanh, clamp), or use a function of slope one at most.

    ## When to ignore it
    Where a division undoes it at once, as in a norm or a softmax written by hand.

    ## References
    Schoenholz et al. 2017 (arXiv:1611.01232), eq. 11; So et al. 2021 (squared ReLU, arXiv:2109.08668).
    """

    code = "GL306"
    name = "amplifying-activation"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["amplify"]
        groups: dict[tuple[Location | None, str], list[Activation]] = {}
        for seen in context.evidence.activations:
            if seen.grows and seen.slope > 0 and log2(seen.slope) >= limit.warning and not _undone(context, seen):
                groups.setdefault((seen.call.location, seen.call.op), []).append(seen)
        for (place, op), members in groups.items():
            worst = max(members, key=lambda seen: seen.slope)
            bits = log2(worst.slope)
            yield self.finding(
                context,
                place,
                f"{'x * x' if op == 'mul' else op} multiplies the gradient {times(bits)} on inputs of size {worst.rms:.3g}",
                severity=Severity.ERROR if bits >= limit.error else Severity.WARNING,
                module=worst.call.module,
                evidence={"quantity": "rms slope", "measured": min(worst.slope, 1e300), "expected": 1.0, "input_rms": worst.rms},
                instances=[collapse(sorted({seen.call.module or seen.call.name for seen in members}))],
                fix=f"scale its input by {1 / worst.rms:.2g} or normalise it; bound it with tanh or clamp",
            )


def _undone(context: Context, seen: Activation) -> bool:
    """It is a piece of a norm, a length or a softmax: sums and quotients follow."""
    ops = context.evidence.ops
    return any(
        call.op in ("sum", "mean", "cumsum", "sqrt", "rsqrt", "truediv", "div", "norm")
        for call in ops.ahead(seen.call.name, lambda call: call.op in ("add", "mul") and call.op != "sum")
    )
