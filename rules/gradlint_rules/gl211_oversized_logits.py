"""GL211 oversized-logits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Layer, Rule, Severity
from gradlint_rules._logits import initial_loss

__all__ = ["OversizedLogits"]

_PROBABILITIES = ("softmax", "log_softmax", "cross_entropy")


class OversizedLogits(Rule):
    """Logits so large at the start that the model is certain of wrong answers.

    ## What it finds
    Output layers in front of a softmax, and heads of language models over the vocabulary, whose logits have a standard
    deviation of many units.

    ## Why it matters
    The loss starts at several times ln C and falls at once when the logits shrink: the first steps are spent on that,
    with gradients that are too large, and units behind saturated activations may not come back.

    ## How it is computed
    As for GL210: the predicted size of the logits gives the loss at the start, ``ln C + v/2`` or ``√(2 v ln C)``. A
    warning beyond twice ln C and a size of three.

    ## What to do
    Scale the weights of the last layer down by the factor in the fix, or start them at zero.

    ## When to ignore it
    When the head is loaded before use.

    ## References
    Goyal et al. 2017 (arXiv:1706.02677), §5.1 on small last layers; Derrida 1981.
    """

    code = "GL211"
    name = "oversized-logits"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        ops = context.evidence.ops
        embeddings = {
            ref.parameter for call in ops.calls.values() if "embedding" in call.op for ref in call.inputs if ref.parameter
        }
        vocabularies = {record.shape[0] for name, record in context.parameters.items() if name in embeddings}
        for layer in context.evidence.layers:
            law = context.forward(layer.call.name)
            if not layer.output or law is None or layer.weight in embeddings or not _classifies(context, layer, vocabularies):
                continue
            classes = layer.call.shape[-1]
            loss, even = initial_loss(law.rms, classes), math.log(max(classes, 2))
            if loss < LIMITS["loss"].warning * even or law.rms < LIMITS["logits"].warning:
                continue
            weight = context.parameters[layer.weight].law
            yield self.finding(
                context,
                context.guilty_line(layer.weight),
                f"logits of size {law.rms:.3g}: a loss of {loss:.3g} at the start where ln {classes} = {even:.3g}",
                module=layer.call.module,
                evidence={"quantity": "loss at initialisation", "measured": loss, "expected": even, "logit_rms": law.rms},
                instances=[layer.weight],
                fix=f"std {weight.std:.3g} → {weight.std / law.rms:.3g} in the last layer, for logits of size 1",
            )


def _classifies(context: Context, layer: Layer, vocabularies: set[int]) -> bool:
    """A softmax follows, or the outputs are the words of a vocabulary."""
    shape = layer.call.shape
    behind = any(call.op in _PROBABILITIES for call in context.evidence.ops.ahead(layer.call.name))
    return len(shape) > 1 and shape[-1] > 1 and (behind or shape[-1] in vocabularies)
