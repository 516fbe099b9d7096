"""What gradlint says: locations, findings, the report. Frozen, ordered, JSON-able, no torch.

``Report.to_dict()`` is the JSON format; its shape is public (see ``schema.json``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from gradlint.comparison import Claim, Comparison, significant
from gradlint.growth import RecurrenceFacts

__all__ = [
    "Confidence",
    "Coverage",
    "Factor",
    "Finding",
    "Location",
    "ModuleFacts",
    "NodeFacts",
    "ParameterFacts",
    "Report",
    "Severity",
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


@dataclass(frozen=True, order=True)
class Location:
    """A place in source code, counted from 1; ``library`` is the line of an installed package that it called, which did it."""

    path: str
    line: int
    column: int = 1
    library: Location | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


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

    def to_dict(self) -> dict[str, Any]:
        """The finding as the JSON report shows it."""
        loc = self.location
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "confidence": str(self.confidence),
            "message": self.message,
            "location": _place(loc),
            "related": [] if loc is None or loc.library is None else [_place(loc.library)],
            "target": self.target,
            "module": self.module,
            "instances": list(self.instances),
            "evidence": {k: significant(v) for k, v in self.evidence.items()},
            "factors": [{"cause": f.cause, "log2": significant(f.log2), "detail": f.detail} for f in self.factors],
            "notes": list(self.notes),
            "fix": self.fix,
            "verified": self.verified,
        }


@dataclass(frozen=True)
class ParameterFacts:
    """Prediction for one parameter. ``rms`` and ``grad_rms`` as defined in the README's "What is predicted".

    A ``grad_rms`` of 0 says that no gradient arrives; None, that it has to pass an op that nothing is known about.
    ``grad_typical`` is the median over draws of the weights, ``grad_interval`` holds 80 % of them; None where they are not
    followed (behind ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``) and for an instance, whose weights are given.
    """

    name: str
    shape: tuple[int, ...]
    init: str
    rms: float
    grad_rms: float | None
    grad_typical: float | None = None
    grad_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModuleFacts:
    """Prediction for one module's output (its last call)."""

    name: str
    type: str
    location: Location | None
    rms: float | None
    grad_rms: float | None


@dataclass(frozen=True)
class NodeFacts:
    """Prediction for the output of one op."""

    name: str
    op: str
    module: str
    location: Location | None
    shape: tuple[int, ...]
    rms: float | None
    grad_rms: float | None


@dataclass(frozen=True)
class Coverage:
    """How the ops were understood: by a formula, by sampling, or not at all. Values of the maps are call counts."""

    known: int
    sampled: Mapping[str, int] = field(default_factory=dict)
    opaque: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of op calls in the graph."""
        return self.known + sum(self.sampled.values()) + sum(self.opaque.values())

    def __str__(self) -> str:
        text = f"covered {self.total - sum(self.opaque.values())} of {self.total} ops"
        for label, ops in (("sampled", self.sampled), ("unknown", self.opaque)):
            if ops:
                text += f"; {label}: " + ", ".join(f"{op} ({n})" for op, n in sorted(ops.items()))
        return text

    def to_dict(self) -> dict[str, Any]:
        """The counts as the JSON report shows them."""
        return {
            "known": self.known,
            "sampled": dict(sorted(self.sampled.items())),
            "opaque": dict(sorted(self.opaque.items())),
        }


@dataclass(frozen=True)
class TargetReport:
    """All that is reported about one model.

    Args:
        inputs_origin: where the inputs come from: ``given``, ``guessed``, or the name of the model's attribute that has them.
        rung: how it was traced.
        gain_log2: gradient norm at the input over that at the output, in bits; None when no gradient gets there.
        verification: the prediction beside real backward passes; None where none were asked for.
        gain_typical_log2: the median of the gain over draws of the weights.
        gain_interval_log2: between these lie 80 % of the draws.
        recurrences: weights that act again and again on what they made.
    """

    name: str
    location: Location | None
    inputs: tuple[str, ...]
    rung: str
    coverage: Coverage
    gain_log2: float | None = None
    parameters: tuple[ParameterFacts, ...] = ()
    modules: tuple[ModuleFacts, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    assumptions: tuple[str, ...] = ()
    verification: Comparison | None = None
    inputs_origin: str = "given"
    gain_typical_log2: float | None = None
    gain_interval_log2: tuple[float, float] | None = None
    recurrences: tuple[RecurrenceFacts, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The target as the JSON report shows it."""
        return {
            "name": self.name,
            "location": _place(self.location),
            "inputs": list(self.inputs),
            "inputs_origin": self.inputs_origin,
            "rung": self.rung,
            "gain_log2": significant(self.gain_log2),
            "gain_typical_log2": significant(self.gain_typical_log2),
            "gain_interval_log2": _interval(self.gain_interval_log2),
            "coverage": self.coverage.to_dict(),
            "assumptions": list(self.assumptions),
            "parameters": [
                {
                    "name": p.name,
                    "shape": list(p.shape),
                    "init": p.init,
                    "rms": significant(p.rms),
                    "grad_rms": significant(p.grad_rms),
                    "grad_typical": significant(p.grad_typical),
                    "grad_interval": _interval(p.grad_interval),
                }
                for p in self.parameters
            ],
            "modules": [{"name": m.name, "type": m.type, "location": _place(m.location), **_rms(m)} for m in self.modules],
            "nodes": [
                {
                    "name": n.name,
                    "op": n.op,
                    "module": n.module,
                    "location": _place(n.location),
                    "shape": list(n.shape),
                    **_rms(n),
                }
                for n in self.nodes
            ],
            "recurrences": [r.to_dict() for r in self.recurrences],
            "verification": None if self.verification is None else self.verification.to_dict(),
        }


@dataclass(frozen=True)
class Report:
    """The outcome of one run over one or more targets.

    Args:
        findings: sorted by place, then code.
        failures: targets that could not be analysed, as ``TargetError.to_dict()`` gives them.
        fail_on: severity at or above which the run is not ok; None when findings never fail the run.
    """

    targets: tuple[TargetReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Mapping[str, str], ...] = ()
    fail_on: Severity | None = Severity.WARNING
    version: str = ""

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
            "failures": [dict(f) for f in self.failures],
            "coverage": self.coverage.to_dict(),
        }

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{f.code}</td><td>{f.severity}</td><td>{_escape(str(f.location or f.module))}</td>"
            f"<td>{_escape(f.message)}</td><td>{_escape(f.fix)}</td></tr>"
            for f in self.findings
        )
        head = "<tr><th>code</th><th>severity</th><th>where</th><th>what</th><th>fix</th></tr>"
        return f"<p>gradlint: {len(self.findings)} findings, {self.coverage}</p><table>{head}{rows}</table>"


def _place(location: Location | None) -> dict[str, Any] | None:
    return None if location is None else {"path": location.path, "line": location.line, "column": location.column}


def _rms(facts: ModuleFacts | NodeFacts) -> dict[str, Any]:
    return {"rms": significant(facts.rms), "grad_rms": significant(facts.grad_rms)}


def _interval(ends: tuple[float, float] | None) -> list[Any] | None:
    return None if ends is None else [significant(end) for end in ends]


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
