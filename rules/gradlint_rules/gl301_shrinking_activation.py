"""GL301 shrinking-activation."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Location, Rule, Segment, Severity, collapse, times

__all__ = ["ShrinkingActivation"]


class ShrinkingActivation(Rule):
    """Saturating or shrinking activations in a row.

    ## What it finds
    A chain of activations that each pass less than half of the gradient norm: sigmoids, or tanh and its relatives driven into
    saturation by inputs that are too large.

    ## Why it matters
    The derivative of a sigmoid is at most 1/4. Six in a row leave less than a thousandth of the gradient, whatever the weights.

    ## How it is computed
    ``√E φ'(z)²`` over the distribution of the inputs that each activation really sees, by quadrature; the product along
    the path to the input.

    ## What to do
    Use ReLU with He weights, or tanh with weights small enough for its linear range; keep sigmoids for gates and outputs.

    ## When to ignore it
    When the outputs of the chain are gates by design and another path carries the gradient.

    ## References
    Hochreiter 1991; Glorot & Bengio 2010; Schoenholz et al. 2017 (arXiv:1611.01232), eq. 11.
    """

    code = "GL301"
    name = "shrinking-activation"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        paths = context.paths
        if paths.log2 is None or paths.log2 > LIMITS["activation_total"].warning:
            return
        groups: dict[Location, list[Segment]] = {}
        for s in paths.segments:
            if s.cause == "activation" and s.log2 <= LIMITS["activation"].warning:
                place = context.blamed(s)
                if place is not None:
                    groups.setdefault(place, []).append(s)
        for place, group in groups.items():
            total = sum(s.log2 for s in group)
            if total > LIMITS["activation_total"].warning:
                continue
            seen = context.forward(group[0].end)
            rms = seen.rms if seen is not None else float("nan")
            worst = total / len(group)
            op = context.op(group[0].start)
            saturated = rms > 3 and op in ("tanh", "sigmoid", "hardtanh", "softsign", "erf")
            fix = (
                f"inputs of {op} have rms {rms:.2g}: divide the weights before it by {rms:.2g} to leave saturation"
                if saturated
                else f"replace {op} by ReLU with He weights (×1 per layer instead of {times(worst)})"
            )
            yield self.finding(
                context,
                place,
                f"{len(group)} {op} in a row pass {times(worst)} of the gradient each, {times(total)} together",
                module=group[0].module,
                evidence={"quantity": "rms of φ'", "measured": 2.0**worst, "expected": 1.0, "input_rms": rms},
                factors=(Factor("activation", total, f"{len(group)} × {times(worst)}"),),
                instances=[collapse(s.module for s in group)],
                fix=fix,
                claim=context.claim(group, total),
            )
