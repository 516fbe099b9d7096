"""``[tool.gradlint]`` and flags -> one frozen :class:`Settings`.

The nearest ``gradlint.toml`` or ``pyproject.toml`` with a ``[tool.gradlint]`` table above the targets is read; files are
not merged. Keys are the names of the flags. A flag replaces the value of the file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradlint.errors import UsageError
from gradlint.findings import Severity

__all__ = ["Settings", "closest", "discover", "settings"]

NEVER = "never"


@dataclass(frozen=True)
class Settings:
    """What one run was asked to do.

    Args:
        select: codes, prefixes of codes, names, or ``ALL``; only these rules report. Empty means all.
        ignore: codes, prefixes of codes or names that do not report.
        fail_on: findings of this severity or worse fail the run; None when findings never do.
        input: specs of the model's inputs (``x=2,3,32,32:float32``); empty means they are found or guessed.
        output_format: a name in ``gradlint.report.FORMATS``.
        output_file: where the report goes; None is stdout.
        source: the configuration file these came from, if any.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = Severity.WARNING
    input: tuple[str, ...] = ()
    output_format: str = "full"
    output_file: Path | None = None
    source: Path | None = field(default=None, compare=False)

    def wants(self, code: str, name: str) -> bool:
        """Whether a rule may report. The longer selector decides; of two equally long ones, ``ignore`` does.

        >>> Settings(select=("GL1",), ignore=("GL102",)).wants("GL101", "exploding-path")
        True
        """
        chosen = _weight(self.select, code, name) if self.select else 0
        return chosen is not None and (_weight(self.ignore, code, name) or -1) < max(chosen, 0) + (not self.ignore)
