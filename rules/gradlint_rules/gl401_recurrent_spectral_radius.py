"""GL401 recurrent-spectral-radius."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, bits, times
from gradlint_rules._recurrence import Judged, judged, other_cells

__all__ = ["RecurrentSpectralRadius"]


class RecurrentSpectralRadius(Rule):
    """A recurrent matrix that multiplies the gradient at every time step.

    ## What it finds
    ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, their cells and loops by hand whose recurrent weight, with the slope of the activation
    and the gates, grows the gradient per step, so that over the sequence it explodes.

    ## Why it matters
    The growth is exponential in the length of the sequence: ×1.2 per step is ×8e7 over 100 steps. Training shows it as
    occasional NaN, or as loss spikes on the longest sequences.

    ## How it is computed
    The gradient of the last state is followed back step by step, with what one and the same matrix adds up coherently where a
    gate, a leak or a skip leads around it (``a + g`` per step, not ``√(a² + g²)``). A plain cell grows it by the spectral radius
    (``s√H`` for drawn entries by the circular law, else that of the values) times ``√E φ'²`` at the state it settles in
    (Pascanu et al. 2013, §2.1; Chen, Pennington & Schoenholz 2018). The verdict is for the length of the traced input or for
    ``sequence-length``; it does not depend on the length that was traced.

    ## What to do
    Initialise the recurrent matrix orthogonally with the gain in the fix, clip the gradient norm, or use nn.LSTM or nn.GRU,
    whose gates keep the growth per step below one.

    ## When to ignore it
    Reservoir computing and other models whose recurrent weights are not trained.

    ## References
    Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063); Chen, Pennington & Schoenholz 2018 (arXiv:1806.05394); Saxe et al. 2014
    (arXiv:1312.6120); Gilboa et al. 2019 (arXiv:1901.08987).
    """

    code = "GL401"
    name = "recurrent-spectral-radius"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["recurrence"]
        for found in judged(context):
            if found.sure < limit.warning or found.by_radius < limit.warning:
                continue
            reach = found.curve.reach(limit.warning)
            fine = found.steps if reach is None else reach
            radius = _radius(context, found)
            about = f" (spectral radius {radius:.3g})" if radius is not None else ""
            yield self.finding(
                context,
                found.place,
                f"the gradient grows {found.gain} per step back in time: {times(found.log2)} over {found.steps} steps, "
                f"fine to {fine}{about}",
                severity=Severity.ERROR if found.sure >= limit.error else Severity.WARNING,
                module=found.recurrence.module,
                evidence={
                    "quantity": "growth per step" if radius is None else "spectral radius",
                    "measured": 2.0**found.curve.per_step if radius is None else radius,
                    "expected": 1.0 if radius is None else radius * 2.0**-found.curve.per_step,
                    "log2_per_step": found.curve.per_step,
                    "log2": found.log2,
                    "steps": found.steps,
                    "steps_within_limit": fine,
                },
                factors=_factors(found, radius),
                instances=found.names,
                notes=tuple(other_cells(found, found.steps, LIMITS["vanish"].warning)),
                fix=_fix(context, found, radius),
            )


def _radius(context: Context, found: Judged) -> float | None:
    """Spectral radius of the one matrix that all gradient passes; None where a path leads around it."""
    recurrence = found.recurrence
    if recurrence.bypass or not recurrence.parameters:
        return None
    if recurrence.powers is not None:
        return recurrence.powers.radius
    record = context.parameters[recurrence.parameters[0]]
    square = len(record.shape) == 2 and record.shape[0] == record.shape[1]
    return float(record.law.std * record.shape[-1] ** 0.5) if square else None


def _factors(found: Judged, radius: float | None) -> tuple[Factor, ...]:
    per_step = found.curve.per_step
    if not radius:
        return (Factor("recurrence", per_step, "weights, gates and activations of a step"),)
    slope = per_step - bits(radius)
    return Factor("weights", bits(radius), f"radius {radius:.3g}"), Factor("activation", slope, "slope of the activation")


def _fix(context: Context, found: Judged, radius: float | None) -> str:
    if not found.recurrence.parameters:
        return "keep the factor that multiplies the state at or below one"
    law, per_step = context.parameters[found.name].law, found.curve.per_step
    if radius is None:
        right = law.std * 2.0 ** min(-2 * per_step, -0.5)
        return f"std of {found.name} {law.std:.3g} → {right:.3g} or below, or close the gate a little; and clip the norm"
    right = radius * 2.0**-per_step
    return (
        f"scale {found.name} from radius {radius:.3g} to {right:.3g} (std {law.std:.3g} → {law.std * 2.0**-per_step:.3g}), e.g. "
        f"nn.init.orthogonal_(gain={right:.2g}); or use nn.LSTM / nn.GRU"
    )
