"""GL203 mismatched-gain."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Layer, Location, Rule, Severity, collapse, times
from gradlint_rules._initialisers import Initialiser, initialiser

__all__ = ["MismatchedGain"]

_GAINS = {
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "softplus"), math.sqrt(2)),
    **dict.fromkeys(("tanh", "hardtanh", "softsign", "erf"), 5 / 3),
    **dict.fromkeys(("sigmoid", "expit", "hardsigmoid", "selu"), 1.0),
}
"""torch.nn.init.calculate_gain, and 1 for SELU (Klambauer et al. 2017)."""

_NAMED = {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2), "tanh": 5 / 3, "selu": 0.75, "sigmoid": 1.0, "linear": 1.0}


class MismatchedGain(Rule):
    """Initialisers told of another activation than the one that follows.

    ## What it finds
    ``kaiming_normal_`` and ``kaiming_uniform_`` in front of tanh, sigmoid or SELU, a ``nonlinearity`` that is not the one
    used, an Xavier ``gain`` that belongs to another activation.

    ## Why it matters
    The gain is there to make up for what the activation takes. One layer with another's gain is off by up to a factor of
    2.2; over the layers of a network the factors multiply: SELU with He weights doubles its variance in every layer.

    ## How it is computed
    The initialiser and its arguments are seen when the model is built, the activation behind the layer in the traced
    forward; their gains are those of ``torch.nn.init.calculate_gain``. A warning where the factors of all such layers
    multiply to more than 16; else a note. Layers in front of a norm do not count.

    ## What to do
    ``xavier_normal_(w, gain=nn.init.calculate_gain("tanh"))`` for tanh; ``kaiming_normal_(w, nonlinearity="relu")`` for
    ReLU and its smooth relatives; ``kaiming_normal_(w, nonlinearity="linear")`` for SELU.

    ## When to ignore it
    In shallow networks: two or three layers train with either gain.

    ## References
    Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); Klambauer et al. 2017 (arXiv:1706.02515).
    """

    code = "GL203"
    name = "mismatched-gain"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        spine = {segment.parameter for segment in context.paths.segments}
        groups: dict[tuple[Location | None, str], list[tuple[Layer, float]]] = {}
        for layer in context.evidence.layers:
            wrote = initialiser(context, layer)
            right = _GAINS.get(layer.activation)
            if wrote is None or right is None or layer.normalised:
                continue
            used = _used(wrote)
            if used is not None and _differ(used, right, layer.activation):
                groups.setdefault((context.guilty_line(layer.weight), layer.activation), []).append((layer, used))
        for (place, activation), members in groups.items():
            layer, used = members[0]
            right = _GAINS[activation]
            off = math.log2(used / right)
            chain = [gain for m, gain in members if m.weight in spine]  # gates and branches do not multiply
            total = sum(math.log2(gain / right) for gain in chain)
            wrote = initialiser(context, layer)
            yield self.finding(
                context,
                place,
                f"weights with the gain {used:.3g} in front of {activation}, which wants {right:.3g}: {times(off)} per layer",
                severity=Severity.WARNING if abs(total) >= LIMITS["layers_total"].warning else Severity.INFO,
                module=layer.call.module,
                evidence={"quantity": "gain", "measured": used, "expected": right, "log2_total": total},
                instances=[collapse(m.weight for m, _ in members)],
                notes=[f"{len(chain)} layers one behind the other: {times(total)} together"] if len(chain) > 1 else [],
                fix=f"{_right(activation, wrote)}: std {context.parameters[layer.weight].law.std:.3g} → "
                f"{context.parameters[layer.weight].law.std * 2.0**-off:.3g}",
            )


def _used(wrote: Initialiser) -> float | None:
    """The gain that an initialiser was told of; None where it was told of none."""
    if wrote.name in ("kaiming_normal_", "kaiming_uniform_") and not wrote.constructor:
        gain = _NAMED.get(wrote.arguments.get("nonlinearity", "leaky_relu"))
        slope = wrote.number("a", 0.0)
        return gain if gain is None or slope == 0 else math.sqrt(2 / (1 + slope**2))
    if wrote.name in ("xavier_normal_", "xavier_uniform_") and "gain" in wrote.arguments:
        return wrote.number("gain", 1.0)
    return None


def _differ(used: float, right: float, activation: str) -> bool:
    """It is the gain of another activation: a factor chosen freely is a choice."""
    known = any(math.isclose(used, gain, rel_tol=5e-3) for gain in {*_NAMED.values(), *_GAINS.values()})
    selu = activation == "selu" and math.isclose(used, _NAMED["selu"], rel_tol=5e-3)
    return known and not selu and abs(math.log2(used / right)) > 0.2


def _right(activation: str, wrote: Initialiser | None) -> str:
    kind = "uniform_" if wrote is not None and "uniform" in wrote.name else "normal_"
    if _GAINS[activation] == math.sqrt(2):
        return f'kaiming_{kind}(w, nonlinearity="relu")'
    if activation == "selu":
        return f'kaiming_{kind}(w, nonlinearity="linear")'
    return f"xavier_{kind}(w, gain={_GAINS[activation]:.3g})"
