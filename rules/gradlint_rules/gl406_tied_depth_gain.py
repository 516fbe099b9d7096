"""GL406 tied-depth-gain."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, times
from gradlint_rules._recurrence import Judged, judged

__all__ = ["TiedDepthGain"]


class TiedDepthGain(Rule):
    """One block, applied again and again in depth, that grows or shrinks the gradient each time.

    ## What it finds
    Weight-tied depth (ALBERT, Universal and looped transformers, unrolled equilibrium models, iterative refinement) whose
    gradient explodes or vanishes over the model's own number of steps.

    ## Why it matters
    Layers with weights of their own add up at random: L residual branches of scale α grow the gradient by ``√(1+α²)`` each. One
    and the same branch adds up coherently, ``1 + α`` each time: 24 steps at α = 0.3 grow it 160-fold where untied layers grow it
    2.8-fold. What is right for a deep stack, 1/√L, is not for a tied one: that needs 1/L.

    ## How it is computed
    The gradient of the last step is followed back through all of them, with the covariance of what equal weights send.

    ## What to do
    Scale the branch by the number in the fix, normalise within the loop, or feed the input in at every step.

    ## When to ignore it
    When the number of steps in training is smaller than in the checked model, or gradients come from implicit differentiation.

    ## References
    Lan et al. 2020 (arXiv:1909.11942); Dehghani et al. 2019 (arXiv:1807.03819); Bai, Kolter & Koltun 2019 (arXiv:1909.01377).
    """

    code = "GL406"
    name = "tied-depth-gain"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        for found in judged(context, "depth"):
            grows = found.log2 > 0
            limit = LIMITS["recurrence" if grows else "vanish"]
            if abs(found.log2) < abs(limit.warning) or not (grows or found.recurrence.starved):
                continue
            reach = found.curve.reach(limit.warning) or 0
            yield self.finding(
                context,
                found.place,
                f"the gradient {'grows' if grows else 'shrinks'} {times(found.log2)} over {found.steps} steps of one block: "
                f"{found.gain} each, fine to {reach}",
                severity=Severity.ERROR if abs(found.log2) >= abs(limit.error) else Severity.WARNING,
                module=found.recurrence.module,
                evidence={
                    "quantity": "growth per step",
                    "measured": 2.0**found.curve.per_step,
                    "expected": 1.0,
                    "log2": found.log2,
                    "steps": found.steps,
                    "steps_within_limit": reach,
                },
                factors=(Factor("recurrence", found.curve.per_step, "per step"),),
                instances=[*found.names, *found.recurrence.starved],
                notes=["some of its weights are not shared between steps"] if found.recurrence.untied else [],
                fix=_fix(context, found),
            )


def _fix(context: Context, found: Judged) -> str:
    per_step, steps = found.curve.per_step, found.steps
    if found.recurrence.bypass and per_step > 0:
        branch = (2.0 ** (1 / steps) - 1) / (2.0**per_step - 1)  # 1 + g per step, and ×2 in all
        return f"scale the branch by {branch:.2g}: {steps} steps then double the gradient (tied depth needs 1/L, not 1/√L)"
    if not found.recurrence.parameters or len(found.recurrence.parameters) > 2:
        return "normalise within the loop, with a skip connection around the block"
    law = context.parameters[found.name].law
    return f"std of {found.name} {law.std:.3g} → {law.std * 2.0**-per_step:.3g}, or a skip connection around the block"
