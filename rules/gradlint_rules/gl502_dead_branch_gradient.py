"""GL502 dead-branch-gradient."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Rule, Severity, collapse
from gradlint_rules._singular import by_line, how_often, modules, severity

__all__ = ["DeadBranchGradient"]


class DeadBranchGradient(Rule):
    """NaN gradients out of a branch whose value is not used.

    ## What it finds
    ``torch.where(x > 0, f(x), 0)`` and ``f(x).nan_to_num()`` where f is infinite or NaN on the entries that are masked out:
    square roots and powers of negative numbers, logarithms and quotients at zero, exponentials that overflow.

    ## Why it matters
    The mask repairs the value and not the gradient. Backward, the branch that was not taken gets the gradient 0, times a
    derivative that is infinite or NaN, which is NaN. Nothing in the forward pass shows it.

    ## How it is computed
    The piece of the graph from the tensor to the masked result is run forward and backward by the user's own functions on the
    values that the tensor takes. Where the result is finite, the gradient is not, and a value in between is not, that branch is
    dead and poisons the gradient.

    ## What to do
    Mask the argument as well: ``torch.where(x > 0, f(torch.where(x > 0, x, 1)), 0)``, or clamp it before f.

    ## When to ignore it
    When the masked entries never need a gradient: they are detached, or nothing before them is trained.

    ## References
    PyTorch documentation, "Autograd mechanics", division by zero gives NaN gradients under a mask; JAX FAQ, "Gradients contain
    NaN where using where".
    """

    code = "GL502"
    name = "dead-branch-gradient"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        for (place, op), group in by_line(context, (s for s in context.evidence.singularities if s.kind == "dead")).items():
            worst = group[0]
            yield self.finding(
                context,
                place,
                f"{op} is not finite {how_often(worst)}; a mask hides the value, the gradient through it is NaN",
                severity=severity(worst),
                module=context.steps[worst.node].module,
                evidence={"quantity": "share of entries", "measured": worst.share, "expected": 0.0, "at": worst.at},
                instances=[collapse(modules(context, [s.node for s in group])) or op],
                fix=f"give {op} a safe argument where its result is not used: where(mask, {op}(where(mask, x, 1)), …)",
            )
