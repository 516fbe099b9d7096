"""GL105 correlation-collapse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradlint.rule import LIMITS, Alike, Context, Finding, Location, Rule, Segment, Severity, collapse

__all__ = ["CorrelationCollapse"]


class CorrelationCollapse(Rule):
    """Layers that make all samples, or all positions, the same.

    ## What it finds
    Stacks in which two different inputs, or two different tokens of one input, arrive at nearly the same hidden state: deep ReLU
    networks without skips, networks in the ordered phase, attention layers without residual connections.

    ## Why it matters
    What all samples have in common is learned at once, by the bias of the head; of what tells them apart the loss hears
    ``1 − ρ`` times as much. The gradient's level may be perfectly healthy: SGD stands still at the loss of a constant answer, and
    Adam needs a learning rate so small that nothing else moves.

    ## How it is computed
    The correlation ρ of two samples (and of two positions) in every tensor that all gradient passes, by the map of correlations
    of each op (Poole et al. 2016; Schoenholz et al. 2017, eq. 9), on independent white-noise inputs. Behind a mean over many
    positions nothing is judged: it makes noise alike, and images not.

    ## What to do
    Add skip connections, normalise with BatchNorm, or use fewer layers: the fix says how many stay within the limit. Around
    attention keep the residual connection.

    ## When to ignore it
    When the inputs differ by far more than noise does, or a checkpoint replaces the weights.

    ## References
    Schoenholz et al. 2017 (arXiv:1611.01232); Hayou, Doucet & Rousseau 2019 (arXiv:1902.06853); Dong, Cordonnier & Loukas 2021
    (arXiv:2103.03404).
    """

    code = "GL105"
    name = "correlation-collapse"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["collapse"]
        for axis in ("samples", "positions"):
            found = [alike for alike in context.likeness if alike.axis == axis]
            worst = min(found, key=lambda alike: alike.log2, default=None)
            if worst is None or worst.log2 > limit.warning:
                continue
            crossed = next(alike for alike in found if alike.log2 <= limit.warning)
            layers = _until(context, worst, axis)
            group = _most(context, layers)
            if not group:
                continue
            within = len(_until(context, crossed, axis))
            what = "different inputs" if axis == "samples" else "different positions of one input"
            share = 2.0**worst.log2
            yield self.finding(
                context,
                context.blamed(group[0]),
                f"{what} become the same over {len(layers)} layers: their hidden states differ by {share:.1e} of the mean square "
                f"(1 − ρ)",
                module=group[0].module,
                evidence={
                    "quantity": f"1 − ρ of {axis}",
                    "measured": share,
                    "expected": 2.0**limit.warning,
                    "log2": worst.log2,
                    "layers": len(layers),
                    "layers_within_limit": within,
                },
                instances=[collapse(s.parameter or s.module for s in group)],
                notes=[f"1 − ρ falls below {2.0**limit.warning:.2g} after {within} of {len(layers)} layers"],
                fix=f"keep the residual connection around every layer, or at most {max(within - 1, 1)} layers without one",
            )


def _until(context: Context, alike: Alike, axis: str) -> Sequence[Segment]:
    """Layers between the input and a tensor, from the tensor on."""
    segments = context.paths.segments
    first = next(i for i, s in enumerate(segments) if s.end == alike.node)
    causes = {"weights", "residual", "attention", "recurrence"} if axis == "samples" else {"attention", "residual", "norm"}
    before = [s for s in segments[first + 1 :] if s.cause in causes]
    return before or segments[first + 1 :]


def _most(context: Context, layers: Sequence[Segment]) -> Sequence[Segment]:
    """Those of one source line that are the most."""
    groups: dict[Location | None, list[Segment]] = {}
    for s in layers:
        groups.setdefault(context.blamed(s), []).append(s)
    groups.pop(None, None)
    return max(groups.values(), key=len, default=[])
