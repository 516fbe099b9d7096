"""Where models are judged: each target in a process of its own, or, with ``-j 0``, all in this one."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from gradlint.cli.options import in_this_process, option, request_of
from gradlint.cli.streams import stdout_to_stderr
from gradlint.cli.watch import Watched
from gradlint.config import Settings
from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.interpreter import project_python
from gradlint.worker.protocol import Job
from gradlint.worker.sandbox import MODES
from gradlint.worker.watch import memory_of_machine

if TYPE_CHECKING:
    from gradlint.cache import Cache

__all__ = ["judge", "memory_of", "options_of_workers"]

_log = logging.getLogger("gradlint")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHARE = 0.8  # of the machine's memory, that one worker may use where nobody said


class _Size(click.ParamType[int]):
    """Bytes, as ``8G``, ``512M`` or a number."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size, such as 8G or 512M", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def options_of_workers(command: Any) -> Any:
    """The flags about the processes that models are judged in."""
    options: list[Callable[[Any], Any]] = [
        option("-j", "--jobs", type=click.IntRange(0), metavar="N", help="Judge so many targets at once, each in a process of "
               "its own; 0: in this process, which a model may then crash.  [default: one per processor]"),
        option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, metavar="SECONDS",
               help="The longest that one target may take."),
        option("--max-memory", type=_Size(), metavar="SIZE", help="The most memory that one target may take: 8G, 512M (Linux).  "
               "[default: 80 % of what there is]"),
        option("--sandbox", type=click.Choice(MODES), default="auto", show_default=True, help="Refuse models to write files and "
               "to use the network and the GPU: as far as this system can (Linux), entirely or not at all, or not."),
        option("--cache/--no-cache", default=True, show_default=True, help="Use what earlier runs found, and keep "
               "what this one finds."),
        option("--cache-dir", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help="Keep it there.  "
               "[default: ~/.cache/gradlint]"),
        option("--pass-env", multiple=True, metavar="NAME", help="An environment variable that models may see. Repeatable."),
    ]  # fmt: skip
    for add in reversed(options):
        command = add(command)
    return command


def judge(
    targets: Sequence[str],
    settings: Settings,
    options: Mapping[str, Any],
    given: Sequence[str],
    script: Sequence[str] | None = None,
    watched: Watched | None = None,
) -> Report:
    """The report on some targets.

    Args:
        targets: those to judge.
        given: those on the command line: above them the configuration was found.
        script: the arguments of the script that is the target, if its model is to be captured.
        watched: is told which files the answers were made from.
    """
    if in_this_process(options):
        with stdout_to_stderr():
            from gradlint.engine import lint_script, lint_targets

            return lint_targets(targets, settings) if script is None else lint_script(targets[0], script, settings)
    from gradlint.worker.client import lint
    from gradlint.worker.pool import Limits

    request = request_of(given, options)
    if script is None:
        jobs = [Job("check", request, target) for target in targets]
    else:
        jobs = [Job("capture", request, targets[0], tuple(script))]
    if not jobs:
        raise UsageError("no target given: name a file, as in `gradlint model.py`")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = options["max_memory"]
    limits = Limits(
        jobs=min(options["jobs"] or processors, len(jobs)),
        timeout=options["timeout"],
        memory=int(_SHARE * memory_of_machine()) if memory is None else memory,
        sandbox=options["sandbox"],
        more=options["pass_env"],
    )
    python = project_python(options["python"], os.environ)
    cache = memory_of(options, python)
    if watched is not None:
        watched.memory = cache
    return lint(request, settings, jobs, python, limits, watched or cache)


def memory_of(options: Mapping[str, Any], python: Path) -> Cache | None:
    """The cache, where one is wanted and there is a place for it."""
    from gradlint.cache import Cache, default_folder

    folder = options["cache_dir"] or default_folder(os.environ)
    if not options["cache"] or folder is None:
        if options["cache"]:
            _log.info("no cache: HOME is not set; --cache-dir names a folder for it")
        return None
    return Cache(folder.absolute(), python, os.environ, options["pass_env"])
