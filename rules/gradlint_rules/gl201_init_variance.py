"""GL201 init-variance."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, NEUTRAL, Context, Factor, Finding, Location, Rule, Segment, Severity, collapse, times
from gradlint_rules._spine import stretch

__all__ = ["InitVariance"]


class InitVariance(Rule):
    """Weights whose variance does not fit their fan-in and activation.

    ## What it finds
    Layers whose initial standard deviation multiplies the signal by a large or tiny factor each, with no norm behind them that
    would undo it.

    ## Why it matters
    The scale of one layer enters the scale of all that follow it and of every gradient before it. Several such layers multiply.

    ## How it is computed
    Per layer the gain of the gradient norm is ``√(fan_in · s² · E φ'²)``, φ the activation behind it, at the variance that the
    layer really sees (He et al. 2015, eq. 14). The right standard deviation makes it one.

    ## What to do
    Use the value in the fix; for ReLU it is ``kaiming_normal_``, for tanh ``xavier_normal_`` with gain 5/3 or less.

    ## When to ignore it
    Layers scaled on purpose: the first layer of SIREN (×30), the last layer of a policy head.

    ## References
    Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); Mishkin & Matas 2016 (arXiv:1511.06422).
    """

    code = "GL201"
    name = "init-variance"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location, list[tuple[Segment, float, float]]] = {}
        behind = 0.0
        for s in context.paths.segments:
            if s.cause == "activation":
                behind += s.log2
                continue
            if s.cause == "weights" and s.parameter is not None and not s.normalised:
                gain = s.log2 + behind
                place = context.guilty_line(s.parameter)
                if place is not None and (gain >= LIMITS["layer_large"].warning or gain <= LIMITS["layer_small"].warning):
                    groups.setdefault(place, []).append((s, gain, behind))
            if s.cause not in NEUTRAL:
                behind = 0.0
        for place, members in groups.items():
            total = sum(gain for _, gain, _ in members)
            limit = LIMITS["layers_total"] if len(members) > 1 else LIMITS["layer_alone"]
            # what lies between may make up for them: sums over many steps, factors on purpose, norms further on
            between = sum(s.log2 for s in stretch(context.paths.segments, [s for s, _, _ in members]))
            if min(abs(total), abs(between)) < limit.warning:
                continue
            segment, gain, activation = members[0]
            law = context.parameters[str(segment.parameter)].law
            right = law.std * 2.0**-gain
            yield self.finding(
                context,
                place,
                f"weights with std {law.std:.3g} scale the gradient {times(gain)} per layer, {times(total)} over "
                f"{len(members)} layers",
                module=segment.module,
                evidence={"quantity": "std", "measured": law.std, "expected": right, "log2_per_layer": gain},
                factors=(Factor("weights", gain - activation, str(law)), Factor("activation", activation)),
                instances=[collapse(str(s.parameter) for s, _, _ in members)],
                fix=f"std {law.std:.3g} → {right:.3g}",
                claim=context.claim([s for s, _, _ in members], total),
            )
