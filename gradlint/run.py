"""What is known of a run once every model was checked: for rules about the linting itself. Frozen, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.findings import Location

__all__ = ["Crash", "Run", "Stale", "Unused"]


@dataclass(frozen=True)
class Crash:
    """A rule that raised.

    Args:
        code: of the rule.
        error: type and text of the exception.
        target: the model it was looking at.
        node: the op or parameter it was looking at; empty where that cannot be told.
        location: the user's line of that.
        where: ``path:line`` in the rule.
    """

    code: str
    error: str
    target: str
    node: str
    location: Location | None
    where: str


@dataclass(frozen=True)
class Unused:
    """A part of a comment that suppresses nothing.

    Args:
        comment: where it stands.
        selector: the code or name; empty for a comment that names none.
        hint: a name it may have meant, as ``; did you mean 'x'?``.
        known: there is such a rule.
    """

    comment: Location
    selector: str
    hint: str = ""
    known: bool = True


@dataclass(frozen=True)
class Stale:
    """An accepted finding that no longer occurs.

    Args:
        place: its line in the baseline.
        code: of the rule.
        target: of the model.
        module: where it was.
    """

    place: Location
    code: str
    target: str
    module: str


@dataclass(frozen=True)
class Run:
    """The whole run."""

    crashes: tuple[Crash, ...] = ()
    unused: tuple[Unused, ...] = ()
    stale: tuple[Stale, ...] = ()
