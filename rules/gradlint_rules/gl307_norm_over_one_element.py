"""GL307 norm-over-one-element."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Op, Rule, Severity, collapse

__all__ = ["NormOverOneElement"]


class NormOverOneElement(Rule):
    """Norms that average over a single number, which is always zero behind them.

    ## What it finds
    LayerNorm over an axis of size 1, GroupNorm with as many groups as channels on maps of one position, standard deviations
    over one entry.

    ## Why it matters
    A number minus itself is zero, so the norm's output is its bias, whatever comes in, and the gradient of all before it
    is zero. The unbiased deviation of one number is 0/0, NaN.

    ## How it is computed
    The number of entries that each norm averages over, in the traced shapes. Where it follows from the size of guessed inputs,
    the finding is a note.

    ## What to do
    Normalise over the axis that was meant (features are last for LayerNorm), take fewer groups, or leave the norm out.

    ## When to ignore it
    When the model is only ever fed larger inputs than the ones it was checked with.

    ## References
    Ba, Kiros & Hinton 2016 (arXiv:1607.06450); Wu & He 2018 (arXiv:1803.08494).
    """

    code = "GL307"
    name = "norm-over-one-element"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, str], list[tuple[Op, bool]]] = {}
        for call in context.evidence.ops.calls.values():
            found = _over_one(context, call)
            if found is not None and call.grad:
                place = context.constructed(call.module) if context.is_leaf(call.module) else call.location
                groups.setdefault((place, call.op), []).append((call, found))
        for (place, op), members in groups.items():
            call, fixed = members[0]
            certain = fixed or not context.evidence.inputs_guessed
            yield self.finding(
                context,
                place,
                f"{op} is taken over one element: "
                + ("0/0" if op in ("std", "var") else "its output does not depend on its input"),
                severity=Severity.ERROR if certain else Severity.INFO,
                module=call.module,
                evidence={"quantity": "entries averaged over", "measured": 1, "expected": 2},
                instances=[collapse(sorted({c.module or c.name for c, _ in members}))],
                fix="normalise over the axis that has several entries, or leave the norm out",
            )


def _over_one(context: Context, call: Op) -> bool | None:
    """Whether a norm over one element is so for inputs of any size; None where it is over more."""
    shape = call.shape
    if call.op == "layer_norm":
        normalized = call.argument(1, "normalized_shape", ())
        return True if isinstance(normalized, list | tuple) and math.prod(normalized) == 1 else None
    if call.op == "group_norm" and len(shape) > 1:
        groups = int(call.argument(1, "num_groups", 1))
        return len(shape) == 2 if math.prod(shape[1:]) == groups else None
    if call.op in ("std", "var") and call.inputs:
        source = context.forward(call.inputs[0].node)
        unbiased = call.argument(2, "unbiased", True) is not False and call.kwargs.get("correction", 1) != 0
        return False if source is not None and unbiased and math.prod(source.shape) == max(call.size, 1) else None
    return None
