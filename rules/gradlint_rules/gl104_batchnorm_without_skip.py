"""GL104 batchnorm-without-skip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gradlint.rule import LIMITS, NEUTRAL, Context, Finding, Location, Rule, Segment, Severity, collapse, times
from gradlint_rules._spine import stretch

__all__ = ["BatchnormWithoutSkip"]

_SAME = {"weights", "norm", "activation", *NEUTRAL}


class BatchnormWithoutSkip(Rule):
    """Many layers with BatchNorm in a row, and no skip connection.

    ## What it finds
    A plain stack of layers, each followed by BatchNorm and an activation, so deep that the gradient has grown by orders of
    magnitude at its early layers.

    ## Why it matters
    BatchNorm keeps the activations, and hides the scale of the weights; on the way back every layer multiplies the gradient by
    ``√(π/(π − 1)) = 1.21`` with ReLU, whatever the weights, the width and the learning rate (Yang et al. 2019). Such networks
    of more than some fifty layers do not train. It is not to be mended by an initialisation.

    ## How it is computed
    The longest chain of BatchNorm layers on the way of all gradient without a sum, a concatenation or an attention between
    them, and the gain over it.

    ## What to do
    Add skip connections around every one or two layers; use fewer layers; or an activation that is nearly linear.

    ## When to ignore it
    When the skips are added by a wrapper that gradlint does not see.

    ## References
    Yang et al. 2019, A Mean Field Theory of Batch Normalization (arXiv:1902.08129), §3 and figure 1; De & Smith 2020
    (arXiv:2002.10444).
    """

    code = "GL104"
    name = "batchnorm-without-skip"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["batchnorm_chain"]
        for chain in _chains(context.paths.segments):
            norms = [s for s in chain if s.cause == "norm" and context.op(s.start) == "batch_norm"]
            inside = _layers(chain, norms)
            total, count = sum(s.log2 for s in inside), len(norms)
            if count < 2 or total < limit.warning:
                continue
            per_layer = total / count
            reaches = int(limit.warning / per_layer)
            places: dict[Location | None, list[Segment]] = {}
            for s in norms:
                places.setdefault(context.blamed(s), []).append(s)
            place, most = max(places.items(), key=lambda item: len(item[1]))
            yield self.finding(
                context,
                place,
                f"{count} layers with BatchNorm and no skip connection: the gradient grows {times(per_layer)} per layer, "
                f"{times(total)} in all",
                severity=Severity.ERROR if total >= limit.error else Severity.WARNING,
                module=most[0].module,
                evidence={
                    "quantity": "gradient norm in front of the stack / behind it",
                    "measured": 2.0**total,
                    "expected": 2.0**limit.warning,
                    "log2": total,
                    "log2_per_layer": per_layer,
                    "layers": count,
                    "layers_within_limit": reaches,
                },
                factors=context.causes(inside),
                instances=[collapse(s.module for s in norms)],
                notes=[f"{times(per_layer)} per layer: within the healthy band up to {reaches} layers, the model has {count}"],
                fix=f"add a skip connection around every one or two of the {count} layers, or keep {reaches} of them",
                claim=context.claim(inside, total),
            )


def _layers(chain: Sequence[Segment], norms: Sequence[Segment]) -> Sequence[Segment]:
    """Whole layers: each norm with the activation behind it and the weights in front of it, whose scale it undoes."""
    if not norms:
        return ()
    end = next((i for i in range(chain.index(norms[-1]), len(chain)) if chain[i].cause == "weights"), len(chain) - 1)
    return stretch(chain[: end + 1], [norms[0], chain[end]])


def _chains(segments: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
    """Stretches of the spine without a region of several paths."""
    chain: list[Segment] = []
    for s in segments:
        if s.cause in _SAME:
            chain.append(s)
        else:
            yield chain
            chain = []
    yield chain
