"""JUnit's XML, for Jenkins and Azure: a suite per target, a case per rule that was asked, a failure per finding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from gradlint.findings import Finding, Report
from gradlint.report.anchor import anchor, plain
from gradlint.report.view import View, relative_line

__all__ = ["render"]

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write


def render(report: Report, view: View) -> str:
    """No times: the same report is the same bytes."""
    root = ET.Element("testsuites", name="gradlint")
    names = [target.name for target in report.targets]
    others = {finding.target for finding in report.findings} | {failure["target"] for failure in report.failures}
    for name in (*names, *sorted(others - set(names))):
        found = [finding for finding in report.findings if finding.target == name]
        broken = [failure for failure in report.failures if failure["target"] == name]
        suite = ET.SubElement(root, "testsuite", name=_clean(name or "the run itself"))
        cases = 0
        for code, rule in _rules(report, found, asked=name in names):
            said: list[Finding | None] = [finding for finding in found if finding.code == code]
            cases += max(len(said), 1)
            for finding in said or [None]:
                case = ET.SubElement(suite, "testcase", classname=_clean(name or "gradlint"), name=f"{code} {rule}")
                if finding is not None:
                    _failure(case, finding, report, view)
        for failure in broken:
            case = ET.SubElement(suite, "testcase", classname=_clean(name), name=failure["stage"])
            error = ET.SubElement(case, "error", type=failure["stage"], message=_clean(failure["message"]))
            error.text = _clean("\n".join(filter(None, (relative_line(failure["where"], view.root), failure["hint"]))))
        counts = {"tests": cases + len(broken), "failures": len(found), "errors": len(broken)}
        for key, count in counts.items():
            suite.set(key, str(count))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _rules(report: Report, found: Sequence[Finding], *, asked: bool) -> list[tuple[str, str]]:
    """Code and name of the rules that were asked about a target."""
    known = {page.code: page.name for page in report.pages} if asked else {}
    return sorted({**known, **{finding.code: finding.name for finding in found}}.items())


def _failure(case: ET.Element, finding: Finding, report: Report, view: View) -> None:
    failure = ET.SubElement(case, "failure", type=str(finding.severity), message=_clean(plain(finding)))
    place = anchor(finding, report, view.root)
    where = [] if place is None else [f"{place.path}:{place.line}:{place.column}"]
    failure.text = _clean("\n".join([*where, *finding.notes]))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
