"""GL508 gradient-underflow."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Context, Finding, Rule, Severity, collapse, times
from gradlint_rules._precision import FORMATS, SCALE, half, peak

__all__ = ["GradientUnderflow"]


class GradientUnderflow(Rule):
    """Gradients that are zero in half precision, at any loss scale that the others allow.

    ## What it finds
    Models computed in float16 in which the gradient's size differs so much between layers that no loss scale holds both
    ends, and models whose weights are float16 themselves, without a scaler, whose gradients fall below 6e-8.

    ## Why it matters
    What underflows does not train. It goes unseen: the loss falls for a while, by what the other layers learn.

    ## How it is computed
    The predicted root mean square of every gradient, relative to the largest. The loss scale can rise until the largest
    entries reach 65504; what is then below 3e-8 is zero. Without a scaler the loss is taken as a mean over the outputs,
    of unit derivative.

    ## What to do
    bfloat16, whose range is that of single precision; or bring the layers to one scale (norms, He weights); or, for
    float16 weights, ``torch.amp.GradScaler``.

    ## When to ignore it
    When the layers at the small end are frozen.

    ## References
    Micikevicius et al. 2018 (arXiv:1710.03740), §3.2; PyTorch documentation of ``torch.amp.GradScaler``.
    """

    code = "GL508"
    name = "gradient-underflow"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        if not half(context):
            return
        grads = {
            name: facts.grad_rms
            for name, facts in context.analysis.parameters.items()
            if facts.grad_rms and context.parameters[name].requires_grad and len(facts.shape) > 1
        }
        if not grads:
            return
        kind = FORMATS["float16"]
        largest = max(peak(rms, math.prod(context.parameters[name].shape)) for name, rms in grads.items())
        scale = _scale(context, largest)
        lost = [name for name, rms in grads.items() if rms * 2.0**scale < kind.low]
        if not lost:
            return
        worst = min(lost, key=lambda name: grads[name])
        share = times(math.log2(grads[worst] / largest))
        yield self.finding(
            context,
            context.guilty_line(worst),
            f"the gradients of {len(lost)} of {len(grads)} weights are zero in float16: {share} of the largest, "
            f"with the loss times 2^{scale:.0f}",
            module=worst.rpartition(".")[0],
            evidence={
                "quantity": "gradient rms, scaled",
                "measured": grads[worst] * 2.0**scale,
                "expected": kind.low,
                "log2_scale": scale,
            },
            instances=[collapse(lost)],
            fix="torch.bfloat16, which has the range of single precision"
            + ("" if _scaled(context) else "; or torch.amp.GradScaler with float32 weights")
            + f"; or bring the layers to one scale: the smallest is {share} of the largest",
        )


def _scaled(context: Context) -> bool:
    """Weights are in single precision: mixed precision, with a scaler."""
    return all(record.dtype != "float16" for record in context.parameters.values())


def _scale(context: Context, largest: float) -> float:
    """log2 of what the gradients are multiplied with: the loss scale, over the number of outputs that the loss averages."""
    outputs = context.evidence.ops.output_size
    if not _scaled(context):
        return -math.log2(outputs)
    room = math.log2(FORMATS["float16"].high / largest)
    return max(room, min(SCALE - math.log2(outputs), room))
