"""``--arg width=64``: what a class or function is called with."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse_arguments"]


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Keywords and values; a value that is no Python literal is a text.

    >>> parse_arguments(["width=64", "act=relu", "blocks=[2, 2]", "bias=False"])
    {'width': 64, 'act': 'relu', 'blocks': [2, 2], 'bias': False}

    Raises:
        LoadError: one has no ``=``, or no name before it.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise LoadError(f"--arg {text}: expected NAME=VALUE", hint="as in --arg width=64")
        if name in values:
            raise LoadError(f"--arg {name} is given twice", hint="once per name")
        try:
            values[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            values[name] = value
    return values
