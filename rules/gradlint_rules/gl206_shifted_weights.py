"""GL206 shifted-weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Layer, Location, Rule, Severity, collapse

__all__ = ["ShiftedWeights"]


class ShiftedWeights(Rule):
    """Weights whose mean is not zero: one direction drowns all others.

    ## What it finds
    Weight matrices drawn around a mean that is not zero, such as ``uniform_(0, 1)``, ``torch.rand`` or
    ``normal_(mean=0.1)``, without a norm behind them.

    ## Why it matters
    A mean μ adds a matrix of rank one with the singular value ``|μ|√(mn)``, beside random ones of at most ``σ(√m + √n)``.
    All units then see mostly the same sum, the activations grow with the width in each layer, and the gradient is one
    direction.

    ## How it is computed
    The outlier ``|μ|√(mn)`` over the edge of the bulk ``σ(√m + √n)``, from the law of the initialiser.

    ## What to do
    Draw around zero: ``uniform_(-a, a)`` with ``a = √(3/fan_in)``, or ``xavier_uniform_``.

    ## When to ignore it
    When the weights are meant to be positive (attention pooling, monotonic networks) and the layer divides by their sum.

    ## References
    Bai & Yin 1993; Baik, Ben Arous & Péché 2005, on outliers of a random matrix plus one of rank one.
    """

    code = "GL206"
    name = "shifted-weights"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["outlier"]
        groups: dict[Location | None, list[tuple[Layer, float]]] = {}
        for layer in context.evidence.layers:
            record = context.parameters[layer.weight]
            if layer.normalised or not record.requires_grad or record.law.kind not in ("normal", "uniform"):
                continue
            m, n = record.shape[0], math.prod(record.shape[1:])
            bulk = record.law.std * (math.sqrt(m) + math.sqrt(n))
            ratio = abs(record.law.mean) * math.sqrt(m * n) / bulk if bulk > 0 else 0.0
            if ratio >= limit.warning and min(m, n) > 1:
                groups.setdefault(context.guilty_line(layer.weight), []).append((layer, ratio))
        for place, members in groups.items():
            layer, ratio = max(members, key=lambda m: m[1])
            law = context.parameters[layer.weight].law
            fitting = math.sqrt(3 / layer.fan_in)
            yield self.finding(
                context,
                place,
                f"weights with mean {law.mean:.3g} and std {law.std:.3g}: the common mode is {ratio:.3g} × the largest random "
                f"singular value and grows ×{abs(law.mean) * layer.fan_in:.3g} per layer",
                severity=Severity.ERROR if ratio >= limit.error else Severity.WARNING,
                module=layer.call.module,
                evidence={"quantity": "mean", "measured": law.mean, "expected": 0.0, "outlier_over_bulk": ratio},
                instances=[collapse(m.weight for m, _ in members)],
                fix=f"draw around zero: uniform_(w, -{fitting:.3g}, {fitting:.3g}), or xavier_uniform_",
            )
