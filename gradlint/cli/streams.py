"""What is written where: the report to stdout, all else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

from rich.console import Console

from gradlint.report import View

__all__ = ["stdout_to_stderr", "terminal_view"]


def terminal_view(color: str, quiet: bool, verbose: bool, *, statistics: bool = False, plain: bool = False) -> View:
    """How to print, from the flags, the terminal and NO_COLOR, FORCE_COLOR, FORCE_HYPERLINK, COLUMNS."""
    terminal = Console()
    automatic = not plain and terminal.is_terminal and not terminal.no_color
    wide = not plain and (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit())
    colored = color == "always" or (color == "auto" and automatic)
    return View(
        color=colored,
        width=terminal.width if wide else None,
        quiet=quiet,
        verbose=verbose,
        statistics=statistics,
        links=colored and not plain and _has_links(),
    )


def _has_links() -> bool:
    """Terminals that do not know hyperlinks leave them out, except the oldest; logs keep them as they are."""
    forced = os.environ.get("FORCE_HYPERLINK")
    return forced != "0" if forced else sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "linux")


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What the user's code prints, in Python or below it, goes to stderr: stdout holds the report and nothing else."""
    sys.stdout.flush()
    saved = None
    with suppress(OSError, ValueError):  # no such descriptors: closed, or replaced by an embedding program
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
