"""Workflow commands of GitHub: annotations, the worst first, since a step shows ten of a kind."""

from __future__ import annotations

from gradlint.findings import Report, Severity
from gradlint.report.anchor import Anchor, anchor, anchor_of_failure, by_severity, plain
from gradlint.report.view import View

__all__ = ["render"]

_COMMAND = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(report: Report, view: View) -> str:
    """One line per failure and finding."""
    lines = []
    for failure in report.failures:
        place = anchor_of_failure(failure["where"], failure["target"], view.root)
        hint = f" ({failure['hint']})" if failure["hint"] else ""
        lines.append(_line("error", f"gradlint ({failure['stage']})", place, f"{failure['target']}: {failure['message']}{hint}"))
    for finding in by_severity(report):
        place = anchor(finding, report, view.root)
        title = f"gradlint ({finding.code} {finding.name})"
        lines.append(_line(_COMMAND[finding.severity], title, place, plain(finding)))
    return "\n".join(lines)


def _line(command: str, title: str, place: Anchor | None, message: str) -> str:
    properties = {"title": title}
    if place is not None:
        properties |= {"file": place.path, "line": str(place.line), "endLine": str(place.line)}
        properties |= {"col": str(place.column), "endColumn": str(place.end)}
    told = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{command} {told}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
