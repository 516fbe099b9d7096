"""The law of a parameter: the distribution its initialiser draws from, not the draw. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradlint.findings import Location
from gradlint.moments import Moments

__all__ = ["Law", "Region"]


@dataclass(frozen=True)
class Region:
    """A stretch of a parameter that was written separately: a padding row, the bias of a forget gate.

    Args:
        entries: how many it has.
        kind: as in :class:`Law`.
    """

    entries: int
    kind: str
    mean: float
    std: float
    location: Location | None = None
    label: str = ""


@dataclass(frozen=True)
class Law:
    """How a parameter is distributed at initialisation.

    Args:
        kind: ``normal``, ``uniform``, ``constant``, ``orthogonal``, ``identity``, ``mixed`` (regions written separately),
            ``values`` (only real values are known), or ``uninitialised`` (memory that nothing was written to).
        mean: of the entries.
        std: of the entries, in the same unit.
        moments: second-order law over the parameter's axes; what the analysis computes with.
        location: the user's line whose call last wrote the parameter.
        label: the initialiser as the user knows it, such as ``kaiming_uniform_(a=2.236)``.
        low: lower end of the support.
        high: upper end of the support.
        regions: what was written separately, in the order of memory; none where the whole was written at once.
        row_spread: of real values: standard deviation over mean of the rms of their rows; None where only the law is known.
        load: reads the real values that were measured.
    """

    kind: str
    mean: float
    std: float
    moments: Moments
    location: Location | None = None
    label: str = ""
    low: float = -math.inf
    high: float = math.inf
    regions: tuple[Region, ...] = ()
    row_spread: float | None = None
    load: Callable[[], npt.NDArray[np.generic]] | None = field(default=None, compare=False, repr=False)

    @property
    def unwritten(self) -> float:
        """The share of the entries that nothing was ever written to."""
        if self.kind == "uninitialised":
            return 1.0
        total = sum(part.entries for part in self.regions)
        return sum(part.entries for part in self.regions if part.kind == "uninitialised") / total if total else 0.0

    def __str__(self) -> str:
        if self.kind == "uninitialised":
            return "uninitialised"
        if self.label:
            return self.label
        if self.kind == "constant":
            return f"constant({self.mean:.4g})"
        return f"{self.kind}(mean={self.mean:.4g}, std={self.std:.4g})"
