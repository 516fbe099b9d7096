"""Where a machine puts a finding: a file below the root and one line of it, columns in characters."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

from gradlint.findings import Finding, Location, Report, Severity
from gradlint.report.frame import span
from gradlint.report.view import relative

__all__ = ["Anchor", "anchor", "anchor_of_failure", "by_severity", "located", "plain"]


@dataclass(frozen=True)
class Anchor:
    """One line, or a part of it.

    Args:
        path: relative to the root where the file is below it, with forward slashes.
        column: the first character, from 1.
        end: the character behind the last.
    """

    path: str
    line: int
    column: int = 1
    end: int = 2

    @property
    def uri(self) -> str:
        """The path as a URI: relative where the path is."""
        return PurePath(self.path).as_uri() if PurePath(self.path).is_absolute() else quote(self.path)


def located(place: Location, root: Path) -> Anchor:
    """The anchor of a place: the expression that starts there, as far as its first line goes."""
    path = Path(relative(place.path, root)).as_posix()
    source = linecache.getline(place.path, place.line).rstrip()
    if not source.strip():
        return Anchor(path, place.line, place.column, place.column + 1)
    start, end = span(place, source)
    return Anchor(path, place.line, start + 1, end + 1)


def anchor(finding: Finding, report: Report, root: Path) -> Anchor | None:
    """Where a finding belongs: its line, else that of its model, else its model's file; None where nothing is known."""
    if finding.location is not None:
        return located(finding.location, root)
    model = next((target for target in report.targets if target.name == finding.target), None)
    if model is not None and model.location is not None:
        return located(model.location, root)
    return _file(finding.target, root)


def anchor_of_failure(where: str, target: str, root: Path) -> Anchor | None:
    """Where a failure belongs: the user's line that it names, else the target's file."""
    path, _, line = where.rpartition(":")
    if path and line.isdigit():
        return located(Location(path, int(line)), root)
    return _file(target, root)


def by_severity(report: Report) -> list[Finding]:
    """The findings, the worst first: a reader who shows ten shows the right ten."""
    rank = {severity: -severity.rank for severity in Severity}
    return sorted(report.findings, key=lambda finding: rank[finding.severity])  # stable: by place within a severity


def plain(finding: Finding) -> str:
    """A finding in one paragraph: what, and what to do."""
    doubt = {"contradicted": "CONTRADICTED by real backward passes: "}.get(finding.verified or "", "")
    return f"{doubt}{finding.message}" + (f"; {finding.fix}" if finding.fix else "")


def _file(target: str, root: Path) -> Anchor | None:
    file = target.partition(":")[0]
    return Anchor(Path(relative(str(Path(file).absolute()), root)).as_posix(), 1) if Path(file).is_file() else None
