"""The kinds of values a setting can have: the reader that checks one, and the JSON Schema that tells editors the same."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from gradlint.errors import UsageError
from gradlint.findings import Severity

__all__ = [
    "ARGUMENTS",
    "CODES",
    "FAIL_ON",
    "FLAG",
    "FORMATS",
    "NOT_NEGATIVE",
    "OUTPUTS",
    "POSITIVE",
    "SPECIFIER",
    "STEPS",
    "STRING",
    "STRINGS",
    "Kind",
    "Output",
    "choice",
    "matches",
    "object_of",
    "path",
    "paths",
    "read_table",
    "suggest",
    "table_of",
    "weight",
]


class Output(NamedTuple):
    """Where a report goes, and in which format; an empty one is told by the file's suffix or by ``output-format``."""

    file: Path
    style: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Args:
        read: checks a value and gives it the type that :class:`~gradlint.config.Settings` holds; UsageError if it makes no
            sense. Its second argument says where the value stands.
        schema: the JSON Schema of what it accepts in a file.
    """

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when something known is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def weight(selector: str, code: str, name: str) -> int:
    """How specific a selector is for a rule; 0 when it does not match.

    >>> weight("GL101", "GL101", "exploding-path") > weight("GL1", "GL101", "exploding-path") > weight("ALL", "GL101", "")
    True
    """
    if selector in (code, name):
        return len(code) + 1
    if selector == "ALL":
        return 1
    return 1 + len(selector) if selector and code.startswith(selector) else 0


def matches(pattern: str, file: Path, root: Path) -> bool:
    """Whether a file is meant by a pattern: of its path below ``root``, or of its name alone.

    >>> matches("models/*.py", Path("/p/models/old/net.py"), Path("/p")), matches("net.py", Path("/p/a/net.py"), Path("/p"))
    (True, True)
    """
    known = [file.name, file.as_posix()]
    if file.is_relative_to(root):
        known.append(file.relative_to(root).as_posix())
    return any(fnmatchcase(text, pattern) for text in known)


def choice(*options: str) -> Kind:
    """One of some words."""

    def read(value: object, where: str) -> str:
        if value in options:
            return str(value)
        raise UsageError(f"{where}: expected one of {', '.join(options)}, got {value!r}{suggest(str(value), options)}")

    return Kind(read, {"enum": list(options)})


def path(what: str) -> Kind:
    """A path; a relative one counts from the file that it stands in."""

    def read(value: object, where: str) -> Path | None:
        return value if value is None or isinstance(value, Path) else Path(_string(value, where))

    return Kind(read, {"type": "string", "minLength": 1, "description": what})


def paths(what: str) -> Kind:
    """Several paths, or one."""

    def read(value: object, where: str) -> tuple[Path, ...]:
        found: Sequence[Any] = (value,) if isinstance(value, str | Path) else value if isinstance(value, Sequence) else (value,)
        return tuple(item if isinstance(item, Path) else Path(_string(item, where)) for item in found)

    one = {"type": "string", "minLength": 1}
    return Kind(read, {"anyOf": [one, {"type": "array", "items": one}], "description": what})


def table_of(kind: Kind, keys: str) -> Kind:
    """A table whose keys are the user's own: patterns, names."""

    def read(value: object, where: str) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {str(key): kind.read(item, f"{where}: {key}") for key, item in value.items()}
        raise UsageError(f"{where}: expected a table of {keys}, got {value!r}")

    return Kind(read, {"type": "object", "additionalProperties": kind.schema})


def object_of(cls: type, kinds: Mapping[str, Kind], *others: tuple[type, Mapping[str, Kind]]) -> dict[str, Any]:
    """The schema of a table, described by the ``Args`` of its class."""
    properties: dict[str, Any] = {}
    for owner, table in ((cls, kinds), *others):
        described = _described(owner)
        for key, kind in table.items():
            properties[key.replace("_", "-")] = {**kind.schema, "description": described[key]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _described(cls: type) -> dict[str, str]:
    """Argument to its description, from the docstring."""
    text = (inspect.getdoc(cls) or "").partition("Args:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", said).replace("``", "`") for name, said in entries}


def read_table(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str, *, kebab: bool = False) -> dict[str, Any]:
    """The checked values of a table.

    Args:
        kebab: keys are written as in a file (``fail-on``), not as fields (``fail_on``).
    """
    known = {key.replace("_", "-") if kebab else key: key for key in kinds}
    for key in values:
        if key not in known:
            hint = suggest(key.replace("_", "-") if kebab else key, known)
            raise UsageError(f"{where}: unknown setting {key!r}{hint}")
    return {known[key]: kinds[known[key]].read(value, f"{where}: {key}") for key, value in values.items()}


def _string(value: object, where: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise UsageError(f"{where}: expected a string, got {value!r}")


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise UsageError(f"{where}: expected a list of strings, got {value!r}")


def _outputs(value: object, where: str) -> tuple[Output, ...]:
    given = value if isinstance(value, list | tuple) else [value]
    return tuple(item if isinstance(item, Output) else _output(item, where) for item in given)


def _output(value: object, where: str) -> Output:
    """``report.json``, or ``gitlab=report.json``."""
    text = _string(str(value) if isinstance(value, Path) else value, where)
    named = re.fullmatch(r"([a-z]+)=(.+)", text)
    return Output(Path(text)) if named is None else Output(Path(named[2]), named[1])


def _codes(value: object, where: str) -> tuple[str, ...]:
    return tuple(code.strip() for item in _strings(value, where) for code in item.split(",") if code.strip())


def _severity(value: object, where: str) -> Severity | None:
    if value is None:
        return None
    word: str = choice(*map(str, reversed(Severity)), "never").read(value, where)
    return None if word == "never" else Severity(word)


def _flag(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{where}: expected true or false, got {value!r}")


def _number(*, zero: bool) -> Callable[[object, str], float | None]:
    def read(value: object, where: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and (0 < value < math.inf or (zero and value == 0)):
            return float(value)
        raise UsageError(f"{where}: expected a {'number from 0' if zero else 'positive number'}, got {value!r}")

    return read


def _arguments(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        return dict(value)
    raise UsageError(f"{where}: expected a table of arguments by name, got {value!r}")


def _specifier(value: object, where: str) -> str:
    try:
        return str(SpecifierSet(_string(value, where)))
    except InvalidSpecifier as error:
        raise UsageError(f"{where}: expected a version specifier such as '>=0.3', got {value!r}") from error


def _steps(value: object, where: str) -> dict[str, int]:
    """One number of steps for every model, or a table of models and theirs."""
    found: dict[str, int] = {}
    for pattern, steps in (value if isinstance(value, Mapping) else {"*": value}).items():
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            at = f": {pattern}" if isinstance(value, Mapping) else ""
            raise UsageError(f"{where}{at}: expected a positive number of steps, got {steps!r}")
        found[str(pattern)] = steps
    return found


_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

_COUNT = {"type": "integer", "minimum": 1}
STEPS = Kind(_steps, {"anyOf": [_COUNT, {"type": "object", "additionalProperties": _COUNT}]})
STRING = Kind(_string, {"type": "string", "minLength": 1})
STRINGS = Kind(_strings, _LIST)
CODES = Kind(_codes, {**_LIST, "description": "Codes, prefixes of codes, or names of rules; ALL is every rule."})
OUTPUTS = Kind(_outputs, _LIST)
FORMATS = Kind(_codes, {**_LIST, "description": "Output formats; the first to the first output-file, and so on."})
FAIL_ON = Kind(_severity, choice("error", "warning", "info", "never").schema)
FLAG = Kind(_flag, {"type": "boolean"})
NOT_NEGATIVE = Kind(_number(zero=True), {"type": "number", "minimum": 0})
POSITIVE = Kind(_number(zero=False), {"type": "number", "exclusiveMinimum": 0})
ARGUMENTS = Kind(_arguments, {"type": "object", "propertyNames": {"pattern": "^[^\\W\\d]\\w*$"}})
SPECIFIER = Kind(_specifier, {"type": "string", "minLength": 1})
