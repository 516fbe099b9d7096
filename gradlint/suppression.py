"""Comments that accept findings: ``# gradlint: ignore[GL101] reason`` and ``# noqa: GL101``. No torch.

A comment behind code means its statement; one on a line of its own means the statement, the function or the class below it;
one on the line that opens a function or a class means all of it. There is no form without codes: what is accepted is named.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from gradlint.config import suggest, weight
from gradlint.findings import Finding, Location
from gradlint.run import Unused

__all__ = ["Suppression", "suppressions", "unused_of"]

_IGNORE = re.compile(r"#\s*gradlint:\s*ignore\b(?:\[(?P<codes>[^\]]*)\])?")
_NOQA = re.compile(r"#\s*noqa:\s*(?P<codes>[A-Za-z]+[0-9]+(?:[,\s]+[A-Za-z]+[0-9]+)*)", re.IGNORECASE)
_WHOLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Suppression:
    """One comment.

    Args:
        comment: where it stands.
        selectors: the codes, prefixes or names it accepts.
        first: the first line it is about.
        last: the last.
        own: it is written for gradlint, not for any linter.
    """

    comment: Location
    selectors: tuple[str, ...]
    first: int
    last: int
    own: bool

    def covers(self, place: Location | None) -> bool:
        """Whether the comment is about a place."""
        return place is not None and _same(place.path, self.comment.path) and self.first <= place.line <= self.last

    def selector_of(self, finding: Finding, names: Sequence[str] = ()) -> str | None:
        """The selector that accepts a finding, if one does.

        Args:
            names: codes and names that the finding's rule had before.
        """
        if not self.covers(finding.location):
            return None
        return next((s for s in self.selectors if s in names or weight(s, finding.code, finding.name)), None)


def suppressions(path: str, prefixes: Iterable[str] = ("GL",)) -> tuple[Suppression, ...]:
    """The comments of a file, in the order of its lines; none where it is no Python that can be read.

    Args:
        prefixes: the letters that codes of rules begin with: of ``noqa`` comments, other codes belong to other linters.
    """
    prefixes = tuple(sorted(prefixes))
    ours = "|".join(map(re.escape, prefixes))
    try:
        source = Path(path).read_bytes()
        if not re.search(rf"#\s*(gradlint:|noqa:[^\n]*\b(?:{ours})\d)".encode(), source, re.IGNORECASE):
            return ()  # most files: they need not be parsed
        tree = ast.parse(source)
        tokens = list(tokenize.tokenize(BytesIO(source).readline))
    except (OSError, SyntaxError, ValueError, tokenize.TokenError):
        return ()
    spans = list(_spans(tree))
    found = []
    for token in tokens:
        if token.type != tokenize.COMMENT:
            continue
        line, column = token.start
        alone = not token.line[:column].strip()
        for pattern, own in ((_IGNORE, True), (_NOQA, False)):
            for match in pattern.finditer(token.string):
                selectors = tuple(word for word in re.split(r"[,\s]+", match["codes"] or "") if word)
                if not own:
                    selectors = tuple(word for word in selectors if re.fullmatch(rf"(?:{ours})\d+", word))
                    if not selectors:
                        continue
                first, last = _covered(line, spans, alone=alone)
                place = Location(path, line, column + match.start() + 1)
                found.append(Suppression(place, selectors, first, last, own))
    return tuple(found)


def unused_of(
    found: Iterable[Suppression],
    used: Iterable[tuple[Suppression, str]],
    seen: Iterable[tuple[str, int]],
    ran: Iterable[tuple[str, str]],
    known: Iterable[str],
) -> tuple[Unused, ...]:
    """The parts of comments that accepted nothing though they could have.

    Args:
        found: the comments.
        used: those that accepted a finding, with the selector that did.
        seen: path and line of everything that was judged: a comment elsewhere may be for another run.
        ran: code and name of the rules that were asked: a comment for another may be for another run.
        known: codes and names of all rules, those they had before included.
    """
    lines: dict[str, set[int]] = {}
    for path, line in seen:
        lines.setdefault(_full(path), set()).add(line)
    spent, ran, known = set(used), list(ran), sorted(known)
    out: list[Unused] = []
    for one in found:
        if not any(one.first <= line <= one.last for line in lines.get(_full(one.comment.path), ())):
            continue
        if one.own and not one.selectors:
            out.append(Unused(one.comment, ""))
        for selector in one.selectors:
            if (one, selector) in spent:
                continue
            if any(weight(selector, code, name) for code, name in ran):
                out.append(Unused(one.comment, selector))
            elif one.own and selector not in known and not any(word.startswith(selector) for word in known):
                out.append(Unused(one.comment, selector, suggest(selector, known), known=False))
    return tuple(out)


def _spans(tree: ast.Module) -> Iterable[tuple[int, int, int, int]]:
    """Of every statement: the lines that open it, and the lines that a comment there is about."""
    for node in ast.walk(tree):
        if isinstance(node, _WHOLE):
            top = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield top, _opening(node), top, node.end_lineno or node.lineno
        elif isinstance(node, ast.stmt):
            yield node.lineno, _opening(node), node.lineno, _opening(node)


def _opening(node: ast.stmt) -> int:
    """The last line of a statement without the statements in it."""
    if not hasattr(node, "body"):
        return node.end_lineno or node.lineno
    parts = [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.stmt | ast.excepthandler | ast.match_case)]
    return max([node.lineno, *(getattr(inner, "end_lineno", None) or 0 for part in parts for inner in ast.walk(part))])


def _covered(line: int, spans: Sequence[tuple[int, int, int, int]], *, alone: bool) -> tuple[int, int]:
    """The lines that a comment is about."""
    around = [span for span in spans if span[0] <= line <= span[1]]
    if around:
        return min(around, key=lambda span: span[3] - span[2])[2:]
    below = min((span for span in spans if span[0] > line), key=lambda span: (span[0], span[1] - span[0]), default=None)
    return (line, line) if below is None or not alone else below[2:]


def _same(one: str, other: str) -> bool:
    return one == other or _full(one) == _full(other)


@lru_cache(maxsize=1024)
def _full(path: str) -> str:
    return str(Path(path).resolve())
