"""What the path rules share: how a chain of segments is told, and which number mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradlint.rule import Context, Finding, Location, Rule, Segment, Severity, collapse, times

__all__ = ["path_findings", "stretch"]

_WHAT = {
    "weights": "layers built here",
    "activation": "activations here",
    "norm": "normalised layers built here",
    "residual": "residual sums here",
    "concatenation": "concatenations here",
    "attention": "attention layers here",
    "gate": "products here",
    "pooling": "pooling ops here",
    "scale": "factors here",
    "branches": "parallel branches here",
    "other": "ops here",
}
_WIDER = "wider or fewer layers, or skip connections: what one draw loses in a layer is of the order of 1/width"


def path_findings(rule: Rule, context: Context, sign: int, limits: tuple[float, float], verb: str) -> Iterable[Finding]:
    """The finding of an end-to-end gain beyond its limits, on the line that contributes most to it.

    Args:
        sign: +1 for growth, -1 for decay.
        limits: bits at which it becomes a warning and an error (of that sign).
        verb: ``amplified`` or ``attenuated``.
    """
    asleep, context = context.paths.log2 is None, context.awake
    paths = context.paths
    if paths.log2 is None:
        return
    steady = [s for s in paths.segments if s.cause != "recurrence"]
    total = sum(s.log2 for s in steady)
    typical = total + context.typical
    if sign * typical < sign * limits[0]:
        return
    group = context.worst_group(steady, sign)
    if not group:
        return
    location = context.blamed(group[0])
    count = len(group)
    chain = sum(s.log2 for s in stretch(steady, group))
    per_layer = chain / count
    reaches = max(1, int(limits[0] / per_layer)) if per_layer * sign > 0 else count
    by_chance = sign * total < sign * limits[0]
    what = f"by each of the {count} {_WHAT[group[0].cause]}" if count > 1 else f"by the {_WHAT[group[0].cause]}"
    message = f"the gradient is {verb} {times(total)} from the loss to the input: {times(per_layer)} {what}"
    if by_chance:
        message = (
            f"the gradient is {verb} {times(typical)} from the loss to the input in a typical draw of the weights: narrow layers"
        )
    notes = [_depth_note(per_layer, reaches, count)] if not by_chance else []
    notes += _where(context, sign)
    if asleep:
        notes.append("no gradient passes at first: this is what does once the zeros behind have moved")
    if abs(context.typical) > 1.0:
        notes.append(f"{times(typical)} in a typical draw of the weights (median); {times(total)} in root mean square over draws")
    yield rule.finding(
        context,
        location,
        message,
        severity=Severity.ERROR if sign * typical >= sign * limits[1] else Severity.WARNING,
        module=group[0].module,
        evidence={
            "quantity": "gradient norm at the input / at the output",
            "measured": 2.0 ** min(max(total, -1000), 1000),
            "expected": 2.0 ** limits[0],
            "log2": total,
            "log2_typical": typical,
            "log2_per_layer": per_layer,
            "layers": count,
            "layers_within_limit": reaches,
        },
        factors=context.causes(steady),
        instances=[collapse([s.parameter or s.module for s in group])],
        notes=notes,
        fix=_WIDER if by_chance else _fix(context, group, per_layer, sign, location),
        claim=None if asleep else context.claim(paths.segments, total),
    )


def stretch(segments: Sequence[Segment], group: Sequence[Segment]) -> Sequence[Segment]:
    """All segments from the first to the last of a group: what lies between them (activations, norms) included."""
    first, last = segments.index(group[0]), segments.index(group[-1])
    # the activation that follows the layer nearest the loss stands before it on the way back
    if first > 0 and segments[first - 1].cause in ("activation", "norm"):
        first -= 1
    return segments[first : last + 1]


def _where(context: Context, sign: int) -> list[str]:
    """The stretch where it happens, if that is less than half of the way; the law of depth, if blocks do not all gain alike."""
    paths, notes = context.paths, []
    worst = paths.worst(sign)
    if worst and 2 * len(worst) < len(paths.segments):
        ends = f"{worst[0].module or worst[0].start} and {worst[-1].module or worst[-1].end}"
        notes.append(f"{times(sum(s.log2 for s in worst))} of it between {ends}")
    for repeat in paths.repeats:
        total = sum(repeat.log2)
        if repeat.law.kind == "algebraic" and sign * total > abs(paths.log2 or 0.0) / 2:
            power = f"(L + 1)^{repeat.law.rate:.2g}"
            notes.append(
                f"{times(total)} over {len(repeat.modules)} × {repeat.pattern}, as {power} and not by a factor per block"
            )
    return notes


def _depth_note(per_layer: float, reaches: int, count: int) -> str:
    verdict = "within the healthy band" if reaches >= count else f"leaves the healthy band after {reaches}"
    return f"{times(per_layer)} per layer: {verdict}, the model has {count}"


def _fix(context: Context, group: Sequence[Segment], per_layer: float, sign: int, location: Location | None) -> str:
    first, count = group[0], len(group)
    if first.normalised or first.cause == "norm":
        return "add skip connections: a norm hides the scale of its weights, not the growth of the gradient through it"
    if first.cause == "weights" and first.parameter is not None:
        law = context.parameters[first.parameter].law
        where = "" if law.location is None or law.location == location else f" in {law.label or 'the initialiser'}"
        return f"std {law.std:.3g} → {law.std * 2.0**-per_layer:.3g}{where}: then the layer and its activation keep the gradient"
    if first.cause == "residual" and sign > 0:
        return f"normalise the branch's input, or scale each branch by 1/√{count} = {count**-0.5:.2g}"
    if first.cause == "residual":
        return "let the skip connection pass the gradient unchanged"
    if first.cause == "scale":
        return f"the factor here multiplies the gradient {times(per_layer)}: one {times(-per_layer)} as large would keep it"
    if first.cause in ("pooling", "attention", "gate", "concatenation", "branches", "other"):
        return (
            f"{times(-per_layer)} in the layers around it would make up for it: a norm behind it, or another standard deviation"
        )
    return "use an activation that keeps the gradient (ReLU with He weights), or normalise before it"
