"""What the sliders compute from: how the gradient's gain depends on depth, width, initial gain and precision.

``log2(L) = rest + L · r`` where blocks multiply alike (Schoenholz et al. 2017, arXiv:1611.01232), ``rest + r · log2(L + 1)``
where the norms of a residual stream make it algebraic (De & Smith 2020, arXiv:2002.10444). A gain g of all initial weights
changes the rate of a plain block with m weight matrices by ``m · log2 g``; of a block ``x + f(x)``, whose rate ``½ log2(1 + a)``
tells the branch's share a, it makes ``½ log2(1 + a · g^2m)``; in front of norms it changes nothing. The spread between draws has
a variance of ``5 Σ 1/n`` in a network of width n (Hanin 2018, arXiv:1801.03744): it grows with L and falls with n. Saturation is
left out: an activation that bends more under larger weights takes part of a gain back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradlint.facts import DepthFacts, Hop, RecurrenceFacts
from gradlint.findings import TargetReport
from gradlint.limits import LIMITS

__all__ = ["Law", "laws"]


@dataclass(frozen=True)
class Law:
    """One repetition, of blocks or of steps.

    Args:
        name: the blocks' path with ``{}`` for the number, or the recurrent module.
        unit: what is counted: ``blocks`` or ``steps``.
        count: as the model has it.
        kind: ``plain``, ``residual``, ``normed`` or ``algebraic``.
        rate: bits per block, or per doubling of ``L + 1``.
        rest: bits of everything else.
        weights: matrices on the way through one block.
        width: of its layers, the median; None: unknown.
        shift: bits between the mean and the typical draw.
        spread: half of the interval that holds 80 % of the draws, in bits.
    """

    name: str
    unit: str
    count: int
    kind: str
    rate: float
    rest: float
    weights: int
    width: int | None
    shift: float
    spread: float

    def to_dict(self) -> dict[str, Any]:
        """What the script reads."""
        return {
            "unit": self.unit,
            "count": self.count,
            "kind": self.kind,
            "rate": self.rate,
            "rest": self.rest,
            "weights": self.weights,
            "width": self.width,
            "shift": self.shift,
            "spread": self.spread,
            "explode": LIMITS["explode"].warning,
            "vanish": LIMITS["vanish"].warning,
        }


def laws(target: TargetReport) -> list[Law]:
    """Of a model: its blocks, then its recurrences."""
    if target.gain_log2 is None:
        return []
    low, high = target.gain_interval_log2 or (target.gain_log2, target.gain_log2)
    typical = target.gain_log2 if target.gain_typical_log2 is None else target.gain_typical_log2
    spread = (typical - target.gain_log2, (high - low) / 2)
    found = [_of_blocks(depth, target, *spread) for depth in target.depths]
    return found + [_of_steps(recurrence, target.gain_log2, *spread) for recurrence in target.recurrences]


def _of_blocks(depth: DepthFacts, target: TargetReport, shift: float, spread: float) -> Law:
    pattern = re.compile(re.escape(depth.blocks).replace(re.escape("{}"), r"\d+") + r"(\.|$)")
    hops = [hop for hop in target.path if pattern.match(hop.module)]
    matrices = [p for p in target.parameters if pattern.match(p.name) and len(p.shape) > 1]
    widths = [p.shape[0] for p in matrices]
    kind = "algebraic" if depth.law == "algebraic" else _kind(hops)
    on_path = sum(hop.cause == "weights" for hop in hops)
    return Law(
        depth.blocks,
        "blocks",
        depth.count,
        kind,
        depth.rate,
        (target.gain_log2 or 0.0) - depth.log2,
        max(round((on_path if kind == "plain" else len(matrices)) / max(depth.count, 1)), 1),
        int(median(widths)) if widths else None,
        shift,
        spread,
    )


def _kind(hops: Sequence[Hop]) -> str:
    causes = {hop.cause for hop in hops}
    return "normed" if "norm" in causes else "residual" if "residual" in causes else "plain"


def _of_steps(r: RecurrenceFacts, total: float, shift: float, spread: float) -> Law:
    gated = r.cell in ("LSTM", "GRU")
    rest = total - r.log2 if r.along == "depth" else r.log2 - r.log2_per_step * r.steps
    name = r.module or "the model"
    return Law(name, "steps", r.steps, "normed" if gated else "plain", r.log2_per_step, rest, 1, None, shift, spread)
