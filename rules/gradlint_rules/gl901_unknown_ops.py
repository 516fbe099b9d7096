"""GL901 unknown-ops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gradlint.rule import Confidence, Context, Finding, Location, Rule, Severity, collapse

__all__ = ["UnknownOps"]


class UnknownOps(Rule):
    """Ops that nothing is known about: what lies behind them was not judged.

    ## What it finds
    Calls that have no formula and cannot be sampled either, such as an op that only accepts arguments of a special structure (a
    positive definite matrix), complex numbers, or a custom ``autograd.Function`` that checks its input.

    ## Why it matters
    The gradient of everything before such an op passes it, so that no rule can say whether it explodes or vanishes there. A run
    that could not judge is no pass: the finding is a warning when the gradient of an input or of a parameter is unknown, and a
    mere note when no gradient passes the op.

    ## How it is computed
    An op without a formula is run on random tensors with the moments of its inputs. Where that raises, its output is unknown,
    and so is every gradient of which a part passes it: ``grad_rms`` is null in the report.

    ## What to do
    Write the op with others that are covered, or leave it out of a copy of the model that is checked. ``--verify`` runs
    the model for real and measures every gradient.

    ## When to ignore it
    When the part of the model before the op is frozen, or short.

    ## References
    None: it is a limit of the analysis.
    """

    code = "GL901"
    name = "unknown-ops"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        inputs = [name for name, facts in context.analysis.inputs.items() if facts.grad_rms is None]
        facts = context.analysis.parameters
        unknown = [name for name, record in context.parameters.items() if record.requires_grad and facts[name].grad_rms is None]
        groups: dict[tuple[Location | None, str], list[str]] = {}
        for node in context.unknown_ops:
            groups.setdefault((context.steps[node].location, context.op(node)), []).append(node)
        for (place, op), nodes in groups.items():
            passed = any(context.unknown_ops[node] for node in nodes) and bool(inputs or unknown)
            calls = f"{op} ({len(nodes)} calls)" if len(nodes) > 1 else op
            who = [f"the input {name}" for name in inputs] + ([f"{len(unknown)} of {len(facts)} parameters"] if unknown else [])
            what = f"the gradient of {' and of '.join(who)} is unknown" if passed else "no gradient passes it"
            modules = sorted({context.steps[node].module for node in nodes} - {""})
            yield replace(
                self.finding(
                    context,
                    place,
                    f"nothing is known about {calls}: {what}",
                    severity=Severity.WARNING if passed else Severity.INFO,
                    module=context.steps[nodes[0]].module,
                    evidence={"quantity": "parameters without a prediction", "measured": len(unknown), "expected": 0},
                    instances=[collapse(modules)] if modules else [op],
                    notes=[context.why_unknown(nodes[0]), *([f"not judged: {collapse(unknown)}"] if passed and unknown else [])],
                    fix=f"write {op} with ops that are covered; --verify measures what could not be predicted",
                ),
                confidence=Confidence.HIGH,
            )
