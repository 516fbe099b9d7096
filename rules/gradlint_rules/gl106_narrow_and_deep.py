"""GL106 narrow-and-deep."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Location, Rule, Segment, Severity, collapse, times

__all__ = ["NarrowAndDeep"]


class NarrowAndDeep(Rule):
    """Layers so narrow, and so many, that the gradient is a matter of luck.

    ## What it finds
    Networks whose gradient norm differs by factors from one draw of the weights to the next, because many narrow layers follow
    one another.

    ## Why it matters
    Each layer of n units multiplies the squared gradient by a random factor of variance 5/n (ReLU). Over the layers the
    logarithms add up: the mean over draws is the work of a few that explode, the typical draw vanishes, and whether a run trains
    depends on its seed. No standard deviation mends it.

    ## How it is computed
    The squared norms of activations and gradients are followed through the graph over draws of the weights, layer by layer, sums
    and norms included; for a stack of ReLU layers the variance of ln‖g‖² is ``5 Σ 1/n`` (Hanin 2018; Hanin & Nica 2019).

    ## What to do
    Make the layers wider: the spread falls with the root of the width. Or use fewer layers, or skip connections.

    ## When to ignore it
    When seeds are drawn until one trains.

    ## References
    Hanin 2018 (arXiv:1801.03744); Hanin & Nica 2019 (arXiv:1812.05994), theorem 3; Hanin & Rolnick 2018 (arXiv:1803.01719), §4.
    """

    code = "GL106"
    name = "narrow-and-deep"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["luck"]
        spread = context.spread
        if spread is None or spread.bits < limit.warning:
            return
        groups: dict[Location | None, list[Segment]] = {}
        for s in context.paths.segments:
            if s.cause == "weights" and s.parameter is not None:
                groups.setdefault(context.blamed(s), []).append(s)
        if not groups:
            return
        place, group = max(groups.items(), key=lambda item: sum(1 / context.width(s) for s in item[1]))
        narrow = min(context.width(s) for s in group)
        wider = math.ceil(narrow * (spread.bits / limit.warning) ** 2)
        variance = (2 * math.log(2) * spread.bits) ** 2
        low, high = spread.ends
        yield self.finding(
            context,
            place,
            f"the gradient is a matter of luck: {times(low)} to {times(high)} of the mean in 80 % of the draws, over "
            f"{len(group)} layers of {narrow} units",
            severity=Severity.ERROR if spread.bits >= limit.error else Severity.WARNING,
            module=group[0].module,
            evidence={
                "quantity": "standard deviation of log2 of the gradient norm",
                "measured": spread.bits,
                "expected": limit.warning,
                "variance_of_ln": variance,
                "layers": len(group),
                "width": narrow,
            },
            instances=[collapse(str(s.parameter) for s in group)],
            notes=[f"variance of ln‖g‖² {variance:.2g} (5 Σ 1/n of ReLU layers); the median draw has {times(spread.typical)}"],
            fix=f"width {narrow} → {wider}: then 80 % of the draws lie within {times(1.2816 * limit.warning)} of the median",
        )
