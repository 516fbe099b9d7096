"""GitLab's Code Quality report: a JSON array. Entries with equal fingerprints are dropped there, so that each has its own."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gradlint.findings import Report, Severity
from gradlint.report.anchor import Anchor, anchor, anchor_of_failure, plain
from gradlint.report.view import View

__all__ = ["render"]

_SEVERITY = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.INFO: "info"}


def render(report: Report, view: View) -> str:
    """One entry per failure and finding."""
    entries = []
    for failure in report.failures:
        place = anchor_of_failure(failure["where"], failure["target"], view.root)
        message = f"{failure['target']}: {failure['message']}"
        entries.append(_entry(f"failed-{failure['stage']}", message, "blocker", message, place, failure["target"]))
    for finding in report.findings:
        place = anchor(finding, report, view.root)
        known = finding.fingerprint or f"{finding.code} {finding.target} {finding.module} {place} {finding.message}"
        entries.append(_entry(finding.code, plain(finding), _SEVERITY[finding.severity], known, place, finding.target))
    seen: dict[str, int] = {}
    for entry in entries:
        mark = entry["fingerprint"]
        seen[mark] = seen.get(mark, 0) + 1
        if seen[mark] > 1:
            entry["fingerprint"] = _digest(f"{mark} {seen[mark]}")
    return json.dumps(entries, indent=2, ensure_ascii=False)


def _entry(check: str, text: str, severity: str, known: str, place: Anchor | None, target: str) -> dict[str, Any]:
    spot = place or Anchor(target.partition(":")[0] or "gradlint", 1)
    return {
        "description": text,
        "check_name": check,
        "fingerprint": _digest(f"{check} {known}"),
        "severity": severity,
        "location": {"path": spot.path, "lines": {"begin": spot.line, "end": spot.line}},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
