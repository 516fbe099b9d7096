"""What gradlint says: locations, findings, the report. Frozen, ordered, JSON-able, no torch.

``Report.to_dict()`` is the JSON format; its shape is public (see ``schema.json``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from gradlint.comparison import Claim, significant
from gradlint.facts import (
    Coverage,
    DepthFacts,
    Hop,
    Location,
    ModuleFacts,
    NodeFacts,
    Page,
    ParameterFacts,
    RecurrenceFacts,
    TargetReport,
    placed,
)

__all__ = [
    "Changes",
    "Confidence",
    "Coverage",
    "DepthFacts",
    "Factor",
    "Finding",
    "Hop",
    "Location",
    "ModuleFacts",
    "NodeFacts",
    "Page",
    "ParameterFacts",
    "RecurrenceFacts",
    "Report",
    "Severity",
    "TargetChange",
    "TargetReport",
]


class Severity(StrEnum):
    """How bad it is if the finding is true. Ordered by :attr:`rank`."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


class Confidence(StrEnum):
    """How sure gradlint is: every op known / some sampled / some unknown on the way."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class Factor:
    """One cause's share of a gain: the gain is the product of all its factors.

    ``log2`` is in bits of rms: +1 doubles the gradient.
    """

    cause: str
    log2: float
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """One verdict about one line of source.

    Args:
        evidence: the numbers: at least ``measured`` and ``expected``, in the unit of ``quantity``.
        factors: causes that multiply to the gain the finding is about.
        instances: module paths or parameter names the finding covers (48 equal blocks are one finding).
        fix: what to change, with its value.
        claim: what of it real backward passes can check; None: nothing.
        verified: what they said, where they were asked.
        fingerprint: the same for the same finding after lines moved and names changed; unique in a report.
        suppressed: why it does not count: a comment at its line, the baseline, or what is compared with has it as well.
    """

    code: str
    name: str
    severity: Severity
    confidence: Confidence
    message: str
    location: Location | None
    target: str
    module: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    factors: tuple[Factor, ...] = ()
    instances: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fix: str = ""
    claim: Claim | None = None
    verified: Literal["verified", "contradicted"] | None = None
    fingerprint: str = ""
    suppressed: Literal["comment", "baseline", "base"] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as the JSON report shows it."""
        loc = self.location
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "confidence": str(self.confidence),
            "message": self.message,
            "location": placed(loc),
            "related": [] if loc is None or loc.library is None else [placed(loc.library)],
            "target": self.target,
            "module": self.module,
            "instances": list(self.instances),
            "evidence": {k: significant(v) for k, v in self.evidence.items()},
            "factors": [{"cause": f.cause, "log2": significant(f.log2), "detail": f.detail} for f in self.factors],
            "notes": list(self.notes),
            "fix": self.fix,
            "verified": self.verified,
            "fingerprint": self.fingerprint,
            "suppressed": self.suppressed,
        }


@dataclass(frozen=True)
class TargetChange:
    """A model before and after; its findings are new, worse, kept or fixed.

    Args:
        before: None where it was not there, or could not be analysed.
        after: None where it is gone, or cannot be analysed.
        unknown: why it could not be analysed before.
        worse: that were there, and have a number more than 10 % worse now or a higher severity.
        fixed: that were there, as they were.
    """

    name: str
    before: TargetReport | None
    after: TargetReport | None
    unknown: str = ""
    new: tuple[Finding, ...] = ()
    worse: tuple[Finding, ...] = ()
    kept: tuple[Finding, ...] = ()
    fixed: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The change as the JSON report shows it."""
        findings = {"new": self.new, "worse": self.worse, "kept": self.kept, "fixed": self.fixed}
        return {
            "name": self.name,
            "unknown": self.unknown,
            "before": _numbers(self.before),
            "after": _numbers(self.after),
            **{how: [finding.to_dict() for finding in found] for how, found in findings.items()},
        }


def _numbers(target: TargetReport | None) -> dict[str, Any] | None:
    """What of a model is compared."""
    if target is None:
        return None
    known = target.to_dict()
    return {key: known[key] for key in ("name", "gain_log2", "gain_typical_log2", "gain_interval_log2", "depths")}


@dataclass(frozen=True)
class Changes:
    """What is different from another report.

    Args:
        base: what that is called.
    """

    base: str
    targets: tuple[TargetChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """The changes as the JSON report shows them."""
        return {"base": self.base, "targets": [target.to_dict() for target in self.targets]}


@dataclass(frozen=True)
class Report:
    """The outcome of one run over one or more targets.

    Args:
        findings: those that count, sorted by place, then code.
        failures: targets that could not be analysed, as ``TargetError.to_dict()`` gives them.
        fail_on: severity at or above which the run is not ok; None when findings never fail the run.
        suppressed: findings that a comment or the baseline accepts, in the same order.
        pages: of the rules that were asked; not part of the JSON.
        changes: what is different from the report that it was compared with; then only what is new is among the findings.
    """

    targets: tuple[TargetReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Mapping[str, str], ...] = ()
    fail_on: Severity | None = Severity.WARNING
    version: str = ""
    suppressed: tuple[Finding, ...] = ()
    pages: tuple[Page, ...] = ()
    changes: Changes | None = None

    @property
    def ok(self) -> bool:
        """True when every target was analysed and nothing reached ``fail_on``."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 nothing at or above ``fail_on``, 1 findings, 2 a target could not be analysed."""
        if self.failures:
            return 2
        if self.fail_on is None:
            return 0
        return int(any(f.severity.rank >= self.fail_on.rank for f in self.findings))

    @property
    def coverage(self) -> Coverage:
        """Coverage summed over all targets."""
        sampled: dict[str, int] = {}
        opaque: dict[str, int] = {}
        for target in self.targets:
            for total, part in ((sampled, target.coverage.sampled), (opaque, target.coverage.opaque)):
                for op, n in part.items():
                    total[op] = total.get(op, 0) + n
        return Coverage(sum(t.coverage.known for t in self.targets), sampled, opaque)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data: the JSON output format, version 1."""
        return {
            "schema_version": 1,
            "gradlint_version": self.version,
            "ok": self.ok,
            "exit_code": self.exit_code,
            "targets": [t.to_dict() for t in self.targets],
            "findings": [f.to_dict() for f in self.findings],
            "suppressed": [f.to_dict() for f in self.suppressed],
            "failures": [dict(f) for f in self.failures],
            "coverage": self.coverage.to_dict(),
            "changes": None if self.changes is None else self.changes.to_dict(),
        }

    def _repr_html_(self) -> str:
        """The report as a notebook shows it."""
        from gradlint.display import html  # noqa: PLC0415 - only notebooks ask for it

        return html(self.to_dict())
