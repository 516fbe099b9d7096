"""GL108 steep-start."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity, collapse

__all__ = ["SteepStart"]


class SteepStart(Rule):
    """A loss so steep at initialisation that no usual learning rate is stable.

    ## What it finds
    Networks whose output moves so far for a small step of the weights that gradient descent overshoots at every learning rate in
    common use, though the gradient's gain from end to end may be within its limits: shallow networks with weights several times
    too large, large output layers behind wide activations.

    ## Why it matters
    The first step of SGD throws the outputs further from the targets than they were; the loss diverges, or all units die.
    Adam's steps have a size of their own and stay finite, but what they move is still too steep to settle.

    ## How it is computed
    ``Θ``, the squared gradient of one output summed over the trainable parameters (the diagonal of the neural tangent kernel,
    Jacot et al. 2018; without zeros, and without weights whose scale a norm takes out: a step relaxes them), times the second
    derivative of the loss in its output: 2 of a mean squared error where there is one output, 1/C of a cross entropy where
    there are C. Gradient descent is unstable above a learning rate of 2 over it; networks recover from a few times that and
    no more (Lewkowycz et al. 2020). The limit lies just beyond what healthy networks have, and a fit on networks that were
    trained asks for nothing laxer.

    ## What to do
    Reduce the standard deviation of the weights that amplify most, or of the output layer; where they are right, a warm-up from
    the learning rate in the message.

    ## When to ignore it
    With normalisation everywhere and a warm-up.

    ## References
    Jacot, Gabriel & Hongler 2018 (arXiv:1806.07572); Lee et al. 2019 (arXiv:1902.06720); Lewkowycz et al. 2020
    (arXiv:2003.02218).
    """

    code = "GL108"
    name = "steep-start"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit, curvature = LIMITS["steep"], context.symptoms.lasting_curvature
        if curvature is None or curvature < limit.warning:
            return
        total = context.paths.log2
        if total is None or total + context.typical >= LIMITS["explode"].warning:
            return  # exploding-path says it, and where
        group = context.worst_group(context.paths.segments, +1)
        if not group:
            return
        rate = 2.0 ** (1 - curvature)
        yield self.finding(
            context,
            context.blamed(group[0]),
            f"the loss is so steep at the start that gradient descent is stable only below a learning rate of {rate:.1e}",
            severity=Severity.ERROR if curvature >= limit.error else Severity.WARNING,
            module=group[0].module,
            evidence={
                "quantity": "largest stable learning rate",
                "measured": rate,
                "expected": 2.0 ** (1 - limit.warning),
                "log2_curvature": curvature,
            },
            factors=context.causes(context.paths.segments),
            instances=[collapse([s.parameter or s.module for s in group])],
            fix="reduce the standard deviation of the weights built here, or of the output layer",
        )
