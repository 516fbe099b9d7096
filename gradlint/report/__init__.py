"""Output formats, one file each. To add one: write ``render(report, view) -> str`` and name it in :data:`FORMATS`.

``render`` gets the report and how it is shown (:class:`View`); what it returns is printed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradlint.findings import Report
from gradlint.report import json, text
from gradlint.report.view import View

__all__ = ["FORMATS", "View"]

FORMATS: Mapping[str, Callable[[Report, View], str]] = {
    "full": text.render_full,
    "concise": text.render_concise,
    "json": json.render,
}
