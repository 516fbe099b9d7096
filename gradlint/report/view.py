"""How a report is shown, as opposed to what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["View", "relative", "relative_line"]


@dataclass(frozen=True)
class View:
    """How a report is shown.

    Args:
        color: with colours.
        links: codes lead to the pages of their rules, places to their lines (OSC 8).
        width: columns of the terminal; None does not wrap.
        quiet: findings and failures only.
        verbose: also what a clean model was found to be.
        statistics: also how often each rule found something.
        root: paths below it are shown relative to it.
    """

    color: bool = False
    width: int | None = None
    quiet: bool = False
    verbose: bool = False
    statistics: bool = False
    links: bool = False
    root: Path = field(default_factory=Path.cwd)


def relative(path: str, root: Path) -> str:
    """A path as the user would type it: relative to ``root`` when below it."""
    try:
        return str(Path(path).relative_to(root))
    except ValueError:
        return path


def relative_line(where: str, root: Path) -> str:
    """The same for ``path:line``."""
    path, colon, line = where.rpartition(":")
    return f"{relative(path, root)}{colon}{line}" if colon else where
