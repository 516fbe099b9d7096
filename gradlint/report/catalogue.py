"""The pages of the rules: a rule's docstring is its page, wherever it is shown."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from gradlint.findings import Page, Severity
from gradlint.limits import LIMITS, Limit

__all__ = ["Documented", "page", "page_of", "record", "row", "rows", "summary"]


class Documented(Protocol):
    """What a page needs of a rule."""

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    preview: ClassVar[bool]
    formerly: ClassVar[tuple[str, ...]]


def summary(rule: Documented) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(type(rule)) or "").partition("\n")[0]


def page(rule: Documented) -> str:
    """The whole page, as Markdown."""
    text = (inspect.getdoc(type(rule)) or "").strip()
    notes = (" (preview: --preview lets it report)" if rule.preview else "") + (
        f"\n\nFormerly {', '.join(rule.formerly)}" if rule.formerly else ""
    )
    return f"# {rule.code} {rule.name}\n\nSeverity: {rule.severity}{notes}\n\n{text}{_limits(rule)}"


def _limits(rule: Documented) -> str:
    """The thresholds that the rule's module reads, as they are, with their sources."""
    try:
        source = inspect.getsource(sys.modules[type(rule).__module__])
    except OSError:  # a pack that is shipped without its source has its docstrings
        return ""
    read = re.findall(r'LIMITS\["(\w+)"\]', source)
    known = [(name, LIMITS[name]) for name in dict.fromkeys(read) if name in LIMITS]
    if not known:
        return ""
    return "\n\n## Limits\n" + "\n".join(f"* {name}: {_said(limit)} ({limit.source})" for name, limit in known)


def _said(limit: Limit) -> str:
    error = f", error at {limit.error:g}" if math.isfinite(limit.error) else ""
    return f"warning at {limit.warning:g}{error} {limit.unit}"


def page_of(rule: Documented) -> Page:
    """What a report tells of it."""
    path = getattr(sys.modules[type(rule).__module__], "__file__", None) or ""
    return Page(rule.code, rule.name, str(rule.severity), summary(rule), page(rule), path)


def record(rule: Documented) -> dict[str, Any]:
    """The page as plain data: its sections by title, and the whole as Markdown."""
    text = (inspect.getdoc(type(rule)) or "").strip()
    titles, parts = re.findall(r"^## (.+)$", text, re.MULTILINE), re.split(r"^## .+$", text, flags=re.MULTILINE)
    sections = {title: part.strip() for title, part in zip(titles, parts[1:], strict=True)}
    return {**row(rule), "formerly": list(rule.formerly), "sections": sections, "markdown": page(rule)}


def row(rule: Documented) -> dict[str, Any]:
    """What a table shows of a rule."""
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": str(rule.severity),
        "preview": rule.preview,
        "summary": summary(rule),
        "pack": type(rule).__module__.partition(".")[0],
    }


def rows(rules: Iterable[Documented]) -> list[dict[str, Any]]:
    """One row per rule for a table."""
    return [row(rule) for rule in rules]
