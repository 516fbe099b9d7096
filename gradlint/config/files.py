"""Where settings come from: the defaults, then the nearest file, then flags and their ``GRADLINT_*`` twins.

The nearest ``gradlint.toml``, or ``pyproject.toml`` with a ``[tool.gradlint]`` table, above the targets is read; files
are not merged. Keys are the names of the flags. A flag replaces the value in the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from gradlint._version import __version__
from gradlint.config.settings import KINDS, Settings, Target
from gradlint.config.values import read_table, suggest
from gradlint.errors import UsageError

__all__ = ["BASELINE", "ENVIRONMENT", "configure", "discover", "misspelt"]

ENVIRONMENT = "GRADLINT_"
BASELINE = "gradlint-baseline.json"
_NAMES = ("gradlint.toml", ".gradlint.toml", "pyproject.toml")


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

    Raises:
        UsageError: a key or value makes no sense, or the file asks for another version of gradlint.
    """
    found = None if isolated else config or discover(targets)
    result = Settings()
    if found is not None:
        table = _read(found)
        if table is None:
            raise UsageError(f"{found}: has no [tool.gradlint] table")
        _check_version(table, found)
        result = result.updated(read_table(table, KINDS, str(found), kebab=True), str(found))
        result = _anchored(replace(result, source=found.absolute()))
    result = _with_flags(result, flags or {})
    if result.baseline is None and not isolated:
        usual = result.root / BASELINE
        result = replace(result, baseline=usual if usual.is_file() else None)
    return result


def discover(targets: Sequence[str] = ()) -> Path | None:
    """The nearest configuration above what the files among the targets share, or above the working directory."""
    files = [path.resolve() for path in (Path(target.partition(":")[0]) for target in targets) if path.exists()]
    start = Path(os.path.commonpath([f if f.is_dir() else f.parent for f in files])) if files else Path.cwd()
    for folder in (start, *start.parents):
        for name in _NAMES:
            path = folder / name
            if path.is_file() and _read(path) is not None:
                return path
    return None


def misspelt(environment: Iterable[str], known: Iterable[str]) -> list[str]:
    """What to say of variables that look like settings and are none.

    Args:
        environment: names of variables.
        known: the names that mean something.
    """
    known = set(known)
    names = sorted(name for name in environment if name.startswith(ENVIRONMENT) and name not in known)
    return [f"the environment variable {name} means nothing{suggest(name, known)}" for name in names]


def _with_flags(settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """A flag counts more than what the file says, of all models or of one."""
    given = {*flags, *({"ignore"} if flags.get("select") else ())}
    targets = [replace(t, own={key: value for key, value in t.own.items() if key not in given}) for t in settings.target]
    return replace(settings.updated(flags, "flags"), target=tuple(targets))


def _check_version(table: Mapping[str, Any], found: Path) -> None:
    """Before anything else is read: another version may know other keys."""
    if "required-version" in table:
        wanted: str = KINDS["required_version"].read(table["required-version"], f"{found}: required-version")
        if not SpecifierSet(wanted, prereleases=True).contains(__version__):
            raise UsageError(f"{found}: requires gradlint {wanted}, this is {__version__}")


def _anchored(settings: Settings) -> Settings:
    """Relative paths of a file count from its folder."""
    root = settings.root
    return replace(
        settings,
        output_file=tuple(o if o.file == Path("-") else o._replace(file=root / o.file) for o in settings.output_file),
        packs=tuple(root / path for path in settings.packs),
        training_script=None if settings.training_script is None else root / settings.training_script,
        weights=None if settings.weights is None else root / settings.weights,
        baseline=None if settings.baseline is None else root / settings.baseline,
        target=tuple(_from_here(target, root) for target in settings.target),
    )


def _from_here(target: Target, root: Path) -> Target:
    """A target whose file is named from the working directory, where it is below that, as on the command line."""
    file, colon, name = target.model.partition(":")
    path = root / file
    if not path.exists():
        return target
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return replace(target, model=f"{shown}{colon}{name}")


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
