"""The JSON format: ``Report.to_dict()``, described by ``schema.json`` beside this file."""

from __future__ import annotations

import json
import math
from typing import Any

from gradlint.findings import Report
from gradlint.report.view import View, relative, relative_line

__all__ = ["render", "render_lines"]


def render(report: Report, view: View) -> str:
    """One JSON document. What JSON has no number for becomes a string: ``"inf"``, ``"-inf"``, ``"nan"``."""
    return json.dumps(_document(report, view), indent=2, ensure_ascii=False, allow_nan=False)


def render_lines(report: Report, view: View) -> str:
    """One JSON object per line: every finding, failure and target, and last the run; ``type`` says which."""
    document = _document(report, view)
    lines = [
        {"type": kind.removesuffix("s"), **item}
        for kind in ("targets", "findings", "suppressed", "failures")
        for item in document.pop(kind)
    ]
    return "\n".join(json.dumps(line, ensure_ascii=False, allow_nan=False) for line in [*lines, {"type": "run", **document}])


def _document(report: Report, view: View) -> Any:
    document = report.to_dict()
    for failure in document["failures"]:
        failure["where"] = relative_line(failure["where"], view.root)
    return _plain(document, view)


def _plain(value: Any, view: View) -> Any:
    if isinstance(value, dict):
        place = value.keys() == {"path", "line", "column"}
        return {k: relative(v, view.root) if place and k == "path" else _plain(v, view) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(item, view) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
