"""The JSON format: ``Report.to_dict()``, described by ``schema.json`` beside this file."""

from __future__ import annotations

import json
import math
from typing import Any

from gradlint.findings import Report
from gradlint.report.view import View, relative, relative_line

__all__ = ["render"]


def render(report: Report, view: View) -> str:
    """One JSON document. What JSON has no number for becomes a string: ``"inf"``, ``"-inf"``, ``"nan"``."""
    document = report.to_dict()
    for failure in document["failures"]:
        failure["where"] = relative_line(failure["where"], view.root)
    return json.dumps(_plain(document, view), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any, view: View) -> Any:
    if isinstance(value, dict):
        place = value.keys() == {"path", "line", "column"}
        return {k: relative(v, view.root) if place and k == "path" else _plain(v, view) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(item, view) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
