"""GL105 correlation-collapse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gradlint.rule import LIMITS, Collapse, Context, Finding, Location, Rule, Segment, Severity, collapse

__all__ = ["CorrelationCollapse"]

_POOLED = 16
"""Entries of which one is made by a mean that hides what samples have of their own."""


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
    positions nothing is judged: it makes noise alike, and images not. Samples are judged over twelve layers and more: what the
    biases of a few layers do is mended in the first steps.

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
        limit, symptoms = LIMITS["collapse"], context.symptoms
        for axis, found in (("samples", symptoms.samples), ("positions", symptoms.tokens)):
            judged = _before_pooling(context, found)
            if not judged or judged[-1].log2 > limit.warning:
                continue
            crossed = next(at for at in judged if at.log2 <= limit.warning)
            layers, within = (_until(context, at, axis) for at in (judged[-1], crossed))
            group = _most(context, layers)
            if not group or (axis == "samples" and len(layers) < LIMITS["collapse_layers"].warning):
                continue
            what = "different inputs" if axis == "samples" else "different positions of one input"
            share = 2.0 ** judged[-1].log2
            needed = axis == "samples" or _answers_positions(context, judged[-1])
            yield self.finding(
                context,
                context.blamed(group[0]),
                f"{what} become the same over {len(layers)} layers: their hidden states differ by {share:.1e} of the mean square "
                "(1 − ρ)",
                severity=Severity.WARNING if needed else Severity.INFO,
                module=group[0].module,
                evidence={
                    "quantity": f"1 − ρ of {axis}",
                    "measured": share,
                    "expected": 2.0**limit.warning,
                    "log2": judged[-1].log2,
                    "layers": len(layers),
                    "layers_within_limit": len(within) - 1,
                },
                instances=[collapse(s.parameter or s.module for s in group)],
                notes=[f"1 − ρ falls below {2.0**limit.warning:.2g} after {len(within)} of {len(layers)} layers"],
                fix=f"keep the residual connection around every layer, or at most {max(len(within) - 1, 1)} layers without one",
            )


def _before_pooling(context: Context, found: Sequence[Collapse]) -> Sequence[Collapse]:
    """What is not behind a mean over many positions, from the input on."""
    inside: list[str] = []
    for s in reversed(context.paths.segments):
        inside.append(s.end)
        before, behind = context.forward(s.end), context.forward(s.start)
        sizes = [0 if x is None else math.prod(x.shape) for x in (before, behind)]
        if s.cause == "pooling" and sizes[1] * _POOLED <= sizes[0]:
            break
    return [at for at in found if at.node in inside]


def _answers_positions(context: Context, at: Collapse) -> bool:
    """Whether the output has an entry for each position of a hidden tensor."""
    hidden, output = context.forward(at.node), context.forward(context.analysis.flowed.traced.output)
    return hidden is not None and output is not None and len(output.shape) > 2 and output.shape[1] == hidden.shape[1]


def _until(context: Context, at: Collapse, axis: str) -> Sequence[Segment]:
    """Layers between the input and a tensor, from the tensor on."""
    segments = context.paths.segments
    first = next(i for i, s in enumerate(segments) if s.end == at.node)
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
