"""AC101 lopsided-gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Context, Finding, Rule, Severity, times

__all__ = ["LopsidedGradients"]

_LIMIT = 8.0  # bits between the largest and the smallest gradient of a weight matrix: one learning rate has to fit both


class LopsidedGradients(Rule):
    """Weight matrices whose gradients differ so much that no learning rate fits them all.

    ## What it finds
    A model in which the root mean square gradient of one weight matrix is more than 2⁸ times that of another.

    ## Why it matters
    This house trains with SGD and one learning rate: what moves the one matrix leaves the other where it is.

    ## How it is computed
    The largest predicted gradient of a parameter with two or more axes over the smallest. Gradients that are zero or unknown do
    not count.

    ## What to do
    Give the two groups learning rates of their own, or normalise what is between them.

    ## When to ignore it
    With Adam and its relatives, which divide the size of the gradient out.

    ## References
    The training handbook of the house.
    """

    code = "AC101"
    name = "lopsided-gradients"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        facts = context.analysis.parameters.values()
        sizes = {f.name: math.log2(f.grad_rms) for f in facts if f.grad_rms and len(f.shape) > 1}
        if not sizes:
            return
        largest, smallest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        apart = sizes[largest] - sizes[smallest]
        if apart > _LIMIT:
            yield self.finding(
                context,
                context.guilty_line(smallest),
                f"the gradient of {largest} is {times(apart)} that of {smallest}",
                module=smallest.rpartition(".")[0],
                evidence={"quantity": "largest / smallest gradient", "measured": 2.0**apart, "expected": 2.0**_LIMIT},
                instances=[smallest, largest],
                fix=f"a learning rate {times(apart)} as large for {smallest}, or a norm between them",
            )
