"""GL210 tied-head-scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity
from gradlint_rules._logits import initial_loss

__all__ = ["TiedHeadScale"]


class TiedHeadScale(Rule):
    """A head that shares the weights of an embedding drawn for a lookup, not for a product.

    ## What it finds
    Language models whose output layer is the embedding itself, where the embedding keeps the standard deviation 1 that
    ``nn.Embedding`` starts with, or another that makes the logits large.

    ## Why it matters
    A lookup wants entries of size 1; a product sums d of them, and the logits get a standard deviation of √d. The loss
    starts many times above ln C, the softmax is saturated, and the first steps undo the initialisation of everything.

    ## How it is computed
    The predicted root mean square of the logits gives the loss at the start: ``ln C + v/2`` for a variance v below ``2 ln C``,
    ``√(2 v ln C)`` above. Twice ln C is too much.

    ## What to do
    ``nn.init.normal_(embedding.weight, std=0.02)``, or ``d**-0.5`` with the embeddings multiplied by √d on their way in.

    ## When to ignore it
    When a learned or fixed temperature that gradlint does not see divides the logits.

    ## References
    Press & Wolf 2017 (arXiv:1608.05859); Vaswani et al. 2017 (arXiv:1706.03762), §3.4; Derrida 1981.
    """

    code = "GL210"
    name = "tied-head-scale"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        looked_up = context.evidence.ops.tables()
        for layer in context.evidence.layers:
            law = context.forward(layer.call.name)
            if layer.weight not in looked_up or not layer.output or law is None or not layer.call.shape:
                continue
            classes = layer.call.shape[-1]
            loss, even = initial_loss(law.rms, classes), math.log(max(classes, 2))
            if loss < LIMITS["loss"].warning * even:
                continue
            weight = context.parameters[layer.weight].law
            right = weight.std / law.rms
            yield self.finding(
                context,
                context.guilty_line(layer.weight),
                f"the head is the embedding, with std {weight.std:.3g}: logits of size {law.rms:.3g}, a loss of {loss:.3g} at "
                f"the start where ln {classes} = {even:.3g}",
                module=layer.call.module,
                evidence={"quantity": "loss at initialisation", "measured": loss, "expected": even, "logit_rms": law.rms},
                instances=[layer.weight],
                fix=f"nn.init.normal_(embedding.weight, std={min(right, 0.02):.2g}); std {right:.2g} gives logits of size 1",
            )
