"""GL602 weight-decay-missing."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Optimizer, Rule, Severity, times

__all__ = ["WeightDecayMissing"]

_DECAYS = ("AdamW", "AdamW8bit", "PagedAdamW", "Muon", "Lion")
"""Optimisers that decay weights unless told otherwise."""


class WeightDecayMissing(Rule):
    """An optimiser without weight decay, for weights whose size matters to the gradient.

    ## What it finds
    A training script whose optimiser has no weight decay, or a decay of zero, for a model that amplifies the gradient
    because of the size of its weights; and, as a note, for one whose weights mostly stand in front of norms.

    ## Why it matters
    Weights that are too large stay so: only a decay pulls them back. In front of a norm nothing else bounds them either,
    and as they grow the effective learning rate falls with the square of their size.

    ## How it is computed
    The script is read by its syntax and not run. The gain of the gradient by weights, and the share of weights in front
    of a norm, are those of the prediction.

    ## What to do
    ``torch.optim.AdamW(…, weight_decay=0.1)`` for transformers, ``SGD(…, weight_decay=5e-4)`` for convolutional networks;
    leave biases and norms out of it.

    ## When to ignore it
    When regularisation comes from elsewhere: early stopping, augmentation, a constraint on the weights.

    ## References
    Krogh & Hertz 1991; Pascanu et al. 2013 (arXiv:1211.5063), §3.1; van Laarhoven 2017 (arXiv:1706.05350); Loshchilov &
    Hutter 2019.
    """

    code = "GL602"
    name = "weight-decay-missing"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        recipe = context.recipe
        if recipe is None or not recipe.trains:
            return
        grown = [s for s in context.paths.segments if s.cause == "weights" and not s.normalised]
        gain = sum(s.log2 for s in context.paths.segments if s.cause in ("weights", "activation"))
        layers = {layer.weight: layer.normalised for layer in context.evidence.layers}
        normed = [weight for weight, behind in layers.items() if behind]
        for optimizer in recipe.optimizers:
            if not _missing(optimizer):
                continue
            excess = gain >= LIMITS["clip"].warning and bool(grown)
            if not excess and 2 * len(normed) <= len(layers):
                continue
            decay = 0.1 if "Adam" in optimizer.name else 5e-4
            lr = optimizer.lr.value if optimizer.lr is not None and optimizer.lr.value else None
            time = [] if lr is None or not excess else [_time(gain / len(grown), lr, decay)]
            yield self.finding(
                context,
                optimizer.location,
                f"{optimizer.name or 'the optimiser'} decays no weights, and theirs amplify the gradient {times(gain)}"
                if excess
                else f"{optimizer.name or 'the optimiser'} decays no weights, and {len(normed)} of {len(layers)} precede a norm: "
                "nothing bounds their size",
                severity=Severity.WARNING if excess else Severity.INFO,
                module=grown[0].module if excess else "",
                evidence={"quantity": "weight decay", "measured": 0.0, "expected": decay, "log2": gain},
                instances=[grown[0].parameter or "weights" if excess else normed[0]],
                notes=time,
                fix=f"weight_decay={decay:g}, for weights of two or more axes",
            )


def _missing(optimizer: Optimizer) -> bool:
    if optimizer.weight_decay is None:
        return optimizer.name not in _DECAYS and optimizer.name != ""
    return optimizer.weight_decay.value == 0.0


def _time(bits: float, lr: float, decay: float) -> str:
    return f"at lr {lr:g} it takes {max(bits, 0.0) * math.log(2) / (lr * decay):.2g} steps to shrink them by {times(-bits)} each"
