"""A line of source with carets under the expression that is meant."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

from rich.text import Text

from gradlint.findings import Location

__all__ = ["frame", "span"]


def frame(place: Location, style: str) -> list[Text]:
    """The line and its carets behind a gutter; nothing when the source cannot be read."""
    source = linecache.getline(place.path, place.line).rstrip()
    if not source.strip():
        return []
    start, end = span(place, source)
    shown = source.expandtabs(4)
    start, end = len(source[:start].expandtabs(4)), len(source[:end].expandtabs(4))
    dedent = len(shown) - len(shown.lstrip())
    number = str(place.line)
    gutter = " " * len(number)
    return [
        Text.assemble((f"{gutter} |", "blue")),
        Text.assemble((f"{number} | ", "blue"), shown[dedent:]),
        Text.assemble((f"{gutter} | ", "blue"), " " * (start - dedent), ("^" * max(end - start, 1), style)),
    ]


def span(place: Location, source: str) -> tuple[int, int]:
    """Columns, from 0, of the widest expression that starts at the place; else of the code on the line."""
    first = len(source) - len(source.lstrip())
    start = _characters(source, place.column - 1)
    ends = [end for line, column, end in _expressions(place.path) if (line, column) == (place.line, place.column)]
    if ends:
        end = max(ends)
    else:
        start = start if first <= start < len(source) else first
        end = len(source.partition("  #")[0].rstrip())
    return start, max(min(end, len(source)), start + 1)


@lru_cache(maxsize=16)
def _expressions(path: str) -> list[tuple[int, int, int]]:
    """(line, column, end in characters) of every expression in a file; one that goes on ends with its first line."""
    lines = linecache.getlines(path)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            line = lines[node.lineno - 1].rstrip()
            single = node.end_lineno == node.lineno and node.end_col_offset is not None
            end = _characters(line, node.end_col_offset or 0) if single else len(line)
            found.append((node.lineno, node.col_offset + 1, end))
    return found


def _characters(line: str, offset: int) -> int:
    """Python counts columns in UTF-8 bytes, a terminal shows characters."""
    return len(line.encode()[:offset].decode(errors="ignore"))
