"""GL308 softmax-over-one-element."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Op, Rule, Severity, collapse

__all__ = ["SoftmaxOverOneElement"]


class SoftmaxOverOneElement(Rule):
    """A softmax over an axis of size one, which is always 1 and has no gradient.

    ## What it finds
    ``softmax(dim=-1)`` behind a layer with one output, and softmax or log-softmax over any axis that has a single entry.

    ## Why it matters
    The only weight of a softmax over one entry is 1, whatever the logit. Its gradient is exactly zero: everything that
    only this path trains stays as it was initialised, without any error message.

    ## How it is computed
    The size of the axis in the traced call. Where it is not the width of a layer but follows from the size of the inputs, the
    finding is a note.

    ## What to do
    For a single logit use sigmoid; for attention over positions give the axis of the positions (often ``dim=1``).

    ## When to ignore it
    When the number of entries is one only for the inputs that the model was checked with.

    ## References
    PyTorch documentation of ``torch.nn.functional.softmax``: every slice along dim sums to 1.
    """

    code = "GL308"
    name = "softmax-over-one-element"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        widths = {layer.call.name: layer for layer in context.evidence.layers}
        groups: dict[Location | None, list[tuple[Op, bool]]] = {}
        for call in context.evidence.ops.calls.values():
            if call.op not in ("softmax", "log_softmax") or not call.shape or not call.inputs or not call.grad:
                continue
            axis = call.axis(1, "dim")
            layer = widths.get(context.evidence.ops.origin(call.inputs[0].node))
            fixed = (
                layer is not None and layer.call.shape[-1] == 1 and layer.call.shape == call.shape and axis == len(call.shape) - 1
            )
            if call.shape[axis] == 1 and context.evidence.ops.learned(call.inputs[0].node):
                groups.setdefault(call.location, []).append((call, fixed))
        for place, members in groups.items():
            call = members[0][0]
            certain = any(fixed for _, fixed in members)
            axis = call.axis(1, "dim")
            yield self.finding(
                context,
                place,
                f"{call.op} over axis {axis} of {list(call.shape)}, which has one entry: it is constant, its gradient zero",
                severity=Severity.ERROR if certain else Severity.INFO,
                module=call.module,
                evidence={"quantity": "entries of a row", "measured": 1, "expected": 2},
                instances=[collapse(sorted({c.module or c.name for c, _ in members}))],
                fix="sigmoid for a single logit; for attention weights the axis of the positions, such as dim=1",
            )
