"""GL310 unscaled-attention."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Location, Rule, Scores, Severity, collapse

__all__ = ["UnscaledAttention"]


class UnscaledAttention(Rule):
    """Attention scores without 1/√d whose softmax is nearly one-hot at the start.

    ## What it finds
    Products of queries and keys that go into a softmax as they are, where their predicted variance is large. Models that
    keep the scores small by their initialisation (T5) are not meant.

    ## Why it matters
    A product of d terms has a variance of d. A softmax of such scores picks one key; its gradient is then next to nothing, so
    that queries and keys do not learn to look elsewhere.

    ## How it is computed
    The predicted variance of the scores within a row, against ``2 ln n`` for n keys, beyond which a few keys take all the
    weight (random energy model, Derrida 1981); half of that is where it begins.

    ## What to do
    Divide by √d: ``q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])``, or use ``F.scaled_dot_product_attention``.

    ## When to ignore it
    When a learned temperature or a norm of queries and keys comes in by a way that gradlint does not see.

    ## References
    Vaswani et al. 2017 (arXiv:1706.03762), §3.2.1; Zhai et al. 2023 (entropy collapse, arXiv:2303.06296); Raffel et al.
    2020 (T5).
    """

    code = "GL310"
    name = "unscaled-attention"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[Scores]] = {}
        for scores in context.evidence.scores:
            if scores.width is None or scores.width < 4 or scores.scaled or scores.variance is None or scores.keys < 2:
                continue
            if scores.variance >= LIMITS["unscaled"].warning * math.log(scores.keys):
                groups.setdefault(scores.call.location, []).append(scores)
        for place, members in groups.items():
            worst = max(members, key=lambda s: s.variance or 0.0)
            width, variance = worst.width or 1, worst.variance or 0.0
            yield self.finding(
                context,
                place,
                f"the scores of {width} products each are not divided by √{width}: their variance is {variance:.3g}, where "
                f"{2 * math.log(worst.keys):.3g} makes a softmax over {worst.keys} keys one-hot",
                module=worst.call.module,
                evidence={
                    "quantity": "variance of the scores",
                    "measured": variance,
                    "expected": variance / width,
                    "keys": worst.keys,
                },
                instances=[collapse(sorted({s.call.module or s.call.name for s in members}))],
                fix=f"divide the scores by √{width} = {math.sqrt(width):.3g}: variance {variance / width:.2g}",
            )
