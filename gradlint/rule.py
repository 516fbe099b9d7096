"""All that a rule may import.

A rule reads a :class:`Context` (what was predicted about one model) and yields findings. Its docstring is its page; its
thresholds come from :data:`LIMITS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from gradlint.blocks import DepthLaw, Repeat
from gradlint.causes import NEUTRAL
from gradlint.comparison import Claim, Place
from gradlint.context import Context
from gradlint.dormant import Dormant
from gradlint.evidence import (
    Activation,
    Collapse,
    Evidence,
    Layer,
    Op,
    Ops,
    Range,
    Ref,
    Scores,
    Singularity,
    Stream,
    Symptoms,
)
from gradlint.findings import Confidence, Factor, Finding, Location, Severity
from gradlint.idle import Cancelled
from gradlint.limits import LIMITS, Limit
from gradlint.moments import Moments
from gradlint.paths import Paths, Segment
from gradlint.recipe import Optimizer, Recipe
from gradlint.recurrence import Curve, Recurrence
from gradlint.run import Crash, Run, Stale, Unused
from gradlint.trace.names import NORMS
from gradlint.wording import bits, collapse, times

__all__ = [
    "LIMITS",
    "NEUTRAL",
    "NORMS",
    "Activation",
    "Cancelled",
    "Claim",
    "Collapse",
    "Confidence",
    "Context",
    "Crash",
    "Curve",
    "DepthLaw",
    "Dormant",
    "Evidence",
    "Factor",
    "Finding",
    "Layer",
    "Limit",
    "Location",
    "Moments",
    "Op",
    "Ops",
    "Optimizer",
    "Paths",
    "Place",
    "Range",
    "Recipe",
    "Recurrence",
    "Ref",
    "Repeat",
    "Rule",
    "Run",
    "Scores",
    "Segment",
    "Severity",
    "Singularity",
    "Stale",
    "Stream",
    "Symptoms",
    "Unused",
    "bits",
    "collapse",
    "times",
]


class Rule(ABC):
    """One check. Subclass it in a module named after its code; nothing to register.

    ``preview``: it reports only where ``--preview`` asks for it. ``formerly``: codes and names it had, which still mean it.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    preview: ClassVar[bool] = False
    formerly: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, context: Context) -> Iterable[Finding]:
        """Yield what is wrong with the model."""

    def review(self, run: Run) -> Iterable[Finding]:
        """Yield what is wrong with the run as a whole, after every model was checked."""
        del run
        return ()

    def finding(
        self,
        context: Context,
        location: Location | None,
        message: str,
        *,
        severity: Severity | None = None,
        module: str = "",
        evidence: Mapping[str, float | int | str] | None = None,
        factors: tuple[Factor, ...] = (),
        instances: Sequence[str] = (),
        notes: Sequence[str] = (),
        fix: str = "",
        claim: Claim | None = None,
    ) -> Finding:
        """A finding of this rule about this model."""
        return Finding(
            self.code,
            self.name,
            severity or self.severity,
            context.confidence,
            message,
            location,
            context.target,
            module,
            dict(evidence or {}),
            factors,
            tuple(instances),
            (*notes, *context.mitigation.notes(None if claim is None else claim.log2, evidence or {})),
            fix,
            claim,
        )
