"""GL506 underflowing-logarithm."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Op, Rule, Severity, collapse

__all__ = ["UnderflowingLogarithm"]

_LOGARITHMS = ("log", "log2", "log10")
_FUSED = {"softmax": "log_softmax(x, dim)", "sigmoid": "logsigmoid(x)"}
_UNDERFLOW = {"float16": 17.3, "bfloat16": 92.0, "float32": 103.0, "float64": 745.0}
_REACH = 6.0


class UnderflowingLogarithm(Rule):
    """The logarithm of a softmax or sigmoid, taken in two steps.

    ## What it finds
    ``torch.log(torch.softmax(x, -1))`` and ``torch.log(torch.sigmoid(x))`` with nothing between that keeps them from zero.

    ## Why it matters
    Probabilities underflow: beyond a distance of 103 between two logits in single precision (17 in float16) the smaller
    one is exactly zero, its logarithm minus infinity, and the gradient NaN. A confident model gets there.

    ## How it is computed
    By the shape of the graph, and by the predicted spread of the logits: a warning where six standard deviations of it
    underflow already at the start, else a note.

    ## What to do
    ``F.log_softmax(x, -1)``, ``F.logsigmoid(x)``, or a loss that takes logits: ``F.cross_entropy``,
    ``F.binary_cross_entropy_with_logits``.

    ## When to ignore it
    When the logits are bounded.

    ## References
    Goodfellow, Bengio & Courville 2016, *Deep Learning*, §4.1; Blanchard, Higham & Higham 2021 (doi:10.1093/imanum/draa038).
    """

    code = "GL506"
    name = "underflowing-logarithm"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, str], list[tuple[Op, float]]] = {}
        for call in context.evidence.ops.calls.values():
            if call.op not in _LOGARITHMS or not call.inputs or not context.evidence.graded(call.name):
                continue
            source = context.evidence.ops.calls.get(context.evidence.ops.origin(call.inputs[0].node))
            if source is None or source.op not in _FUSED:
                continue
            logits = context.forward(source.inputs[0].node)
            size = 0.0 if logits is None else _REACH * logits.var**0.5
            groups.setdefault((call.location, source.op), []).append((call, size))
        for (place, op), members in groups.items():
            call, size = max(members, key=lambda member: member[1])
            edge = _UNDERFLOW.get(call.dtype, 103.0)
            yield self.finding(
                context,
                place,
                f"the logarithm of a {op}: logits that differ by more than {edge:.3g} make it infinite, its gradient NaN; they "
                f"reach {size:.3g} at the start",
                severity=Severity.WARNING if size >= edge else Severity.INFO,
                module=call.module,
                evidence={"quantity": "reach of the logits", "measured": size, "expected": edge},
                instances=[collapse(sorted({c.module or c.name for c, _ in members}))],
                fix=f"torch.nn.functional.{_FUSED[op]}",
            )
