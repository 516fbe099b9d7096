"""The law of a parameter: the distribution its initialiser draws from, not the draw. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.findings import Location
from gradlint.moments import Moments

__all__ = ["Law"]


@dataclass(frozen=True)
class Law:
    """How a parameter is distributed at initialisation.

    Args:
        kind: ``normal``, ``uniform``, ``constant``, ``orthogonal``, ``identity``, ``mixed`` (regions written separately),
            or ``values`` (only real values are known).
        mean: of the entries.
        std: of the entries, in the same unit.
        moments: second-order law over the parameter's axes; what the analysis computes with.
        location: the user's line whose call last wrote the parameter.
        label: the initialiser as the user knows it, such as ``kaiming_uniform_(a=2.236)``.
    """

    kind: str
    mean: float
    std: float
    moments: Moments
    location: Location | None = None
    label: str = ""

    def __str__(self) -> str:
        if self.label:
            return self.label
        if self.kind == "constant":
            return f"constant({self.mean:.4g})"
        return f"{self.kind}(mean={self.mean:.4g}, std={self.std:.4g})"
