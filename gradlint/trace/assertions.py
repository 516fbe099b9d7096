"""What an assertion of the user compared: its two sides are evaluated again where it failed."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["compared"]


def compared(error: BaseException) -> tuple[Any, Any] | None:
    """The sides of the first ``==`` that did not hold in the ``assert`` that raised; None for any other error."""
    trace = error.__traceback__
    if not isinstance(error, AssertionError) or trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    for left, right in _equalities(trace.tb_frame.f_code.co_filename, trace.tb_lineno):
        with suppress(Exception):  # what cannot be evaluated again tells nothing
            sides = _value(left, trace.tb_frame), _value(right, trace.tb_frame)
            if sides[0] != sides[1]:
                return sides
    return None


def _equalities(path: str, line: int) -> Iterator[tuple[ast.expr, ast.expr]]:
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.lineno <= line <= (node.end_lineno or node.lineno):
            for part in ast.walk(node.test):
                if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq):
                    yield part.left, part.comparators[0]


def _value(expression: ast.expr, frame: FrameType) -> Any:
    code = compile(ast.Expression(expression), "<assertion>", "eval")
    return eval(code, frame.f_globals, frame.f_locals)  # noqa: S307 - an expression of the user's, which was just evaluated
