"""GL404 forget-gate-bias."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, bits
from gradlint_rules._recurrence import Judged, judged, lets_go, lost, rate, within

__all__ = ["ForgetGateBias"]


class ForgetGateBias(Rule):
    """A gate that lets go of half of the state at every step.

    ## What it finds
    LSTM forget gates and GRU update gates that keep about half of the state or less at initialisation, over more steps than the
    gradient survives that: torch's default, which draws their bias around zero. It is information, unless the steps that the
    task needs are stated (``horizon``).

    ## Why it matters
    What a gate keeps per step is what the gradient keeps along the state. A gate at one half forgets in a few steps; a
    positive bias costs nothing and was found to matter more than the architecture of the cell.

    ## How it is computed
    The mean of the gate, ``E σ(u)``, with u made of the weights, inputs and states it settles to, and the growth of the gradient
    per step that the whole cell gives; then the same cell with the bias in the fix.

    ## What to do
    Set the bias of the forget gate to 1, or to ``ln(T - 1)`` for a memory of T steps. Torch adds two biases: set one.

    ## When to ignore it
    When the answer lies in the last few steps.

    ## References
    Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015, §4; Tallec & Ollivier 2018 (arXiv:1804.11188);
    Gilboa et al. 2019 (arXiv:1901.08987).
    """

    code = "GL404"
    name = "forget-gate-bias"
    severity = Severity.INFO

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        horizon = context.settings.horizon_of(context.target)
        limit = LIMITS["vanish"].warning
        for found in judged(context):
            keeps, needed = found.recurrence.keeps, horizon or found.steps
            if keeps is None or found.recurrence.diagonal or not lets_go(found) or found.curve.at(needed) > limit:
                continue
            right = 1 - 1 / max(needed, 2)
            yield self.finding(
                context,
                found.place,
                f"the gate that keeps the state lets {keeps:.2f} of it through per step: {lost(found.curve)}",
                severity=Severity.INFO if horizon is None else Severity.WARNING,
                module=found.recurrence.module,
                evidence={
                    "quantity": "mean of the gate that keeps the state",
                    "measured": keeps,
                    "expected": right,
                    "log2_per_step": found.curve.per_step,
                    "steps": needed,
                },
                factors=(
                    Factor("gate", bits(keeps), "what it keeps of the state"),
                    Factor("weights", found.curve.per_step - bits(keeps), "what the recurrent weights add"),
                ),
                instances=[found.name],
                fix=_fix(found, needed, tried=horizon is not None),
            )


def _fix(found: Judged, needed: int, *, tried: bool) -> str:
    """The bias, and what the cell does with it where the task's horizon is known."""
    bias = max(1.0, math.log(max(needed - 1, 2)))
    fix = f"a bias of {bias:.2g} on it, ln(T - 1) for T = {needed}"
    curve = found.recurrence.biased(bias) if tried else None
    if curve is None:
        return fix
    return f"{fix}: {rate(curve)} per step, credit reaches {within(curve, LIMITS['vanish'].warning)}"
