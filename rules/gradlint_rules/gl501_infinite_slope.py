"""GL501 infinite-slope."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Rule, Severity, collapse
from gradlint_rules._singular import REPAIR, by_line, how_often, modules, severity

__all__ = ["InfiniteSlope"]

_OVERFLOWING = ("exp", "exp2", "expm1", "sinh", "cosh", "square")


class InfiniteSlope(Rule):
    """Functions with a finite value and an infinite derivative where their argument really goes.

    ## What it finds
    ``sqrt`` at 0, ``x ** p`` with p below 1 at 0, ``acos`` at ±1 and their relatives, on tensors that take exactly that value:
    the diagonal of a matrix of distances, the distance of two equal inputs, what a ReLU has set to zero.

    ## Why it matters
    The loss is finite and looks healthy; the gradient is infinite, and NaN as soon as it is multiplied by the zero of an inner
    derivative. One such entry makes every parameter before it NaN in the first step.

    ## How it is computed
    Every elementwise piece of the model is run, forward and backward, on the values that its tensor takes: over its
    predicted law, at zeros that happen, at the ends of its range. Zeros are followed through the graph: a tensor compared
    with itself along two axes is zero on the diagonal, whatever the weights. An error happens in the first step, a
    warning needs two equal inputs, a note is at the end of a range that no known entry reaches.

    ## What to do
    Put an epsilon inside the root, clamp the argument, or use the function that knows about it: ``torch.linalg.vector_norm``
    and ``torch.cdist`` have the gradient 0 at 0.

    ## When to ignore it
    When data can never be there: pairs are distinct by construction, and the diagonal is left out before the function.

    ## References
    PyTorch, issue 2775 (gradient of a norm at zero); Zhang et al. 2020 (DEBAR, doi:10.1145/3368089.3409720), who look at the
    forward pass alone.
    """

    code = "GL501"
    name = "infinite-slope"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        found = [s for s in context.evidence.singularities if s.kind == "slope" and s.op not in _OVERFLOWING]
        for (place, op), group in by_line(context, found).items():
            worst = group[0]
            yield self.finding(
                context,
                place,
                f"the slope of {op} is infinite at {worst.at:.4g}, which its argument takes {how_often(worst)}: "
                "the value is finite, the gradient NaN",
                severity=severity(worst),
                module=context.steps[worst.node].module,
                evidence={"quantity": "share of entries", "measured": worst.share, "expected": 0.0, "at": worst.at},
                instances=[collapse(modules(context, [s.node for s in group])) or op],
                fix=REPAIR.get(op, "keep the argument away from there with clamp"),
            )
