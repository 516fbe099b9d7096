"""GL407 recurrence-without-clipping."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Factor, Finding, Rule, Severity, times
from gradlint_rules._recurrence import judged

__all__ = ["RecurrenceWithoutClipping"]


class RecurrenceWithoutClipping(Rule):
    """A recurrent model trained without clipping the gradient.

    ## What it finds
    A training script (``training-script``, or the script given to ``--capture``) that steps an optimiser and never clips, for a
    model with a recurrence in time. It is a warning where the gradient grows per step already, else information.

    ## Why it matters
    A recurrence that is tame at initialisation does not stay so: training moves the radius of the recurrent matrix across one,
    and near that border the loss has walls where one step undoes thousands. Clipping the norm is the standard remedy.

    ## How it is computed
    The script is read, not run: calls of ``clip_grad_norm_``, ``clip_grad_value_`` and their like, and the settings of trainers.
    The growth per step is that of recurrent-spectral-radius.

    ## What to do
    ``torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`` between ``backward()`` and ``step()``; with a gradient scaler,
    after ``scaler.unscale_``.

    ## When to ignore it
    When an optimiser clips by itself, or a hook or a library does that the script does not name.

    ## References
    Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), §3.2; Zhang et al. 2020 (arXiv:1905.11881).
    """

    code = "GL407"
    name = "recurrence-without-clipping"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        recipe = context.recipe
        if recipe is None or not recipe.trains or recipe.clips:
            return
        found = max(judged(context), key=lambda one: one.curve.per_step, default=None)
        if found is None or not any(context.parameters[p].requires_grad for p in found.recurrence.parameters):
            return
        grows = found.curve.per_step > 0
        yield self.finding(
            context,
            recipe.steps[0],
            f"this step updates a recurrence of {found.steps} steps, and nothing clips its gradient "
            f"({found.gain} per step at initialisation)",
            severity=Severity.WARNING if grows else Severity.INFO,
            module=found.recurrence.module,
            evidence={
                "quantity": "calls that clip the gradient",
                "measured": 0,
                "expected": 1,
                "log2_per_step": found.curve.per_step,
                "steps": found.steps,
            },
            factors=(Factor("recurrence", found.curve.per_step, "per step"),),
            instances=found.names,
            notes=[f"{times(found.log2)} over {found.steps} steps at initialisation"],
            fix="torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) between backward() and step()",
        )
