"""GL503 outside-domain."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity, Singularity, collapse
from gradlint_rules._singular import REPAIR, by_line, how_often, modules

__all__ = ["OutsideDomain"]

_OVERFLOWING = ("exp", "exp2", "expm1", "sinh", "cosh", "square", "pow")


class OutsideDomain(Rule):
    """Logarithms, roots and quotients of values that they are not defined for.

    ## What it finds
    ``log``, ``sqrt``, ``rsqrt``, ``acos``, ``atanh``, fractional powers and reciprocals whose argument, by the predicted law or
    because zeros happen, lies outside of the domain or on its edge.

    ## Why it matters
    The value is NaN or infinite in the first forward pass, and so are the loss and all gradients.

    ## How it is computed
    The op is run on the values that its argument takes: the predicted mean and variance give the share of entries that are
    negative, the ranges and zeros that are followed through the graph cut off what cannot happen. Functions of the data alone
    are not judged: gradlint does not know the data.

    ## What to do
    Make the argument positive (softplus, exp, square plus an epsilon) or clamp it before the op.

    ## When to ignore it
    When the weights are loaded before use and keep the argument positive.

    ## References
    Zhang et al. 2020 (DEBAR, doi:10.1145/3368089.3409720); Li et al. 2023 (RANUM, doi:10.1109/ICSE48619.2023.00107).
    """

    code = "GL503"
    name = "outside-domain"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["outside"]
        found = (s for s in context.evidence.singularities if s.kind == "value" and s.share >= limit.warning and _undefined(s))
        for (place, op), group in by_line(context, found).items():
            worst = group[0]
            yield self.finding(
                context,
                place,
                f"{op} is not finite {how_often(worst)}: its argument gets to {worst.at:.3g}",
                severity=Severity.ERROR if worst.share >= limit.error else Severity.WARNING,
                module=context.steps[worst.node].module,
                evidence={"quantity": "share of entries", "measured": worst.share, "expected": 0.0, "at": worst.at},
                instances=[collapse(modules(context, [s.node for s in group])) or op],
                fix=REPAIR.get(op, "keep the argument inside the domain: softplus, or clamp before it"),
            )


def _undefined(s: Singularity) -> bool:
    """It is no overflow."""
    return s.op not in _OVERFLOWING or (s.op == "pow" and abs(s.at) < 1e4)
