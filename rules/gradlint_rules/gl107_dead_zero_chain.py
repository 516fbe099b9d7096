"""GL107 dead-zero-chain."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Claim, Context, Finding, Location, Place, Rule, Severity, collapse

__all__ = ["DeadZeroChain"]


class DeadZeroChain(Rule):
    """Zeros in series: parameters that no gradient ever reaches.

    ## What it finds
    Parameters that start at zero behind, or in front of, another zero on every path to the loss: two zero matrices in a row, a
    zero-initialised layer behind a gate that is zero, convolutions that are all zero and wait for a checkpoint.

    ## Why it matters
    The gradient of each is a product with the other, zero at every step, for ever; an optimiser cannot leave such a
    point. One zero alone is harmless and often wise: its own gradient is not zero, and after one step what waits behind
    it hears of the loss (Fixup, ReZero, LayerScale, the second matrix of LoRA). Those are not reported.

    ## How it is computed
    Parameters that a gradient reaches are moved off zero, as one step of any optimiser would, and the model is propagated
    again, until no other parameter wakes up. What is still without a gradient then is dead. The slope of ReLU at exactly
    zero is taken as PyTorch takes it: zero.

    ## What to do
    Give all zeros of a chain but one small random values: for a weight of n inputs, a standard deviation of 1/√n.

    ## When to ignore it
    When the zeros are overwritten by a checkpoint that gradlint does not see.

    ## References
    Zhang, Dauphin & Ma 2019 (Fixup, arXiv:1901.09321); Bachlechner et al. 2021 (ReZero, arXiv:2003.04887); Hu et al. 2022
    (LoRA, arXiv:2106.09685), §4.1.
    """

    code = "GL107"
    name = "dead-zero-chain"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        found = context.dormant
        groups: dict[Location | None, list[str]] = {}
        matrices = [name for name in found.zeros if len(context.parameters[name].shape) > 1]
        for name in matrices or found.zeros or found.dead:
            groups.setdefault(context.guilty_line(name), []).append(name)
        trained = [name for name, record in context.parameters.items() if record.requires_grad and len(record.shape) > 1]
        dead = [name for name in found.dead if name in trained]
        for place, names in groups.items():
            fan_in = max(math.prod(context.parameters[name].shape[1:]) for name in names)
            many = f"{len(names)} tensors of zeros are" if len(names) > 1 else f"{names[0]}, zero at the start, is"
            yield self.finding(
                context,
                place,
                f"{many} multiplied with zeros on every path: no gradient ever reaches {len(found.dead)} parameters",
                severity=Severity.ERROR if 2 * len(dead) >= len(trained) else Severity.WARNING,
                module=names[0].rpartition(".")[0],
                evidence={"quantity": "weights that never move", "measured": len(dead), "expected": 0, "of": len(trained)},
                instances=[collapse(names)],
                notes=[f"dead as well: {collapse(name for name in found.dead if name not in names)}"]
                if len(found.dead) > len(names)
                else [],
                fix=f"leave one zero of the chain and give the others small random values, e.g. std {fan_in**-0.5:.2g} "
                "(1/√fan_in)",
                claim=Claim(tuple(Place("parameter", name) for name in found.dead), -math.inf),
            )
