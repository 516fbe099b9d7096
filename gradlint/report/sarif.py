"""SARIF 2.1.0, as code scanning reads it: one-line regions, relative URIs, the rules' pages, the gradient's way as a code flow.

Fingerprints go under a key of our own: ``primaryLocationLineHash`` is left to the action that uploads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gradlint.comparison import significant
from gradlint.facts import Hop, Page
from gradlint.findings import Changes, Finding, Report, Severity
from gradlint.report.anchor import Anchor, anchor, anchor_of_failure, located, plain
from gradlint.report.view import View

__all__ = ["render"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_KINDS = {"comment": "inSource", "baseline": "external"}
_HOPS = 1000  # GitHub keeps no more locations of a flow


def render(report: Report, view: View) -> str:
    """One run."""
    places = {page.code: number for number, page in enumerate(report.pages)}
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "gradlint", "version": report.version, "rules": [_rule(page) for page in report.pages]}},
        "automationDetails": {"id": "gradlint/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not report.failures,
                "exitCode": report.exit_code,
                "toolExecutionNotifications": [_notification(failure, view.root) for failure in report.failures],
            }
        ],
        "results": [_result(finding, report, places, view.root) for finding in (*report.findings, *report.suppressed)],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False, allow_nan=False)


def _rule(page: Page) -> dict[str, Any]:
    return {
        "id": page.code,
        "name": page.name,
        "shortDescription": {"text": page.summary},
        "fullDescription": {"text": page.summary},
        "help": {"text": page.markdown, "markdown": page.markdown},
        "defaultConfiguration": {"level": _LEVEL[Severity(page.severity)]},
    }


def _result(finding: Finding, report: Report, places: dict[str, int], root: Path) -> dict[str, Any]:
    place = anchor(finding, report, root)
    result: dict[str, Any] = {
        "ruleId": finding.code,
        **({"ruleIndex": places[finding.code]} if finding.code in places else {}),
        "level": _LEVEL[finding.severity],
        "message": {"text": plain(finding)},
        "locations": [] if place is None else [_location(place)],
        "partialFingerprints": {"gradlint/v1": finding.fingerprint} if finding.fingerprint else {},
        "properties": {
            "confidence": str(finding.confidence),
            "target": finding.target,
            "module": finding.module,
            "instances": list(finding.instances),
            "evidence": {k: _number(v) for k, v in finding.evidence.items()},
            "notes": list(finding.notes),
        },
    }
    if finding.location is not None and finding.location.library is not None:
        library = located(finding.location.library, root)
        result["relatedLocations"] = [_location(library, "the line of the library that did it")]
    if finding.factors and (flow := _flow(finding, report, root)):
        result["codeFlows"] = [{"message": {"text": "the gradient's way from the loss to the input"}, "threadFlows": [flow]}]
    if report.changes is not None:
        result["baselineState"] = _state(finding, report.changes)
    if finding.suppressed in _KINDS:
        result["suppressions"] = [{"kind": _KINDS[finding.suppressed]}]
    return result


def _state(finding: Finding, changes: Changes) -> str:
    """Beside the report that it was compared with."""
    alike = {kind: [f.fingerprint for change in changes.targets for f in getattr(change, kind)] for kind in ("worse", "kept")}
    known = finding.fingerprint in alike["kept"]
    return "updated" if finding.fingerprint in alike["worse"] else "unchanged" if known else "new"


def _flow(finding: Finding, report: Report, root: Path) -> dict[str, Any]:
    """The path of the finding's model, with what the gradient gained at each hop and so far."""
    path = next((target.path for target in report.targets if target.name == finding.target), ())
    hops = [(hop, located(hop.location, root)) for hop in path if hop.location is not None]
    if not hops:
        return {}
    locations = [{"location": _location(place, _told(hop)), "importance": _importance(hop)} for hop, place in islice(hops, _HOPS)]
    return {"locations": locations}


def _told(hop: Hop) -> str:
    where = f" in {hop.module}" if hop.module else ""
    return f"{hop.cause}{where}: {_times(hop.log2)} here, {_times(hop.total_log2)} so far"


def _importance(hop: Hop) -> str:
    return "essential" if abs(hop.log2) >= 1 else "important" if abs(hop.log2) >= 0.1 else "unimportant"


def _location(place: Anchor, message: str = "") -> dict[str, Any]:
    region = {"startLine": place.line, "startColumn": place.column, "endLine": place.line, "endColumn": place.end}
    physical = {"artifactLocation": {"uri": place.uri}, "region": region}
    return {"physicalLocation": physical, **({"message": {"text": message}} if message else {})}


def _notification(failure: Mapping[str, str], root: Path) -> dict[str, Any]:
    place = anchor_of_failure(failure["where"], failure["target"], root)
    hint = f" ({failure['hint']})" if failure["hint"] else ""
    return {
        "descriptor": {"id": f"failed/{failure['stage']}"},
        "level": "error",
        "message": {"text": f"{failure['target']}: {failure['message']}{hint}"},
        "locations": [] if place is None else [_location(place)],
    }


def _number(value: float | str) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else significant(value)


def _times(log2: float) -> str:
    return f"×{2.0**log2:.3g}" if abs(log2) < 1000 else f"×2^{log2:.0f}"
