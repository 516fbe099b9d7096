"""GL209 unscaled-residual."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Location, Rule, Severity, Stream, collapse, times

__all__ = ["UnscaledResidual"]


class UnscaledResidual(Rule):
    """Residual streams that grow by the same factor in every block.

    ## What it finds
    Chains of ``x + f(x)`` whose branches grow with the stream: no norm in front of them, no scale that falls with depth,
    no zero initialisation.

    ## Why it matters
    A branch as large as the stream doubles its variance. Twenty blocks make it a million times larger, and the gradient
    with it; the same branches behind a norm let it grow with the number of blocks only, which is harmless.

    ## How it is computed
    The predicted root mean square of the stream behind every sum. Growth by a factor per block shows in the second half
    of the chain: a stream that grows with the square root of depth gains half a bit there, whatever the depth.

    ## What to do
    Normalise the input of each branch, scale the branches by 1/√L for L of them, or start the last layer of each at zero
    (Fixup, ReZero, LayerScale).

    ## When to ignore it
    When a norm at the end of the stream is followed by little else, in forward-only uses.

    ## References
    Hanin & Rolnick 2018 (arXiv:1803.01719); Zhang et al. 2019 (arXiv:1901.09321); De & Smith 2020 (arXiv:2002.10444).
    """

    code = "GL209"
    name = "unscaled-residual"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[tuple[Stream, float]]] = {}
        for stream in context.evidence.streams:
            growth = _late(stream)
            if growth >= LIMITS["stream"].warning:
                groups.setdefault(stream.sums[-1].location, []).append((stream, growth))
        for place, members in groups.items():
            stream, late = max(members, key=lambda m: m[1])
            count = len(stream.sums)
            total = math.log2(stream.rms[-1] / stream.rms[0])
            share = stream.branches[-1] / stream.rms[-2]
            yield self.finding(
                context,
                place,
                f"the residual stream grows {times(total)} over {count} sums, {times(late)} in the second half: each branch adds "
                f"{share:.2g} of the stream",
                severity=Severity.ERROR if late >= LIMITS["stream"].error else Severity.WARNING,
                module=stream.sums[-1].module,
                evidence={
                    "quantity": "branch / stream",
                    "measured": share,
                    "expected": count**-0.5,
                    "log2": total,
                    "sums": count,
                },
                instances=[collapse(call.module or call.name for call in stream.sums)],
                fix=f"scale each branch by 1/√{count} = {count**-0.5:.2g}, normalise its input, or start its last layer at zero",
            )


def _late(stream: Stream) -> float:
    """Bits that the stream grows by over the second half of its sums."""
    middle = stream.rms[len(stream.sums) // 2]
    if middle <= 0 or stream.rms[0] <= 0 or stream.rms[-1] <= 0:
        return 0.0
    return math.log2(stream.rms[-1] / middle)
