"""Text inside Markdown."""

from __future__ import annotations

__all__ = ["cell", "code"]


def cell(text: str) -> str:
    """Text that is nothing but text, in a cell of a table."""
    for character in "\\|<*_`":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def code(text: str) -> str:
    """A name in the typeface of code, in a cell of a table."""
    return f"`{text.replace('`', '').replace('|', chr(92) + '|')}`"
