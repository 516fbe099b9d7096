"""GL505 quotient-crossing-zero."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Location, Op, Rule, Severity, collapse
from gradlint_rules._singular import modules

__all__ = ["QuotientCrossingZero"]

_DIVISIONS = ("div", "divide", "true_divide", "truediv", "reciprocal")


class QuotientCrossingZero(Rule):
    """Divisions by a learned number that can be zero.

    ## What it finds
    ``a / b`` where b depends on weights and is either exactly zero for some entries (a sum or norm of what a ReLU has switched
    off, two equal inputs) or takes both signs, so that it passes zero.

    ## Why it matters
    Near zero the quotient has no bound and its gradient grows as ``1/b²``: neither has a finite variance, and one unlucky entry
    outweighs the batch. At zero the loss is infinite and the gradient NaN.

    ## How it is computed
    The range and the predicted law of the denominator, and the zeros that are followed through the graph: the chance that it
    lies within a thousandth of its own rms of zero.

    ## What to do
    Make the denominator positive: softplus or exp of it plus an epsilon, ``clamp(min=…)`` on a sum of non-negative terms.

    ## When to ignore it
    When the denominator is kept from zero by something that is not in the model, such as a constraint on its weights.

    ## References
    Li et al. 2023 (RANUM, doi:10.1109/ICSE48619.2023.00107); Marsaglia 1965 on ratios of normal variables.
    """

    code = "GL505"
    name = "quotient-crossing-zero"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["denominator"]
        groups: dict[Location | None, list[tuple[Op, float, str, bool]]] = {}
        for call in context.evidence.ops.calls.values():
            found = _zero(context, call)
            if found is not None and found[0] >= limit.warning:
                groups.setdefault(call.location, []).append((call, *found))
        for place, members in groups.items():
            call, share, why, exact = max(members, key=lambda m: m[1])
            yield self.finding(
                context,
                place,
                f"the denominator is zero {why} ({share:.2g} of the entries)"
                if exact
                else f"the denominator takes both signs: {share:.2g} of its entries lie within a thousandth of its rms of zero",
                severity=Severity.ERROR if exact and share >= limit.error else Severity.WARNING,
                module=call.module,
                evidence={"quantity": "share of denominators at zero", "measured": share, "expected": 0.0},
                instances=[collapse(modules(context, [m[0].name for m in members])) or call.op],
                fix="divide by softplus(b) + 1e-6, or by b.clamp(min=1e-6) where b cannot be negative",
            )


def _zero(context: Context, call: Op) -> tuple[float, str, bool] | None:
    """How much of the denominator is at zero, why, and whether exactly."""
    if call.op not in _DIVISIONS or not call.args:
        return None
    ref = call.args[-1 if call.op != "reciprocal" else 0]
    name = getattr(ref, "node", None)
    if name is None or not context.evidence.graded(call.name) or not context.evidence.ops.learned(name):
        return None
    known = context.evidence.ranges[name]
    if known.zero > 0:
        return known.zero, known.why, True
    return (context.evidence.near_zero(name), "", False) if known.signed and _of_layer(context, name) else None


def _of_layer(context: Context, name: str) -> bool:
    """A layer's own output, or a function of it: what is sampled or summed may be positive for reasons not seen here."""
    while (call := context.evidence.ops.calls.get(context.evidence.ops.origin(name))) is not None and len(call.inputs) == 1:
        name = call.inputs[0].node
    return call is not None and any(layer.call.name == call.name for layer in context.evidence.layers)
