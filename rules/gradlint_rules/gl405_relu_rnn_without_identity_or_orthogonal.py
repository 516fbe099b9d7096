"""GL405 relu-rnn-without-identity-or-orthogonal."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, times
from gradlint_rules._recurrence import judged, lost

__all__ = ["ReluRnnWithoutIdentityOrOrthogonal"]


class ReluRnnWithoutIdentityOrOrthogonal(Rule):
    """A recurrent cell with ReLU whose matrix is neither the identity nor orthogonal.

    ## What it finds
    Plain recurrent cells with ReLU on independently drawn weights, whose gradient leaves the healthy band within the sequence.
    It is information, unless the steps that the task needs are stated (``horizon``).

    ## Why it matters
    A ReLU neither saturates nor holds back: what a random matrix and half of the units do not keep is lost at every step, and
    what they amplify grows without bound. Started from the identity, units that are active stay so and carry the gradient
    unchanged; that is what makes such a cell trainable at all.

    ## How it is computed
    The gradient of the last state is followed back step by step: a factor ``s√H·√½`` per step for independent entries of
    standard deviation s.

    ## What to do
    ``nn.init.eye_(weight_hh)`` with zero biases and small input weights, or ``nn.init.orthogonal_`` with gain √2.

    ## When to ignore it
    When the answer lies in the last few steps.

    ## References
    Le, Jaitly & Hinton 2015 (arXiv:1504.00941); Talathi & Vartak 2016 (arXiv:1511.03771).
    """

    code = "GL405"
    name = "relu-rnn-without-identity-or-orthogonal"
    severity = Severity.INFO

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        horizon = context.settings.horizon_of(context.target)
        for found in judged(context):
            recurrence, needed = found.recurrence, horizon or found.steps
            if not recurrence.rectified or recurrence.bypass or not recurrence.parameters:
                continue
            law = context.parameters[found.name].law
            if law.kind in ("orthogonal", "identity", "values", "mixed"):
                continue
            log2 = found.curve.at(needed)
            if LIMITS["vanish"].warning < log2 < LIMITS["recurrence"].warning:
                continue
            yield self.finding(
                context,
                found.place,
                f"a ReLU recurrence on {law.kind} weights: {times(log2)} of the gradient over {needed} steps, {found.gain} each",
                severity=Severity.INFO if horizon is None else Severity.WARNING,
                module=recurrence.module,
                evidence={
                    "quantity": "growth per step",
                    "measured": 2.0**found.curve.per_step,
                    "expected": 1.0,
                    "log2": log2,
                    "steps": needed,
                },
                factors=(
                    Factor("weights", found.curve.per_step + 0.5, "radius of the matrix"),
                    Factor("activation", -0.5, "half of the units are active"),
                ),
                instances=found.names,
                notes=[lost(found.curve)] if log2 < 0 else [],
                fix=f"nn.init.eye_({found.name}): active units carry the gradient unchanged; or nn.init.orthogonal_(gain=1.41)",
            )
