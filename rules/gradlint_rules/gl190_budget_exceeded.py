"""GL190 budget-exceeded."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Context, Finding, Moments, Rule, Severity, collapse, times

__all__ = ["BudgetExceeded"]

_FP16_LARGEST = 65504.0


class BudgetExceeded(Rule):
    """A gain or range outside the budget that the configuration sets.

    ## What it finds
    An end-to-end gain of the gradient above ``max-gain`` or below ``min-gain``, and activations whose largest entry leaves fewer
    than ``fp16-headroom-bits`` to the largest number of half precision. Without these settings it finds nothing.

    ## Why it matters
    The limits of the other rules are where training is known to fail. A project may want to stay where it is, well inside them,
    and to hear of the commit that leaves.

    ## How it is computed
    The gain is that of GL101, in root mean square over draws of the weights. The largest of n Gaussian entries is near
    √(2 ln n) times their root mean square.

    ## What to do
    Mend what the chain of causes names, or change the budget.

    ## When to ignore it
    Change the budget instead: it is yours.

    ## References
    Extremes of Gaussian samples: Leadbetter, Lindgren & Rootzén 1983, §1.7.
    """

    code = "GL190"
    name = "budget-exceeded"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        yield from self._gain(context)
        yield from self._range(context)

    def _gain(self, context: Context) -> Iterable[Finding]:
        log2 = context.paths.log2
        if log2 is None:
            return
        for sign, name, limit in ((1, "max-gain", context.settings.max_gain), (-1, "min-gain", context.settings.min_gain)):
            if limit is None or sign * (log2 - math.log2(limit)) <= 0:
                continue
            group = context.worst_group(context.paths.segments, sign)
            yield self.finding(
                context,
                context.constructed(""),
                f"the gradient is scaled {times(log2)} from the loss to the input: {name} is {limit:g}",
                evidence={
                    "quantity": "gradient norm at the input / at the output",
                    "measured": 2.0 ** max(min(log2, 1000.0), -1000.0),
                    "expected": limit,
                },
                factors=context.causes(context.paths.segments),
                instances=[collapse([s.parameter or s.module or s.start for s in group])] if group else [context.target],
                fix=f"find {times(math.log2(limit) - log2)} along the path, or set {name} = {2.0 ** min(log2, 1000.0):.3g}",
                claim=context.claim(context.paths.segments, log2),
            )

    def _range(self, context: Context) -> Iterable[Finding]:
        wanted = context.settings.fp16_headroom_bits
        if wanted is None:
            return
        peaks = {node: peak for node in context.steps if (peak := _peak(context.forward(node))) > 0}
        if not peaks:
            return
        node = max(peaks, key=peaks.__getitem__)
        headroom = math.log2(_FP16_LARGEST / peaks[node])
        if headroom < wanted:
            yield self.finding(
                context,
                context.steps[node].location or context.constructed(""),
                f"the largest entry of {node} is near {peaks[node]:.3g}: {headroom:.1f} bits below the largest number of half "
                f"precision, the budget is {wanted:g}",
                module=context.steps[node].module,
                evidence={"quantity": "largest activation", "measured": peaks[node], "expected": _FP16_LARGEST / 2.0**wanted},
                instances=[context.steps[node].module or node],
                fix=f"scale {node} by {2.0 ** (headroom - wanted):.3g}, or run it in bfloat16 or single precision",
            )


def _peak(moments: Moments | None) -> float:
    """The largest entry that a tensor is likely to have; 0 where nothing is known."""
    if moments is None or not math.isfinite(moments.rms):
        return 0.0
    return moments.rms * math.sqrt(max(1.0, 2 * math.log(max(math.prod(moments.shape), 1))))
