"""GL507 activation-overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Op, Rule, Severity, collapse
from gradlint_rules._precision import Format, format_of, peak

__all__ = ["ActivationOverflow"]


class ActivationOverflow(Rule):
    """Activations beyond the largest number of the precision they are computed in.

    ## What it finds
    Tensors in float16 whose largest entries are predicted to exceed 65504, by the model's own dtype, by
    ``torch.autocast`` or by the precision that the training script asks for; and any tensor beyond single precision.

    ## Why it matters
    An overflow is infinite, and NaN one operation later. A loss scale does not help: it scales gradients, not activations.

    ## How it is computed
    The predicted root mean square times ``√(2 ln n)``, the size of the largest of n normal numbers, against the largest
    number of the format. Under mixed precision only products and convolutions are in half precision.

    ## What to do
    Normalise, scale the weights, or use bfloat16, which has the range of single precision.

    ## When to ignore it
    When the layer is kept in single precision by a context that gradlint does not see.

    ## References
    Micikevicius et al. 2018 (arXiv:1710.03740); Kalamkar et al. 2019 (bfloat16, arXiv:1905.12322).
    """

    code = "GL507"
    name = "activation-overflow"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["headroom"]
        found: list[tuple[Op, Format, float, float]] = []
        for call in context.evidence.ops.calls.values():
            law, kind = context.forward(call.name), format_of(context, call)
            if law is None or kind is None or not math.isfinite(law.rms) or law.rms <= 0:
                continue
            headroom = math.log2(kind.high) - math.log2(peak(law.rms, call.size))
            if headroom < limit.warning:
                found.append((call, kind, law.rms, headroom))
        if not found:
            return
        call, kind, rms, headroom = found[0]
        worst = min(member[3] for member in found)
        yield self.finding(
            context,
            call.location or context.constructed(call.module),
            f"the largest entries are {peak(rms, call.size):.3g} where {kind.name} ends at {kind.high:.5g}; {len(found)} tensors "
            "from here on",
            severity=Severity.ERROR if worst < limit.error else Severity.WARNING,
            module=call.module,
            evidence={"quantity": "largest entry", "measured": peak(rms, call.size), "expected": kind.high, "headroom": headroom},
            instances=[collapse(sorted({c.module or c.name for c, *_ in found}))],
            fix=f"bfloat16, or a norm before it, or weights ×{2.0 ** (headroom - 4):.2g}: four bits below the end of {kind.name}",
        )
