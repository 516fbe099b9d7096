"""GL402 recurrent-vanishing-horizon."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, times
from gradlint_rules._recurrence import Judged, judged, lets_go, lost, other_cells, within

__all__ = ["RecurrentVanishingHorizon"]


class RecurrentVanishingHorizon(Rule):
    """A recurrence whose gradient dies out before it reaches as far back as it has to.

    ## What it finds
    Recurrent layers and loops whose gradient is lost within fewer steps than the task needs (``horizon``), or that starve what
    acts on their first state alone: an encoder in front of a decoder, a learned initial state. Without either it is told as
    information: how far back credit reaches.

    ## Why it matters
    What happened further back than credit reaches is not learned. That is no fault by itself: a classifier that reads the last
    state of a default LSTM loses half of the gradient every 1.5 steps and trains, because its weights are the same at every
    step and hear of the last ones. It is one where the answer lies further back, or where weights hear of nothing else.

    ## How it is computed
    The gradient of the last state is followed back step by step. Its norm settles to a factor per step: the radius times the
    slope of the activation in a plain cell, about ``E f + g`` in a gated one (f: the gate that keeps the state, g: what the
    recurrent weights add). Credit reaches as far as the gradient is above the limit of vanishing-path, or, where ``horizon``
    says what the task needs, above that at which recurrent networks stopped learning such a task. Diagonal scans
    (state-space models) are left out: each entry of their state has a rate of its own, and the slowest one carries credit.

    ## What to do
    Raise the bias of the gate that keeps the state (to ``ln(T - 1)`` for a memory of T steps), initialise a plain recurrent
    matrix orthogonally, use a gated cell, or attend to the states.

    ## When to ignore it
    When the answer lies in the last few steps, or when attention or skip connections in time reach further.

    ## References
    Bengio, Simard & Frasconi 1994; Hochreiter & Schmidhuber 1997; Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063);
    Jozefowicz et al. 2015; Tallec & Ollivier 2018 (arXiv:1804.11188).
    """

    code = "GL402"
    name = "recurrent-vanishing-horizon"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        horizon = context.settings.horizon_of(context.target)
        limit = LIMITS["vanish"] if horizon is None else LIMITS["memory"]
        for found in judged(context):
            needed = horizon or found.steps
            log2 = found.curve.at(needed)
            if log2 > limit.warning or found.recurrence.diagonal:
                continue
            reach = found.curve.reach(limit.warning) or 0
            starved = found.recurrence.starved
            severity = Severity.INFO
            if horizon is not None or starved:
                severity = Severity.ERROR if log2 <= limit.error and starved else Severity.WARNING
            elif lets_go(found):
                continue  # forget-gate-bias tells as much, and why
            yield self.finding(
                context,
                found.place,
                _message(found, horizon, log2, reach),
                severity=severity,
                module=found.recurrence.module,
                evidence={
                    "quantity": f"gradient norm {needed} steps back",
                    "measured": 2.0 ** max(log2, -1000),
                    "expected": 2.0**limit.warning,
                    "log2_per_step": found.curve.per_step,
                    "log2": log2,
                    "steps": needed,
                    "steps_within_limit": reach,
                },
                factors=(Factor("recurrence", found.curve.per_step, "per step"),),
                instances=[*found.names, *starved],
                notes=[*([lost(found.curve)] if horizon is not None or starved else []), *(
                    other_cells(found, needed, limit.warning) if severity is not Severity.INFO else [])],
                fix=_fix(found, needed, severity, limit.warning),
            )  # fmt: skip


def _message(found: Judged, horizon: int | None, log2: float, reach: int) -> str:
    starved = found.recurrence.starved
    if starved:
        weights = starved[0] if len(starved) == 1 else f"{starved[0]} and {len(starved) - 1} more"
        return (
            f"{weights} get{'s' if len(starved) == 1 else ''} {times(log2)} of the gradient, through all of {found.steps} steps"
        )
    if horizon is not None:
        return f"{times(log2)} of the gradient is left after the {horizon} steps that the task needs: credit reaches {reach}"
    return f"{lost(found.curve)}: credit reaches {reach} of {found.steps} steps back"


def _fix(found: Judged, needed: int, severity: Severity, limit: float) -> str:
    recurrence = found.recurrence
    if severity is Severity.INFO:
        return "state the steps that the task needs as `horizon` to have it judged"
    if recurrence.cell in ("LSTM", "GRU"):
        for bias in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
            curve = recurrence.biased(bias)
            if curve is not None and curve.at(needed) > limit:
                return f"a bias of {bias:g} on the gate that keeps the state: credit reaches {within(curve, limit)}"
        return "attend to the states: no bias of the gate that keeps the state reaches so far"
    if not recurrence.bypass and recurrence.parameters:
        return f"scale {found.name} by {2.0**-found.curve.per_step:.3g}, orthogonally; or use a gated cell"
    return "let more of the state through per step, or attend to the states"
