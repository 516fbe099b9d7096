"""GL601 gradient-clipping-missing."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity, times

__all__ = ["GradientClippingMissing"]


class GradientClippingMissing(Rule):
    """A training script that steps without clipping, for a model whose gradient grows with depth.

    ## What it finds
    A training script that steps an optimiser and never clips the gradient, for a model that amplifies it: predicted from the
    loss to the input, in a typical draw of the weights. Recurrence in time is GL407.

    ## Why it matters
    One batch with a large loss then moves the early layers by that factor too far. Clipping bounds the step; it does not
    restore the balance between layers, which the findings about the gain are for.

    ## How it is computed
    The script is read by its syntax and not run: calls of ``clip_grad_norm_``, ``clip_grad_value_`` and their like, and
    the settings of trainers. The norm in the fix is the predicted norm of the gradient for a loss averaged over the
    outputs, at the ninth of ten draws of the weights, without the growth.

    ## What to do
    ``torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)`` between ``backward()`` and ``step()``; with a
    gradient scaler, after ``scaler.unscale_(optimizer)``.

    ## When to ignore it
    When an optimiser clips by itself, or a hook or a library does that the script does not name.

    ## References
    Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), §3.2; Zhang et al. 2020 (arXiv:1905.11881).
    """

    code = "GL601"
    name = "gradient-clipping-missing"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        recipe, paths = context.recipe, context.paths
        if recipe is None or not recipe.trains or recipe.clips or paths.log2 is None:
            return
        growth = sum(s.log2 for s in paths.segments if s.cause != "recurrence") + context.typical
        if growth < LIMITS["clip"].warning:
            return
        norm, right = context.mitigation.norm, context.mitigation.max_norm(growth)
        largest = max((s for s in paths.segments if s.cause != "recurrence"), key=lambda s: s.log2)
        yield self.finding(
            context,
            recipe.steps[0],
            f"nothing clips the gradient before this step, and the model amplifies it {times(growth)}",
            module=largest.module,
            evidence={
                "quantity": "calls that clip the gradient",
                "measured": 0,
                "expected": 1,
                "log2": growth,
                "norm": norm.typical if norm is not None else "unknown",
            },
            instances=[largest.parameter or largest.module or "the model"],
            fix="torch.nn.utils.clip_grad_norm_(model.parameters(), "
            + (f"max_norm={right:.2g})" if right else "max_norm=1.0)")
            + " between backward() and step()",
        )
