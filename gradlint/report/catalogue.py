"""The pages of the rules: a rule's docstring is its page, wherever it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import ClassVar, Protocol

from gradlint.findings import Severity

__all__ = ["Documented", "page", "rows", "summary"]


class Documented(Protocol):
    """What a page needs of a rule."""

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]


def summary(rule: Documented) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(type(rule)) or "").partition("\n")[0]


def page(rule: Documented) -> str:
    """The whole page, as Markdown."""
    text = (inspect.getdoc(type(rule)) or "").strip()
    return f"# {rule.code} {rule.name}\n\nSeverity: {rule.severity}\n\n{text}"


def rows(rules: Iterable[Documented]) -> list[dict[str, str]]:
    """One row per rule for a table."""
    return [
        {
            "code": rule.code,
            "name": rule.name,
            "severity": str(rule.severity),
            "summary": summary(rule),
            "pack": type(rule).__module__.partition(".")[0],
        }
        for rule in rules
    ]
