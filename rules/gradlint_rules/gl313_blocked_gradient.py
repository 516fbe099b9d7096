"""GL313 blocked-gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Claim, Context, Finding, Location, Op, Place, Rule, Severity, collapse

__all__ = ["BlockedGradient"]

_STEPS = ("round", "floor", "ceil", "trunc", "sign", "heaviside", "fix", "sgn")


class BlockedGradient(Rule):
    """Rounding and step functions in forward: no gradient gets through them.

    ## What it finds
    ``round``, ``floor``, ``ceil``, ``sign`` and ``trunc`` on a learned tensor, where everything that trains some
    parameters passes them.

    ## Why it matters
    Their derivative is zero wherever it exists. The parameters before them get a gradient of exactly zero, in every step: no
    error, no warning, no training.

    ## How it is computed
    The predicted gradient of every parameter; those that are zero and whose only way to the loss leads through a step
    function are counted.

    ## What to do
    A straight-through estimator, ``x + (x.round() - x).detach()``; a soft version while training (sigmoid, Gumbel-softmax); or
    an estimator for discrete variables.

    ## When to ignore it
    When what lies before is frozen on purpose; ``detach`` says so to readers, too.

    ## References
    Bengio, Léonard & Courville 2013 (arXiv:1308.3432); van den Oord et al. 2017 (arXiv:1711.00937).
    """

    code = "GL313"
    name = "blocked-gradient"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        ops = context.evidence.ops
        silent: set[str | None] = {
            name
            for name, facts in context.analysis.parameters.items()
            if facts.grad_rms == 0.0 and context.parameters[name].requires_grad and name not in context.unused
        }
        groups: dict[Location | None, list[tuple[Op, set[str | None]]]] = {}
        for call in ops.calls.values():
            if call.op not in _STEPS or not call.grad or not context.evidence.graded(call.name):
                continue
            used = {ref.parameter for c in ops.ancestors(call.name) for ref in c.inputs}
            if silent & used:
                groups.setdefault(call.location, []).append((call, silent & used))
        for place, members in groups.items():
            call = members[0][0]
            lost = [name for name in context.parameters if any(name in names for _, names in members)]
            yield self.finding(
                context,
                place,
                f"{call.op} has the slope zero: {len(lost)} parameters before it get no gradient",
                module=call.module,
                evidence={"quantity": "gradient rms", "measured": 0.0, "expected": 1.0, "parameters": len(lost)},
                instances=[collapse(lost)],
                fix=f"a straight-through estimator: x + (x.{call.op}() - x).detach()",
                claim=Claim(tuple(Place("parameter", name) for name in lost), -math.inf),
            )
