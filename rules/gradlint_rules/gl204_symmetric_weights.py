"""GL204 symmetric-weights."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import NORMS, Context, Finding, Layer, Location, Op, Rule, Severity, collapse

__all__ = ["SymmetricWeights"]


class SymmetricWeights(Rule):
    """Hidden layers whose weights in and out are all equal: every unit learns the same.

    ## What it finds
    Two layers in a row whose weights are one constant each, such as ``nn.init.constant_(w, 0.01)`` or ``fill_``.

    ## Why it matters
    All units between them compute the same and get the same gradient, and go on to do so after every step. A layer of a
    thousand units is one unit, whatever the training.

    ## How it is computed
    The law of each weight is known from how it was initialised; a constant has no variance. Symmetry is broken if either of two
    layers that follow each other is random, so only pairs count. Two layers of zeros are GL107.

    ## What to do
    Draw the weights: ``kaiming_normal_`` for ReLU, ``xavier_normal_`` for tanh. Biases may be constant.

    ## When to ignore it
    When the weights are loaded before use, or something else breaks the symmetry: dropout does so in part, slowly.

    ## References
    Goodfellow, Bengio & Courville 2016, *Deep Learning*, §8.4.
    """

    code = "GL204"
    name = "symmetric-weights"
    severity = Severity.WARNING  # it trains, as the one unit that it is

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        layers = {layer.call.name: layer for layer in context.evidence.layers}
        groups: dict[Location | None, dict[str, Layer]] = {}
        for layer in layers.values():
            if not _constant(context, layer):
                continue
            for call in context.evidence.ops.ahead(layer.call.name, _passes):
                behind = layers.get(call.name)
                if behind is None or not _constant(context, behind) or behind.weight == layer.weight:
                    continue
                pair = (layer, behind)
                if any(context.parameters[m.weight].law.mean != 0 for m in pair) and _units(context, layer) > 1:
                    for m in pair:
                        groups.setdefault(context.guilty_line(m.weight), {})[m.weight] = m
        for place, members in groups.items():
            layer = next(iter(members.values()))
            value = context.parameters[layer.weight].law.mean
            fitting = (1 / layer.fan_in) ** 0.5
            yield self.finding(
                context,
                place,
                f"all weights are {value:.4g}, before and behind the hidden units: their gradients are equal and stay so",
                module=layer.call.module,
                evidence={"quantity": "std", "measured": 0.0, "expected": fitting},
                instances=[collapse(members)],
                fix=f"draw them: nn.init.xavier_normal_(w), std {fitting:.3g}; kaiming_normal_ in front of ReLU",
            )


def _constant(context: Context, layer: Layer) -> bool:
    record = context.parameters[layer.weight]
    return record.requires_grad and record.law.kind == "constant" and record.law.std == 0.0


def _units(context: Context, layer: Layer) -> int:
    return context.parameters[layer.weight].shape[0]


def _passes(call: Op) -> bool:
    """What treats all units alike."""
    return call.op in NORMS or len(call.inputs) == 1 or call.op.endswith(("pool1d", "pool2d", "pool3d"))
