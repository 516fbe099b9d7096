"""Reviewdog's diagnostic format: comments on a change, for GitHub, GitLab, Bitbucket and Gerrit."""

from __future__ import annotations

import json
from typing import Any

from gradlint.findings import Report, Severity
from gradlint.report.anchor import Anchor, anchor, anchor_of_failure, plain
from gradlint.report.view import View

__all__ = ["render"]

_SEVERITY = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}


def render(report: Report, view: View) -> str:
    """One diagnostic per failure and finding that has a file."""
    diagnostics = []
    for failure in report.failures:
        place = anchor_of_failure(failure["where"], failure["target"], view.root)
        if place is not None:
            text = f"{failure['target']}: {failure['message']}"
            diagnostics.append(_diagnostic(text, place, "ERROR", f"failed-{failure['stage']}"))
    for finding in report.findings:
        place = anchor(finding, report, view.root)
        if place is not None:
            diagnostics.append(_diagnostic(plain(finding), place, _SEVERITY[finding.severity], finding.code))
    worst = max((finding.severity for finding in report.findings), key=lambda severity: severity.rank, default=Severity.INFO)
    severity = "ERROR" if report.failures else _SEVERITY[worst]
    document = {"source": {"name": "gradlint"}, "severity": severity, "diagnostics": diagnostics}
    return json.dumps(document, indent=2, ensure_ascii=False)


def _diagnostic(text: str, place: Anchor, severity: str, code: str) -> dict[str, Any]:
    ends = {"start": {"line": place.line, "column": place.column}, "end": {"line": place.line, "column": place.end}}
    return {
        "message": text,
        "location": {"path": place.path, "range": ends},
        "severity": severity,
        "code": {"value": code},
    }
