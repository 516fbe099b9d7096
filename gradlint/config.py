"""``[tool.gradlint]`` and flags -> one frozen :class:`Settings`.

The nearest ``gradlint.toml``, or ``pyproject.toml`` with a ``[tool.gradlint]`` table, above the targets is read; files
are not merged. Keys are the names of the flags. A flag replaces the value in the file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gradlint.errors import UsageError
from gradlint.findings import Severity

__all__ = ["Settings", "configure", "discover", "suggest"]


@dataclass(frozen=True)
class Settings:
    """What one run was asked to do.

    Args:
        select: codes, prefixes of codes, names, or ``ALL``: only these rules report. Empty means all.
        ignore: codes, prefixes of codes or names that do not report.
        fail_on: findings of this severity or worse fail the run; None when findings never do.
        input: specs of every model's inputs (``x:float32:2,3,32,32``); empty means they are found or guessed.
        inputs: the same for single models, by their name (``Net``), file and name (``model.py:Net``) or a pattern of these.
        output_format: a name in ``gradlint.report.FORMATS``.
        output_file: where the report goes; None is stdout.
        verify: put real forward and backward passes beside the prediction.
        weights: safetensors with the values that the parameters are judged by.
        source: the file these came from, if any.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = Severity.WARNING
    input: tuple[str, ...] = ()
    output_format: str = "full"
    output_file: Path | None = None
    verify: bool = False
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Path | None = None
    source: Path | None = field(default=None, compare=False)

    def wants(self, code: str, name: str) -> bool:
        """Whether a rule may report: the more specific selector decides, and ``ignore`` wins a tie.

        >>> Settings(select=("GL1",), ignore=("GL102",)).wants("GL101", "exploding-path")
        True
        >>> Settings(select=("vanishing-path",), ignore=("GL1",)).wants("GL102", "vanishing-path")
        True
        """
        chosen = max((_weight(s, code, name) for s in self.select or ("ALL",)), default=0)
        ignored = max((_weight(s, code, name) for s in self.ignore), default=0)
        return chosen > ignored

    def inputs_of(self, target: str) -> tuple[str, ...]:
        """The specs for a model: its own, else those for every model.

        >>> Settings(input=("2,3",), inputs={"*Critic": ("state:2,24", "action:2,4")}).inputs_of("models/td3.py:TwinCritic")
        ('state:2,24', 'action:2,4')
        >>> Settings(input=("2,3",), inputs={"net.py:Net": ("2,5",)}).inputs_of("models/other.py:Net")
        ('2,3',)
        """
        file, _, name = target.rpartition(":")
        known = {target, name, f"{Path(file).name}:{name}"}
        for pattern, specs in self.inputs.items():
            if any(fnmatchcase(text, pattern) for text in sorted(known)):
                return specs
        return self.input

    def updated(self, values: Mapping[str, Any], where: str) -> Settings:
        """These settings with ``values`` (by field name) in place of their own; unknown names and values raise."""
        for key in values:
            if key not in _READERS:
                raise UsageError(f"{where}: unknown setting {key!r}{suggest(key, _READERS)}")
        read: dict[str, Any] = {key: _READERS[key](value, f"{where}: {key}") for key, value in values.items()}
        if read.get("select") and "ignore" not in read:
            # Who asks for a rule gets it: an older `ignore` must not turn `--select GL101` into an empty pass.
            read["ignore"] = ()
        if read.get("input") and "inputs" not in read:
            read["inputs"] = {}  # likewise: a flag counts more than what a file says of some models
        return replace(self, **read)


def configure(
    targets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    isolated: bool = False,
) -> Settings:
    """The settings of one run: the defaults, then the file, then the flags.

    Args:
        targets: what will be linted; the file is looked for above them.
        flags: values by field name; those that were not given are absent.
        config: read this file instead of looking for one.
        isolated: read no file.
    """
    found = None if isolated else config or discover(targets)
    result = Settings()
    if found is not None:
        table = _read(found)
        if table is None:
            raise UsageError(f"{found}: has no [tool.gradlint] table")
        names = {key: key.replace("-", "_") for key in table}
        for key, name in names.items():
            if name not in _READERS or "_" in key:
                known = [known.replace("_", "-") for known in _READERS]
                raise UsageError(f"{found}: unknown setting {key!r}{suggest(key.replace('_', '-'), known)}")
        result = result.updated({names[key]: value for key, value in table.items()}, str(found))
        if result.output_file is not None:
            result = replace(result, output_file=found.parent / result.output_file)
        if result.weights is not None:
            result = replace(result, weights=found.parent / result.weights)
        result = replace(result, source=found)
    return result.updated(flags or {}, "flags")


def discover(targets: Sequence[str] = ()) -> Path | None:
    """The nearest configuration above what the files among the targets share, or above the working directory."""
    files = [path.resolve() for path in (Path(target.partition(":")[0]) for target in targets) if path.exists()]
    start = Path(os.path.commonpath([f if f.is_dir() else f.parent for f in files])) if files else Path.cwd()
    for folder in (start, *start.parents):
        for name in ("gradlint.toml", "pyproject.toml"):
            path = folder / name
            if path.is_file() and _read(path) is not None:
                return path
    return None


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when something known is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _read(path: Path) -> dict[str, Any] | None:
    """The table of a configuration file; None if it has none."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if path.name != "pyproject.toml":
        return data
    table = data.get("tool", {}).get("gradlint")
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: tool.gradlint must be a table")
    return table


def _weight(selector: str, code: str, name: str) -> int:
    """How specific a selector is for a rule; 0 when it does not match."""
    if selector in (code, name):
        return len(code) + 1
    if selector == "ALL":
        return 1
    return 1 + len(selector) if code.startswith(selector) else 0


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Collection) and all(isinstance(item, str) for item in value):
        return tuple(str(item) for item in value)
    raise UsageError(f"{where}: expected a list of strings, got {value!r}")


def _codes(value: object, where: str) -> tuple[str, ...]:
    return tuple(code.strip() for item in _strings(value, where) for code in item.split(",") if code.strip())


def _severity(value: object, where: str) -> Severity | None:
    if value in (None, "never"):
        return None
    if value in list(Severity):
        return Severity(str(value))
    choices = [*map(str, reversed(Severity)), "never"]
    raise UsageError(f"{where}: expected one of {', '.join(choices)}, got {value!r}{suggest(str(value), choices)}")


def _string(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    raise UsageError(f"{where}: expected a string, got {value!r}")


def _flag(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{where}: expected true or false, got {value!r}")


def _path(value: object, where: str) -> Path | None:
    return value if value is None or isinstance(value, Path) else Path(_string(value, where))


def _specs(value: object, where: str) -> dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping):
        return {str(pattern): _strings(specs, f"{where}: {pattern}") for pattern, specs in value.items()}
    raise UsageError(f"{where}: expected a table of models and their inputs, got {value!r}")


_READERS = {
    "select": _codes,
    "ignore": _codes,
    "fail_on": _severity,
    "input": _strings,
    "inputs": _specs,
    "output_format": _string,
    "output_file": _path,
    "verify": _flag,
    "weights": _path,
}
