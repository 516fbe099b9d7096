"""One page that needs nothing else: the flow over depth, the tree of blocks, the causes, what-if sliders, the findings.

``page.html`` is the template (Jinja2, everything escaped), ``style.css`` and ``script.js`` are put into it. Nothing is loaded
from anywhere. What is drawn comes from the report alone, so that the same report is the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from importlib import resources
from typing import Any

from gradlint.findings import Finding, Location, Report, Severity, TargetReport
from gradlint.report.html.chart import Chart
from gradlint.report.html.laws import laws
from gradlint.report.html.tree import tree
from gradlint.report.html.waterfall import Waterfall
from gradlint.report.layers import rows
from gradlint.report.view import View, relative, relative_line
from gradlint.wording import times

__all__ = ["render"]

_POINTS = 240
"""Of a chart: longer models are drawn by layer, by block, or several layers to a point."""


def render(report: Report, view: View) -> str:
    """The page."""
    order = sorted(report.findings, key=lambda finding: -finding.severity.rank)
    data: list[dict[str, Any]] = []
    sections = [_section(number, target, report, view, data) for number, target in enumerate(report.targets)]
    counts = Counter(str(finding.severity) for finding in report.findings)
    text: str = _template().render(
        version=report.version,
        verdict="error" if report.exit_code == 2 or counts["error"] else "warning" if counts["warning"] else "ok",
        counts=[(counts[str(severity)], str(severity)) for severity in reversed(Severity) if counts[str(severity)]],
        targets=sections,
        findings=[_finding(finding, view) for finding in order],
        accepted=[_finding(finding, view) for finding in report.suppressed],
        failures=[{**failure, "where": relative_line(failure["where"], view.root)} for failure in report.failures],
        style=_asset("style.css"),
        script=_asset("script.js"),
        data=_embedded(data),
    )
    return text


def _section(number: int, target: TargetReport, report: Report, view: View, data: list[dict[str, Any]]) -> dict[str, Any]:
    found = [finding for finding in report.findings if finding.target == target.name]
    shown = rows(target, found, _POINTS)
    chart = Chart.of(shown, target)
    told = laws(target)
    data.append(
        {
            "rows": [
                [row.name, row.kind, _place(row.location, view), _told(row.rms), _told(row.gradient), _codes(row.findings)]
                for row in shown
            ],
            "tree": tree(target, view.root),
            "laws": [law.to_dict() for law in told],
        }
    )
    low, high = target.gain_interval_log2 or (None, None)
    return {
        "id": f"model-{number}",
        "name": relative(target.name, view.root),
        "place": _place(target.location, view),
        "gain": "none arrives" if target.gain_log2 is None else times(target.gain_log2),
        "typical": None if target.gain_typical_log2 is None else times(target.gain_typical_log2),
        "interval": None if low is None or high is None else f"{times(low)} to {times(high)}",
        "inputs": ", ".join(target.inputs) or "none",
        "origin": target.inputs_origin,
        "coverage": str(target.coverage),
        "assumptions": target.assumptions,
        "parameters": len(target.parameters),
        "chart": chart,
        "waterfall": Waterfall.of(target.path),
        "laws": told,
    }


def _finding(finding: Finding, view: View) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": str(finding.severity),
        "confidence": str(finding.confidence),
        "message": finding.message,
        "fix": finding.fix,
        "place": _place(finding.location, view),
        "module": ", ".join(finding.instances) or finding.module,
        "target": relative(finding.target, view.root),
        "notes": finding.notes,
        "factors": [(factor.cause, times(factor.log2), factor.detail) for factor in finding.factors],
        "verified": finding.verified,
        "suppressed": finding.suppressed,
    }


def _place(location: Location | None, view: View) -> str:
    return "" if location is None else f"{relative(location.path, view.root)}:{location.line}"


def _codes(findings: tuple[Finding, ...]) -> str:
    return " ".join(dict.fromkeys(finding.code for finding in findings))


def _told(bits: float | None) -> str:
    if bits is None:
        return "unknown"
    return "0" if bits == float("-inf") else times(bits)


def _embedded(data: Any) -> str:
    """JSON that no text in it can end early: inside a script element only ``</`` and ``<!--`` could."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


@cache
def _template() -> Any:
    import jinja2  # noqa: PLC0415 - no other format needs it

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_asset("page.html"))
