"""GL103 residual-growth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradlint.rule import LIMITS, Context, Finding, Location, Rule, Segment, Severity, collapse, times
from gradlint_rules._spine import stretch

__all__ = ["ResidualGrowth"]

_FEWEST = 3


class ResidualGrowth(Rule):
    """Residual sums that grow the signal and the gradient in every block.

    ## What it finds
    A chain of residual sums ``x + f(x)`` whose branches are not normalised and not scaled down, so that each sum adds to the
    variance of the activations, and of the gradient on the way back, in proportion to what is already there.

    ## Why it matters
    With weights that are right in a plain stack the variance doubles per block: 50 blocks are 2^50, on the way forward and on
    the way back. SGD diverges, half precision overflows after some 27 blocks, and the loss starts far above that of a guess.

    ## How it is computed
    The gain over the residual sums, what lies between them included, on the way that all gradient takes. The branch's own gain g
    makes ``√(1 + g²)`` per sum; normalised branches add a constant instead, and grow with the root of the depth only (De & Smith
    2020, §3). So the half of the sums nearest the loss has to show half of the growth, where those would gain half a bit.

    ## What to do
    Scale each branch by the number in the fix (``1/√L``), start its last layer at zero (Fixup), multiply it by a learned scalar
    that starts at zero (ReZero, SkipInit), or normalise its input (pre-norm, BatchNorm).

    ## When to ignore it
    When the branches are overwritten by a checkpoint.

    ## References
    Zhang, Dauphin & Ma 2019 (Fixup, arXiv:1901.09321), §2; De & Smith 2020 (SkipInit, arXiv:2002.10444); Bachlechner et al. 2021
    (ReZero, arXiv:2003.04887); Hanin & Rolnick 2018 (arXiv:1803.01719), §5.
    """

    code = "GL103"
    name = "residual-growth"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit, segments = LIMITS["residual"], context.paths.segments
        groups: dict[Location | None, list[Segment]] = {}
        for s in segments:
            if s.cause == "residual":
                groups.setdefault(context.blamed(s), []).append(s)
        for place, group in groups.items():
            chain, count = stretch(segments, group), len(group)
            total = min(sum(s.log2 for s in chain), 2 * _late(segments, group))
            if count < _FEWEST or total < limit.warning:
                continue
            per_sum, scale = total / count, count**-0.5
            reaches = int(limit.warning / per_sum)
            before, behind = context.forward(group[-1].end), context.forward(group[0].start)
            notes = [f"{times(per_sum)} per sum: within the healthy band up to {reaches} sums, the model has {count}"]
            if before is not None and behind is not None and before.rms > 0 and 0 < behind.rms < float("inf"):
                notes.append(f"the activations go from {before.rms:.2g} to {behind.rms:.2g} over the same sums")
            yield self.finding(
                context,
                place,
                f"{count} residual sums here amplify the gradient {times(total)}: {times(per_sum)} each",
                severity=Severity.ERROR if total >= limit.error else Severity.WARNING,
                module=group[0].module,
                evidence={
                    "quantity": "gradient norm in front of the sums / behind them",
                    "measured": 2.0 ** min(total, 1000),
                    "expected": 2.0**limit.warning,
                    "log2": total,
                    "log2_per_sum": per_sum,
                    "sums": count,
                    "sums_within_limit": reaches,
                },
                factors=context.causes(chain),
                instances=[collapse([s.module or s.start for s in group])],
                notes=notes,
                fix=f"scale each branch by 1/√{count} = {scale:.2g}, start its last layer at zero, or normalise its input",
                claim=context.claim(chain, sum(s.log2 for s in chain)),
            )


def _late(segments: Sequence[Segment], group: Sequence[Segment]) -> float:
    """Bits over the half of the sums nearest the loss: half a bit for a stream of normalised branches, whatever its depth."""
    first, middle = segments.index(group[0]), segments.index(group[len(group) // 2])
    return sum(s.log2 for s in segments[first:middle])
