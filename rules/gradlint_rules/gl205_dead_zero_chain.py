"""GL205 dead-zero-chain."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Claim, Context, Finding, Location, Place, Rule, Severity, collapse

__all__ = ["DeadZeroChain"]


class DeadZeroChain(Rule):
    """Layers of zeros that wait for one another and never learn.

    ## What it finds
    Two or more zero-initialised weights on one path, with nothing between them that is non-zero at zero: each one's gradient
    is multiplied by another's zero.

    ## Why it matters
    One zero layer at the end of a branch is a good start: it gets a gradient at once. In front of or behind another one
    it gets none, and neither does the other, in any step. The part of the model between them is dead.

    ## How it is computed
    The graph is run on truth values: which tensors can be non-zero, which gradients. What a gradient reaches counts as
    non-zero from then on; this is repeated until nothing changes. What is still zero stays so for ever.

    ## What to do
    Initialise all but the last zero layer of each path at random.

    ## When to ignore it
    When the weights are copied in before training, as in networks that are built around a trained backbone.

    ## References
    Zhang et al. 2019 (Fixup, arXiv:1901.09321); Bachlechner et al. 2020 (ReZero, arXiv:2003.04887) for zeros that do learn.
    """

    code = "GL205"
    name = "dead-zero-chain"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[str]] = {}
        asleep = set(context.evidence.asleep) - set(context.unused) - {c.parameter for c in context.cancelled}
        weights = [n for n in context.parameters if n in asleep and len(context.parameters[n].shape) > 1]
        for name in weights:
            groups.setdefault(context.guilty_line(name), []).append(name)
        for place, names in groups.items():
            fans = [math.prod(context.parameters[n].shape[1:]) for n in names]
            yield self.finding(
                context,
                place,
                f"{len(names)} weights start at zero and get no gradient, now or later: each waits for another that is zero",
                module=names[0].rpartition(".")[0],
                evidence={"quantity": "gradient rms", "measured": 0.0, "expected": 1.0},
                instances=[collapse(names)],
                notes=[f"{len(asleep) - len(weights)} biases wait with them"] if len(asleep) > len(weights) else [],
                fix=f"draw all but the last: kaiming_normal_, std {(2 / max(fans[0], 1)) ** 0.5:.3g} for {names[0]}",
                claim=Claim(tuple(Place("parameter", name) for name in names), -math.inf),
            )
