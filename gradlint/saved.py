"""Reports that were written as JSON, read back as far as a comparison needs them. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlint.errors import UsageError
from gradlint.facts import Coverage, DepthFacts, Location, ModuleFacts, TargetReport
from gradlint.findings import Confidence, Finding, Report, Severity

__all__ = ["is_report", "read_report"]

_VERSION = 1


def is_report(path: Path) -> bool:
    """Whether a file is a JSON report; other JSON files are targets (a ``config.json``)."""
    try:
        document = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else None
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "gradlint_version" in document


def read_report(text: str, name: str) -> Report:
    """A report of which the models have their numbers and the types of their modules, the findings everything that was written.

    Args:
        name: what messages call it.

    Raises:
        UsageError: it is no report, or one of another version.
    """
    try:
        document = json.loads(text)
        if document["schema_version"] != _VERSION:
            raise UsageError(f"{name} has version {document['schema_version']}, not {_VERSION}: write it anew")
        return Report(
            targets=tuple(map(_target, document["targets"])),
            findings=tuple(map(_finding, document["findings"])),
            failures=tuple({str(key): str(value) for key, value in failure.items()} for failure in document["failures"]),
            version=str(document["gradlint_version"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} is no report of gradlint: {type(error).__name__}: {error}") from error


def _target(item: Mapping[str, Any]) -> TargetReport:
    ends = item["gain_interval_log2"]
    return TargetReport(
        name=item["name"],
        location=_location(item["location"]),
        inputs=tuple(item["inputs"]),
        rung=item["rung"],
        coverage=Coverage(**item["coverage"]),
        gain_log2=_number(item["gain_log2"]),
        gain_typical_log2=_number(item["gain_typical_log2"]),
        gain_interval_log2=None if ends is None else (float(ends[0]), float(ends[1])),
        modules=tuple(
            ModuleFacts(m["name"], m["type"], _location(m["location"]), _number(m["rms"]), _number(m["grad_rms"]))
            for m in item["modules"]
        ),
        inputs_origin=item["inputs_origin"],
        depths=tuple(DepthFacts(**depth) for depth in item["depths"]),
    )


def _finding(item: Mapping[str, Any]) -> Finding:
    return Finding(
        code=item["code"],
        name=item["name"],
        severity=Severity(item["severity"]),
        confidence=Confidence(item["confidence"]),
        message=item["message"],
        location=_location(item["location"]),
        target=item["target"],
        module=item["module"],
        evidence=dict(item["evidence"]),
        instances=tuple(item["instances"]),
        notes=tuple(item["notes"]),
        fix=item["fix"],
        verified=item["verified"],
        fingerprint=item["fingerprint"],
    )


def _location(item: Mapping[str, Any] | None) -> Location | None:
    return None if item is None else Location(item["path"], item["line"], item["column"])


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)
