"""GL510 steep-slope."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Context, Finding, Rule, Severity, collapse, times
from gradlint_rules._singular import by_line, how_often, modules

__all__ = ["SteepSlope"]

_GROWING = ("exp", "exp2", "expm1", "sinh", "cosh", "square")


class SteepSlope(Rule):
    """Finite derivatives beyond a million: an epsilon too small for where the argument goes.

    ## What it finds
    ``log(x + 1e-12)``, ``1 / (x + 1e-8)``, ``sqrt(x + 1e-16)`` and their relatives on tensors that do get to zero: where
    a ReLU is off, on the diagonal of a matrix of distances, in what starts at zero.

    ## Why it matters
    The epsilon keeps the value finite and lets the gradient reach 1e12. One such entry outweighs all others, sets the norm that
    clipping divides by, and fills the second moments of Adam for a thousand steps.

    ## How it is computed
    As for GL501: the function is run forward and backward on the values that its argument takes. Only what happens, by
    the predicted law or at a known zero, is reported, not the limit of a range.

    ## What to do
    An epsilon whose slope is bearable: 1e-6 in a root has the slope 500, ``log(x + 1e-3)`` 1000; or clamp, which has
    slope zero.

    ## When to ignore it
    When the entries in question are masked out of the loss and their gradient is zero.

    ## References
    Li et al. 2023 (RANUM, doi:10.1109/ICSE48619.2023.00107); Kingma & Ba 2015 (arXiv:1412.6980) on second moments.
    """

    code = "GL510"
    name = "steep-slope"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        found = (
            s for s in context.evidence.singularities if s.kind == "steep" and s.op not in _GROWING and (s.share > 0 or s.why)
        )
        for (place, op), group in by_line(context, found).items():
            worst = group[0]
            yield self.finding(
                context,
                place,
                f"the slope of {op} reaches {times(math.log2(worst.slope))} {how_often(worst)}",
                severity=Severity.WARNING if worst.share > 0 else Severity.INFO,
                module=context.steps[worst.node].module,
                evidence={"quantity": "slope", "measured": worst.slope, "expected": 1e3, "share": worst.share, "at": worst.at},
                instances=[collapse(modules(context, [s.node for s in group])) or op],
                fix="a larger epsilon (1e-6 in a root, 1e-3 in a logarithm or quotient), or clamp(min=…) before it",
            )
