"""GL302 bias-before-norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Cancelled, Claim, Context, Finding, Location, Place, Rule, Severity, collapse

__all__ = ["BiasBeforeNorm"]


class BiasBeforeNorm(Rule):
    """Dead parameters: biases that the op behind them takes out again.

    ## What it finds
    Parameters that only shift a tensor, in front of something that does not see the shift: a bias before BatchNorm or
    InstanceNorm, which subtract the mean, or the bias of the keys of an attention, which adds the same number to every score
    of a softmax.

    ## Why it matters
    It is harmless, and wasteful: the gradient is zero by symmetry, at every step, whatever the values. Weight decay is all that
    such a parameter ever feels. It is not a vanishing gradient, and a tool that looks for small gradients should skip it.

    ## How it is computed
    The gradient of a bias is the sum of the gradient of what it is added to. Where that sum is predicted to be zero
    though its terms are not, the parameter is dead. Parameters behind a zero (zero-initialised branches), where the terms
    are zero at first, are not reported.

    ## What to do
    Construct the layer with ``bias=False``; the norm has a bias of its own.

    ## When to ignore it
    When the checkpoint format or a library fixes the layer.

    ## References
    Ioffe & Szegedy 2015 (arXiv:1502.03167), §3.2.
    """

    code = "GL302"
    name = "bias-before-norm"
    severity = Severity.INFO

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, str], list[Cancelled]] = {}
        for found in context.cancelled:
            groups.setdefault((context.parameters[found.parameter].location, found.by), []).append(found)
        for (place, by), members in groups.items():
            names, usual = [found.parameter for found in members], max(found.usual for found in members)
            what = f"{len(names)} biases built here are dead parameters" if len(names) > 1 else f"{names[0]} is a dead parameter"
            yield self.finding(
                context,
                place,
                f"{what}: the {by or 'op'} behind takes out what is added there, and the gradient is always zero",
                module=names[0].rpartition(".")[0],
                evidence={"quantity": "gradient rms of the bias", "measured": 0.0, "expected": usual},
                instances=[collapse(names)],
                fix="construct the layer with bias=False" + ("; the norm has a bias of its own" if "norm" in by else ""),
                claim=Claim(tuple(Place("parameter", name) for name in names), -math.inf, usual=usual),
            )
