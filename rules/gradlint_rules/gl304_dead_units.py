"""GL304 dead-units."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Activation, Context, Finding, Location, Rule, Severity, collapse

__all__ = ["DeadUnits"]


class DeadUnits(Rule):
    """ReLU units that are off for every input from the start.

    ## What it finds
    Rectified layers of which a large share of the units have an input far below zero, whatever the data: a bias that starts
    negative, weights that point the same way as the mean of their input, a threshold that is too high.

    ## Why it matters
    A unit that is off for all inputs has no gradient, and neither have the weights before it. It stays off.

    ## How it is computed
    The variance of a unit's input over inputs and that over units are told apart by the predicted law. A unit is off if
    its mean is four standard deviations below zero: one input in 30,000 would switch it on.

    ## What to do
    Start biases at zero, draw weights around zero, centre the input of the layer, or use a leaky activation.

    ## When to ignore it
    When sparsity is wanted and something else, such as an auxiliary loss, revives units.

    ## References
    Lu et al. 2020, "Dying ReLU and initialization" (arXiv:1903.06733); Maas, Hannun & Ng 2013.
    """

    code = "GL304"
    name = "dead-units"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["dead"]
        calls: dict[tuple[str, Location | None], list[Activation]] = {}
        for seen in context.evidence.activations:
            calls.setdefault((seen.call.module, seen.call.location), []).append(seen)
        groups: dict[Location | None, list[Activation]] = {}
        for (_, place), same in calls.items():
            most = min(same, key=lambda seen: seen.off)  # a unit that is on in one of its calls is alive
            if most.off >= limit.warning:
                groups.setdefault(place, []).append(most)
        for place, members in groups.items():
            worst = max(members, key=lambda seen: seen.off)
            source = context.forward(worst.call.inputs[0].node)
            mean = 0.0 if source is None else source.mean
            yield self.finding(
                context,
                place,
                f"{worst.off:.0%} of the units of this {worst.call.op} are off for every input: their mean input is {mean:.3g}, "
                f"its rms {worst.rms:.3g}",
                severity=Severity.ERROR if worst.off >= limit.error else Severity.WARNING,
                module=worst.call.module,
                evidence={"quantity": "share of dead units", "measured": worst.off, "expected": 0.0, "mean_input": mean},
                instances=[collapse(sorted({seen.call.module or seen.call.name for seen in members}))],
                fix=f"start the bias at 0 (its mean is {mean:.3g} now), draw the weights around 0, or use leaky_relu",
            )
