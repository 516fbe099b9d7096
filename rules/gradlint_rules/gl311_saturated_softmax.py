"""GL311 saturated-softmax."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Location, Rule, Scores, Severity, collapse

__all__ = ["SaturatedSoftmax"]


class SaturatedSoftmax(Rule):
    """A softmax whose scores vary so much that one entry takes all the weight.

    ## What it finds
    Softmax inside the model, of attention, gates or mixtures, on scores whose predicted spread is large, for other
    reasons than a missing 1/√d (GL310) and not at the output (GL211).

    ## Why it matters
    The gradient of a softmax is ``p (g − Σ p g)``: it vanishes where p is 0 or 1. The scores then do not learn, and what
    was not picked gets no gradient either.

    ## How it is computed
    The predicted variance of the scores within a row against ``2 ln n`` for n entries, and against 9 (a size of three)
    for short rows. Information up to a size that real training coped with, since values and skips carry the gradient on.

    ## What to do
    Divide the scores by their predicted size, normalise queries and keys, or start the layer that makes the scores at zero.

    ## When to ignore it
    When a hard choice is wanted, as with a low temperature that is annealed.

    ## References
    Derrida 1981; Zhai et al. 2023 (arXiv:2303.06296); Dehghani et al. 2023 (ViT-22B, arXiv:2302.05442), §2.
    """

    code = "GL311"
    name = "saturated-softmax"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        outputs = {
            call.name for layer in context.evidence.layers if layer.output for call in context.evidence.ops.ahead(layer.call.name)
        }
        groups: dict[Location | None, list[Scores]] = {}
        for scores in context.evidence.scores:
            unscaled = scores.width is not None and not scores.scaled
            if scores.variance is None or scores.keys < 2 or unscaled or scores.call.name in outputs:
                continue
            if scores.variance >= max(2 * math.log(scores.keys), LIMITS["logits"].warning ** 2):
                groups.setdefault(scores.call.location, []).append(scores)
        for place, members in groups.items():
            worst = max(members, key=lambda s: s.variance or 0.0)
            size = math.sqrt(worst.variance or 0.0)
            yield self.finding(
                context,
                place,
                f"the scores of this softmax have size {size:.3g}: over {worst.keys} entries one of them takes nearly all",
                severity=Severity.WARNING if size > LIMITS["scores"].warning else Severity.INFO,
                module=worst.call.module,
                evidence={"quantity": "std of the scores", "measured": size, "expected": 1.0, "entries": worst.keys},
                instances=[collapse(sorted({s.call.module or s.call.name for s in members}))],
                fix=f"divide the scores by {size:.3g}, or scale the weights that make them by {1 / size:.2g}",
            )
