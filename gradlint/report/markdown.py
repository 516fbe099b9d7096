"""A table for a comment on a change, or for the summary of a step."""

from __future__ import annotations

from gradlint.findings import Finding, Report, Severity, TargetReport
from gradlint.report.anchor import anchor, by_severity
from gradlint.report.changes import as_markdown
from gradlint.report.escaped import cell, code
from gradlint.report.view import View, relative_line

__all__ = ["render"]

_SIGN = {Severity.ERROR: "❌", Severity.WARNING: "⚠️", Severity.INFO: "💡"}


def render(report: Report, view: View) -> str:
    """Findings, failures and models, each a table."""
    lines = ["## gradlint", "", _verdict(report)]
    if report.changes is not None:
        lines += ["", *as_markdown(report.changes, view)]
    if report.findings:
        lines += ["", "| | rule | where | what | what to do |", "|---|---|---|---|---|"]
        lines += [_finding(finding, report, view) for finding in by_severity(report)]
    if report.failures:
        lines += ["", "| could not be analysed | why | what to do |", "|---|---|---|"]
        for failure in report.failures:
            where = relative_line(failure["where"], view.root)
            why = f"{failure['message']}{f' ({where})' if where else ''}"
            lines.append(f"| {code(failure['target'])} | {cell(why)} | {cell(failure['hint'])} |")
    if report.targets:
        lines += ["", "| model | gradient, output to input | parameters | ops |", "|---|---|---|---|"]
        lines += [_model(target) for target in report.targets]
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    models = f"{len(report.targets)} model{'' if len(report.targets) == 1 else 's'}"
    accepted = f", {len(report.suppressed)} accepted" if report.suppressed else ""
    if not report.findings and not report.failures:
        return f"All checks passed: {models}{accepted}."
    counts = [(sum(f.severity is s for f in report.findings), str(s)) for s in reversed(Severity)]
    parts = [f"{n} {word}{'s' if n > 1 and word != 'info' else ''}" for n, word in counts if n]
    parts += [f"{len(report.failures)} not analysed"] if report.failures else []
    return f"{', '.join(parts)} in {models}{accepted}."


def _finding(finding: Finding, report: Report, view: View) -> str:
    place = anchor(finding, report, view.root)
    where = code(finding.target) if place is None else code(f"{place.path}:{place.line}")
    doubt = {"contradicted": " **contradicted by real backward passes**", "verified": " (verified)"}.get(
        finding.verified or "", ""
    )
    rule = f"{finding.code} {finding.name}"
    return f"| {_SIGN[finding.severity]} | {rule} | {where} | {cell(finding.message)}{doubt} | {cell(finding.fix)} |"


def _model(target: TargetReport) -> str:
    gain = "-" if target.gain_log2 is None else f"×{2.0**target.gain_log2:.3g}" if abs(target.gain_log2) < 1000 else "×2^…"
    return f"| {code(target.name)} | {gain} | {len(target.parameters)} | {target.coverage} |"
