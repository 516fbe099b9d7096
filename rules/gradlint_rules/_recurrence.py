"""What the rules of recurrence share: the number of steps a verdict is for, and how a recurrence is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gradlint.rule import Context, Curve, Location, Recurrence, bits

__all__ = ["Judged", "judged", "lets_go", "lost", "other_cells", "rate", "within"]

_DOUBT = 0.03  # bits per step; measured on forget biases of 3 to 5.3, where the rate is off by up to 0.02


@dataclass(frozen=True)
class Judged:
    """A recurrence at the number of steps it is judged for.

    Args:
        steps: the length of the sequence, as configured or traced; the model's own number in depth.
        log2: bits of gradient norm gained over them.
        place: the line to blame.
        names: of the recurrent weight, or of the module where there is none; then of those that are told with it.
    """

    recurrence: Recurrence
    steps: int
    log2: float
    place: Location | None
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its own."""
        return self.names[0]

    @property
    def curve(self) -> Curve:
        """Growth as a function of the number of steps."""
        return self.recurrence.curve

    @property
    def gain(self) -> str:
        """Growth per step, as a reader knows it."""
        return rate(self.curve)

    @property
    def sure(self) -> float:
        """Bits that the steps gain at the least, as far as the rate of an open gate is known."""
        beyond = max(self.steps - len(self.curve.bits) + 1, 0) if self.recurrence.keeps is not None else 0
        return self.log2 - _DOUBT * beyond

    @property
    def by_radius(self) -> float:
        """Bits over the steps that the radius alone would give; the growth itself where the matrix has no shape of its own."""
        powers = self.recurrence.powers
        return self.log2 if powers is None or powers.radius <= 0 else self.steps * (bits(powers.radius) + self.recurrence.slope)


def judged(context: Context, along: str = "sequence") -> Iterator[Judged]:
    """The recurrences in time (``sequence``) or in depth; of those of a kind on one line, the one furthest from a gain of 1."""
    groups: dict[tuple[object, ...], list[Judged]] = {}
    for recurrence in context.paths.recurrences:
        if recurrence.along == along:
            steps, place = context.steps_of(recurrence), context.place_of(recurrence)
            name = recurrence.parameters[0] if recurrence.parameters else recurrence.module or "the model"
            found = Judged(recurrence, steps, recurrence.curve.at(steps), place, (name,))
            key = (place, recurrence.cell, found.log2 > 0, bool(recurrence.starved))
            groups.setdefault(key, []).append(found)
    for group in groups.values():
        worst = max(group, key=lambda one: abs(one.log2))
        others = [name for one in group for name in one.names if name not in worst.names]
        yield replace(worst, names=(*worst.names, *others))


def lets_go(found: Judged) -> bool:
    """A gate lets about half of the state go at every step, or more."""
    return found.recurrence.keeps is not None and found.recurrence.keeps <= 0.6


def rate(curve: Curve) -> str:
    """Growth per step, to three digits: it is raised to a power."""
    return f"×{2.0**curve.per_step:.3g}"


def within(curve: Curve, limit: float) -> str:
    """How far a curve stays in the healthy band, for ``credit reaches …``."""
    reach = curve.reach(limit)
    return "any number of steps" if reach is None else f"{reach} steps"


def lost(curve: Curve) -> str:
    """How fast the gradient is lost."""
    half = curve.half_life
    return "nothing is lost" if half is None else f"half of the gradient is lost every {half:.2g} steps"


def other_cells(found: Judged, horizon: int, limit: float) -> Iterator[str]:
    """What torch's gated cells would give in place of a plain one."""
    if not found.recurrence.cell.startswith("RNN"):
        return
    bias = max(1.0, math.log(max(horizon - 1, 2)))  # Tallec & Ollivier 2018
    for cell, keeps in (("LSTM", 0.0), ("LSTM", bias), ("GRU", 0.0)):
        curve = found.recurrence.instead(cell, keeps)
        if curve is not None:
            biased = f" with a forget-gate bias of {keeps:.2g}" if keeps else ""
            yield f"nn.{cell} in its place{biased}: {rate(curve)} per step, credit reaches {within(curve, limit)}"
