"""Output formats, one file each. To add one: write ``render(report, view) -> str`` and name it in :data:`FORMATS`.

``render`` gets the report and how it is shown (:class:`View`); what it returns is printed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.report import github, gitlab, json, junit, markdown, rdjson, sarif, text
from gradlint.report.view import View

__all__ = ["FORMATS", "View", "assign"]

FORMATS: Mapping[str, Callable[[Report, View], str]] = {
    "full": text.render_full,
    "concise": text.render_concise,
    "json": json.render,
    "jsonl": json.render_lines,
    "sarif": sarif.render,
    "github": github.render,
    "gitlab": gitlab.render,
    "junit": junit.render,
    "rdjson": rdjson.render,
    "markdown": markdown.render,
}

_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".sarif": "sarif", ".xml": "junit", ".md": "markdown", ".txt": "full"}


def assign(formats: Sequence[str], files: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """Which format goes where; None is stdout, as is a file called ``-``.

    A file takes the format of its suffix where that was asked for, else the next that was; when none is left, that of its suffix.
    Formats without a file go to stdout; without any file and format, ``full`` does.

    >>> assign(["json", "full"], [Path("a.txt")])
    [('full', PosixPath('a.txt')), ('json', None)]

    Raises:
        UsageError: there is no such format, or a file has none.
    """
    for style in formats:
        if style not in FORMATS:
            raise UsageError(f"output-format: expected one of {', '.join(FORMATS)}, got {style!r}")
    left, found = list(formats), list[tuple[str, Path | None]]()
    for file in files:
        usual = _SUFFIXES.get(file.suffix)
        if left:
            style = left.pop(left.index(usual)) if usual in left else left.pop(0)
        elif usual is not None or file == Path("-"):
            style = usual or "full"
        else:
            raise UsageError(f"output-file: no format is given for {file}, and its suffix is none of {', '.join(_SUFFIXES)}")
        found.append((style, None if file == Path("-") else file))
    return [*found, *((style, None) for style in left)] or [("full", None)]
