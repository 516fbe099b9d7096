"""A report as the output of a notebook's cell: small, of HTML alone, every text escaped.

It is made of what ``Report.to_dict()`` says. Colours are those that can be read on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from gradlint.wording import collapse, times

__all__ = ["html"]

_COLORS = {"error": "#d33", "warning": "#b80", "info": "#38c"}
_WIDTH, _HEIGHT = 120.0, 18.0


def html(report: Mapping[str, Any]) -> str:
    """A report in its JSON form (version 1) as a fragment of HTML: verdict, findings, failures, models."""
    from jinja2 import Environment  # noqa: PLC0415 - only where something is shown

    template = Environment(autoescape=True).from_string(files("gradlint").joinpath("display.html").read_text("utf-8"))
    findings = [{**f, "places": collapse(f["instances"]) or f["module"]} for f in report["findings"]]
    shown = {"findings": findings, "failures": report["failures"], "targets": [_target(t) for t in report["targets"]]}
    return template.render(**shown, verdict=_verdict(report), colors=_COLORS)


def _verdict(report: Mapping[str, Any]) -> str:
    counts = {severity: sum(f["severity"] == severity for f in report["findings"]) for severity in _COLORS}
    said = [f"{n} {severity}{'s' if n > 1 and severity != 'info' else ''}" for severity, n in counts.items() if n]
    said += [f"{len(report['failures'])} not analysed"] if report["failures"] else []
    said += [f"{len(report['suppressed'])} accepted"] if report["suppressed"] else []
    kinds = report["coverage"]
    unknown = sum(kinds["opaque"].values())
    total = kinds["known"] + sum(kinds["sampled"].values()) + unknown
    return f"{', '.join(said) or 'nothing found'} (covered {total - unknown} of {total} ops)"


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    """Its inputs and gain, and the gain so far along the gradient's way as the points of a line."""
    ways = [0.0, *(hop["total_log2"] for hop in target["path"])]
    ways = [*ways[: -1 : 1 + len(ways) // int(_WIDTH)], ways[-1]]  # no more points than pixels
    finite = all(isinstance(bits, float | int) for bits in ways)
    low, high = (min(ways), max(ways)) if finite else (0.0, 0.0)
    line = ""
    if len(ways) > 2 and high > low:
        steps = [(_WIDTH * i / (len(ways) - 1), _HEIGHT * (high - bits) / (high - low)) for i, bits in enumerate(ways)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    return {
        "name": target["name"],
        "inputs": ", ".join(target["inputs"]) + ("" if target["inputs_origin"] == "given" else f" ({target['inputs_origin']})"),
        "gain": "" if target["gain_log2"] is None else times(target["gain_log2"]),
        "line": line,
        "low": f"{low:+.1f}",
        "high": f"{high:+.1f}",
    }
