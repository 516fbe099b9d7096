"""Hyperlinks of a terminal (OSC 8): a code leads to the page of its rule, a place to its file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.style import Style
from rich.text import Text

from gradlint.findings import Finding, Report
from gradlint.report.view import View

__all__ = ["linked"]


def linked(lines: Iterable[Text], finding: Finding, report: Report, view: View) -> Iterator[Text]:
    """The lines of a finding, where the terminal has links: its code, and the first mention of its file."""
    page = next((page.path for page in report.pages if page.code == finding.code), "")
    place = finding.location
    wanted = {finding.code: page}
    if place is not None:
        wanted[f"{Path(place.path).name}:{place.line}"] = place.path
    for line in lines:
        for words, path in list(wanted.items()) if view.links else ():
            start = line.plain.find(words)
            if start >= 0 and Path(path).is_absolute():
                line.stylize(Style(link=Path(path).as_uri()), start, start + len(words))
                del wanted[words]
        yield line
