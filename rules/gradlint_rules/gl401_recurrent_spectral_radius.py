"""GL401 recurrent-spectral-radius."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradlint.rule import LIMITS, Claim, Context, Factor, Finding, Location, Place, Rule, Severity, bits, times

__all__ = ["RecurrentSpectralRadius"]


class RecurrentSpectralRadius(Rule):
    """A recurrent matrix that multiplies the gradient at every time step.

    ## What it finds
    ``nn.RNN`` layers and hand-written loops whose recurrent weight, with the slope of the activation, grows the gradient per
    step, so that over the sequence it explodes.

    ## Why it matters
    The growth is exponential in the length of the sequence: ×1.2 per step is ×8e7 over 100 steps. Training shows it as
    occasional NaN, or as loss spikes on the longest sequences.

    ## How it is computed
    The spectral radius of the recurrent matrix: by the circular law ``s√H`` where its entries are drawn, exactly where it
    is orthogonal or its values are known. Times ``√E φ'²`` at the state the cell settles in, it is the growth per step;
    to the power of the number of steps it is the gain (Pascanu et al. 2013, §2.1; Chen, Pennington & Schoenholz 2018).

    ## What to do
    Initialise the recurrent matrix orthogonally with the gain in the fix, clip the gradient norm, or use nn.LSTM or nn.GRU,
    whose gates keep the growth per step below one.

    ## When to ignore it
    Reservoir computing and other models whose recurrent weights are not trained.

    ## References
    Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063); Chen, Pennington & Schoenholz 2018 (arXiv:1806.05394); Saxe et al. 2014
    (arXiv:1312.6120).
    """

    code = "GL401"
    name = "recurrent-spectral-radius"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        for parameter, per_step, steps in [*_leaves(context), *_loops(context)]:
            total = per_step * steps
            limit = LIMITS["recurrence"]
            if total < limit.warning:
                continue
            law = context.parameters[parameter].law
            radius = _radius(context, parameter)
            right = radius * 2.0**-per_step
            place: Location | None = context.guilty_line(parameter)
            yield self.finding(
                context,
                place,
                f"the gradient grows {times(per_step)} per step back in time, {times(total)} over {steps} steps "
                f"(spectral radius {radius:.3g})",
                severity=Severity.ERROR if total >= limit.error else Severity.WARNING,
                module=parameter.rpartition(".")[0],
                evidence={
                    "quantity": "spectral radius",
                    "measured": radius,
                    "expected": right,
                    "log2_per_step": per_step,
                    "steps": steps,
                    "steps_within_limit": int(limit.warning / per_step),
                },
                factors=(Factor("weights", bits(radius), f"radius {radius:.3g}"),
                         Factor("activation", per_step - bits(radius), "slope of the activation")),
                instances=[parameter],
                notes=[f"within the healthy band up to {int(limit.warning / per_step)} steps"],
                fix=f"scale {parameter} from radius {radius:.3g} to {right:.3g} (std {law.std:.3g} → "
                f"{law.std * 2.0**-per_step:.3g}), e.g. nn.init.orthogonal_(gain={right:.2g}); or use nn.LSTM / nn.GRU",
                claim=Claim((Place("parameter", parameter),), total),
            )  # fmt: skip


def _radius(context: Context, parameter: str) -> float:
    """Spectral radius: of the values where only they are known, else of the law."""
    record = context.parameters[parameter]
    value = record.law.moments.value
    if value is not None and record.law.kind in ("values", "mixed") and np.ndim(value) == 2:
        return float(np.abs(np.linalg.eigvals(np.asarray(value, dtype=float))).max())
    if record.law.kind == "identity":
        return 1.0
    return float(record.law.std * record.shape[-1] ** 0.5)


def _leaves(context: Context) -> Iterable[tuple[str, float, int]]:
    """nn.RNN layers: growth per step at the state they settle in."""
    for node, module in context.leaves.items():
        if type(module).__name__ != "RNN":
            continue
        options = vars(module)
        shape = context.output_shape(node)
        if shape is None:
            continue
        steps = shape[1 if options["batch_first"] else 0]
        path = context.leaf_path(node)
        for layer in range(int(options["num_layers"])):
            parameter = f"{path}.weight_hh_l{layer}" if path else f"weight_hh_l{layer}"
            record = context.by_any_name(parameter)
            if record is None:
                continue
            radius = _radius(context, record.name)
            if radius <= 0:
                continue
            yield record.name, bits(radius) + bits(_slope(context, path, layer, options, radius)), steps


def _slope(context: Context, path: str, layer: int, options: dict[str, object], radius: float) -> float:
    """``√E φ'²`` at the fixed point of the hidden state's variance."""
    if options["nonlinearity"] == "relu":
        return float(np.sqrt(0.5))
    names = [f"{path}.{kind}_l{layer}" for kind in ("weight_ih", "bias_ih", "bias_hh")]
    laws = [record.law for name in names if (record := context.by_any_name(name)) is not None]
    fan = context.by_any_name(names[0])
    drive = laws[0].std ** 2 * (fan.shape[1] if fan is not None else 1) + sum(law.std**2 for law in laws[1:])
    z = np.linspace(-8, 8, 801)
    density = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    q = 0.0
    for _ in range(200):
        q = float(density @ np.tanh(np.sqrt(drive + radius**2 * q) * z) ** 2)
    return float(np.sqrt(density @ (1 - np.tanh(np.sqrt(drive + radius**2 * q) * z) ** 2) ** 2))


def _loops(context: Context) -> Iterable[tuple[str, float, int]]:
    for loop in context.paths.loops:
        yield loop.parameter, loop.log2, loop.steps
