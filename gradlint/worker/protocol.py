"""What client and worker say: a job to the worker, then lines of JSON back, the last of which is the answer.

    {"process": 4711}                                                     at first
    {"stage": "trace", "target": "model.py:Net", "layer": "blocks.3"}     before each step
    {"result": {…}, "files": ["/home/me/model.py", …]}                    the answer, and the user's files it is made of
    {"error": "UsageError", "message": "…"}                               the whole run makes no sense
    {"failure": {"target": "model.py", "stage": "load", …}}               this job failed as a whole

Lines that are no JSON are what ``faulthandler`` writes when the process dies. JSON is Python's: it has NaN and Infinity.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from gradlint.comparison import Place
from gradlint.config import Settings, configure
from gradlint.run import Run

__all__ = ["Job", "Request", "decoded", "encoded"]

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What a run was asked for: client and worker read the same settings from it.

    Args:
        targets: all of the run, as given: the configuration is looked for above them.
        flags: as :func:`~gradlint.config.configure` takes them.
        config: this configuration file, and no other.
        isolated: no configuration file.
        verbose: tracebacks of failures go to stderr.
    """

    targets: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    isolated: bool = False
    verbose: bool = False

    def settings(self) -> Settings:
        """The settings of the run.

        Raises:
            UsageError: a flag or the configuration makes no sense.
        """
        config = None if self.config is None else Path(self.config)
        return configure(self.targets, self.flags, config=config, isolated=self.isolated)


@dataclass(frozen=True)
class Job:
    """What one worker does.

    Args:
        kind: ``rules`` (answers with the catalogue), ``check`` or ``capture`` (with a ``Judged``), ``ask`` (with an ``Asked``).
        target: of ``check`` and ``capture``.
        arguments: of the script that is captured.
        run: of ``ask``.
        folder: where it may write; None: nowhere.
        sandbox: ``auto``, ``require`` or ``off``.
    """

    kind: Literal["rules", "check", "capture", "ask"]
    request: Request
    target: str = ""
    arguments: tuple[str, ...] = ()
    run: Run = field(default_factory=Run)
    folder: str | None = None
    sandbox: str = "auto"


def encoded(value: object) -> str:
    """A record as one line of JSON; :func:`decoded` is the way back."""
    return json.dumps(value, default=_plain, separators=(",", ":"))


def decoded(value: Any, kind: type[T]) -> T:
    """A record of a type, from plain data; numbers are what they were, to the last bit."""
    made: T = _converter().structure(value, kind)
    return made


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not sent between processes")


@lru_cache(maxsize=1)
def _converter() -> Any:
    """Imported with the first answer: ``--help`` needs none."""
    from cattrs.preconf.json import make_converter  # noqa: PLC0415

    converter = make_converter(detailed_validation=False)
    for kind in (int, float):  # JSON keeps the difference: 1 stays 1, and 1.0 stays 1.0
        converter.register_structure_hook(kind, lambda number, _: number)
    converter.register_structure_hook(Place, lambda parts, _: Place(*parts))
    return converter
