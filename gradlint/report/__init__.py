"""Output formats, one file each. To add one: write ``render(report, view) -> str`` and name it in :data:`FORMATS`.

``render`` gets the report and how it is shown (:class:`View`); what it returns is printed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradlint.config import Output, suggest
from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.report import github, gitlab, html, json, junit, markdown, rdjson, sarif, text
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
    "html": html.render,
}

_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".sarif": "sarif",
    ".xml": "junit",
    ".md": "markdown",
    ".html": "html",
    ".txt": "full",
}


def assign(formats: Sequence[str], outputs: Sequence[Output]) -> list[tuple[str, Path | None]]:
    """Which format goes where; None is stdout, as is a file called ``-``.

    A file without a format of its own takes that of its suffix where that was asked for, else the next that was asked for; when
    more files than formats are named, that of its suffix. Formats without a file go to stdout, as ``full`` does without any.

    >>> assign(["json", "full"], [Output(Path("a.txt"))])
    [('full', PosixPath('a.txt')), ('json', None)]

    Raises:
        UsageError: there is no such format, or a file has none.
    """
    for style in (*formats, *(output.style for output in outputs if output.style)):
        if style not in FORMATS:
            raise UsageError(f"output-format: expected one of {', '.join(FORMATS)}, got {style!r}{suggest(style, FORMATS)}")
    left, found = list(formats), list[tuple[str, Path | None]]()
    waiting = sum(not output.style for output in outputs)  # files without a format of their own
    for file, told in outputs:
        usual = "full" if file == Path("-") else _SUFFIXES.get(file.suffix, "")
        enough = len(left) >= waiting
        waiting -= not told
        if told:
            style = told
        elif usual in left:
            style = left.pop(left.index(usual))
        elif left and (enough or not usual):
            style = left.pop(0)
        elif usual:
            style = usual
        else:
            raise UsageError(f"output-file: no format is given for {file}, and its suffix is none of {', '.join(_SUFFIXES)}")
        found.append((style, None if file == Path("-") else file))
    return [*found, *((style, None) for style in left)] or [("full", None)]
