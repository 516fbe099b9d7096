"""GL312 missing-final-norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Op, Rule, Severity, collapse, times

__all__ = ["MissingFinalNorm"]


class MissingFinalNorm(Rule):
    """Pre-norm residual blocks whose stream reaches the head without a norm.

    ## What it finds
    Chains of ``x + f(norm(x))`` in which every branch normalises, and the layer behind the last sum reads the stream as it is.

    ## Why it matters
    The stream grows with the root of depth, by design: every branch normalises it. The head does not, so that its logits
    and its gradients grow with depth, and the scale of the blocks' outputs changes what the head sees all through
    training.

    ## How it is computed
    The predicted root mean square of the stream before the first and behind the last sum. Growth of more than 1.5 bits
    (2.8 times) is a finding.

    ## What to do
    ``self.norm = nn.LayerNorm(width)`` in front of the head, as in GPT-2 and ViT; a norm and activation in pre-activation
    ResNets.

    ## When to ignore it
    When the model is a backbone whose norm is part of the head that is put on it.

    ## References
    Xiong et al. 2020 (arXiv:2002.04745), §3; Radford et al. 2019 (GPT-2), §2.3; He et al. 2016 (arXiv:1603.05027).
    """

    code = "GL312"
    name = "missing-final-norm"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        layers = {layer.call.name: layer for layer in context.evidence.layers}
        for stream in context.evidence.streams:
            if not stream.entering or stream.leaving or len(stream.sums) < 4 or stream.rms[0] <= 0 or stream.rms[-1] <= 0:
                continue
            growth = math.log2(stream.rms[-1] / stream.rms[0])
            heads = [layers[c.name] for c in context.evidence.ops.ahead(stream.sums[-1].name, _pools) if c.name in layers]
            if growth < LIMITS["unnormed"].warning / 2 or not heads or not all(head.output for head in heads):
                continue
            head = heads[0]
            yield self.finding(
                context,
                context.constructed(head.weight.rpartition(".")[0]) or head.call.location,
                f"the head reads a stream of {len(stream.sums)} residual sums without a norm: grown {times(growth)}, to an "
                f"rms of {stream.rms[-1]:.2g}",
                severity=Severity.WARNING if stream.rms[-1] >= 2.0 ** LIMITS["unnormed"].warning else Severity.INFO,
                module=head.call.module,
                evidence={"quantity": "rms of the stream", "measured": stream.rms[-1], "expected": 1.0, "log2": growth},
                instances=[collapse(call.module or call.name for call in stream.sums)],
                fix=f"a norm in front of {head.weight.rpartition('.')[0] or 'the head'}: nn.LayerNorm({int(head.fan_in)})",
            )


def _pools(call: Op) -> bool:
    """Averages over positions stand between a stream and its head."""
    return call.op in ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d", "amax", "max")
