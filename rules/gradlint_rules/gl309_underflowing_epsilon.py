"""GL309 underflowing-epsilon."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Op, Rule, Severity, collapse

__all__ = ["UnderflowingEpsilon"]

_SMALLEST = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150}
"""Half the smallest subnormal number: what is below rounds to zero."""

_EPSILON = {"layer_norm": 4, "group_norm": 4, "batch_norm": 7, "instance_norm": 7, "normalize": 3}
_GUARDED = ("sqrt", "rsqrt", "log", "truediv", "div", "reciprocal", "pow", "log2", "log10")


class UnderflowingEpsilon(Rule):
    """An epsilon that is zero in the precision it is added in.

    ## What it finds
    ``x + 1e-8`` in float16 in front of a root, a logarithm or a division; ``F.normalize`` with its default epsilon 1e-12 in
    float16; norms with an epsilon of 0.

    ## Why it matters
    The smallest positive float16 is 6e-8. A smaller epsilon rounds to zero, so that it protects nothing: the first row of
    zeros, such as padding, is divided by zero.

    ## How it is computed
    The dtype of the tensor when the model is run, and the epsilon as it is given in the call.

    ## What to do
    ``1e-6`` or more in float16, or compute the norm in float32: ``x.float()``.

    ## When to ignore it
    When the argument cannot be near zero for other reasons.

    ## References
    IEEE 754-2019, binary16; Micikevicius et al. 2018 (arXiv:1710.03740), §3.
    """

    code = "GL309"
    name = "underflowing-epsilon"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, str], list[tuple[Op, float]]] = {}
        for call in context.evidence.ops.calls.values():
            epsilon = _epsilon(context, call)
            if epsilon is not None and call.grad and epsilon <= _SMALLEST.get(call.dtype, -1.0):
                groups.setdefault((call.location, call.op), []).append((call, epsilon))
        for (place, op), members in groups.items():
            call, epsilon = members[0]
            yield self.finding(
                context,
                place,
                f"the epsilon {epsilon:.3g} of this {op} is zero in {call.dtype}: it protects nothing",
                module=call.module,
                evidence={"quantity": "epsilon", "measured": epsilon, "expected": 2 * _SMALLEST[call.dtype], "dtype": call.dtype},
                instances=[collapse(sorted({c.module or c.name for c, _ in members}))],
                fix="1e-6 or more, or compute it in float32 (x.float())",
            )


def _epsilon(context: Context, call: Op) -> float | None:
    """The epsilon of a norm, or what is added in front of a root or a quotient."""
    if call.op in _EPSILON:
        given = call.argument(_EPSILON[call.op], "eps", 1e-12 if call.op == "normalize" else 1e-5)
        return float(given) if isinstance(given, int | float) else None
    if call.op != "add" or len(call.args) != 2 or not isinstance(call.args[1], float) or not 0 < call.args[1] < 1e-3:
        return None
    guarded = any(user.op in _GUARDED for user in context.evidence.ops.ahead(call.name))
    return call.args[1] if guarded else None
