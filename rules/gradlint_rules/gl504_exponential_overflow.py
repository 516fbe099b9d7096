"""GL504 exponential-overflow."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity, collapse
from gradlint_rules._singular import by_line, modules

__all__ = ["ExponentialOverflow"]

_GROWING = ("exp", "exp2", "expm1", "sinh", "cosh", "square", "pow")

_BOUNDED = 1e30


class ExponentialOverflow(Rule):
    """Exponentials and powers of numbers so large that the result overflows.

    ## What it finds
    ``exp``, ``sinh``, ``cosh`` and powers whose argument is predicted to exceed the range: 88.7 for ``exp`` in single precision
    and bfloat16, 11.1 in float16.

    ## Why it matters
    One infinite entry makes the loss infinite and the gradients NaN.

    ## How it is computed
    The op is run, in single precision, on values spread as its argument is predicted to be, out to six standard
    deviations. What overflows is counted; the finding is an error where the tensor has enough entries for one of them to
    be there in most steps.

    ## What to do
    Subtract the maximum before ``exp`` (softmax and logsumexp do), bound the argument (``clamp``, ``tanh``), predict the
    logarithm instead, or start the layer before it at zero.

    ## When to ignore it
    When the argument is bounded by how the model is trained from the weights that it is loaded with.

    ## References
    Zhang et al. 2020 (DEBAR, doi:10.1145/3368089.3409720); Goldberg 1991, "What every computer scientist should know about
    floating-point arithmetic".
    """

    code = "GL504"
    name = "exponential-overflow"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["overflow"]
        found = (s for s in context.evidence.singularities if s.kind in ("value", "slope") and s.op in _GROWING and s.share > 0)
        for (place, op), group in by_line(context, (s for s in found if abs(s.at) > 1)).items():
            worst = group[0]
            entries = context.evidence.ops.calls[worst.node].size
            expected = worst.share * entries
            if expected < limit.warning:
                continue
            made = context.forward(worst.node)
            if made is not None and made.rms < _BOUNDED:  # it was sampled: its argument never gets there
                continue
            law = context.forward(worst.root)
            spread = 0.0 if law is None else law.var**0.5
            yield self.finding(
                context,
                place,
                f"{op} overflows for {worst.share:.2g} of its entries ({expected:.2g} per step)",
                severity=Severity.ERROR if expected >= limit.error else Severity.WARNING,
                module=context.steps[worst.node].module,
                evidence={"quantity": "overflows per step", "measured": expected, "expected": 0.0, "std": spread},
                instances=[collapse(modules(context, [s.node for s in group])) or op],
                fix="subtract the maximum first (softmax, logsumexp), bound the argument with clamp or tanh, or start the layer "
                "before it at zero",
            )
