"""One job in a process of its own: the user's code runs here and nowhere else."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import logging
import os
import re
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradlint import stages
from gradlint.conclusion import Judged
from gradlint.errors import AnalysisError, GradlintError, TargetError
from gradlint.load.pyfile import split
from gradlint.review import listed
from gradlint.targets import Rulebook, judge_script, judge_target
from gradlint.worker import sandbox
from gradlint.worker.protocol import Job, decoded, encoded

__all__ = ["main"]

_DENIED = re.compile(r"PermissionError|Operation not permitted|Permission denied|[Oo]ffline ?mode|No CUDA GPUs")
_REFUSED = "models may not write files nor use the network or the GPU here: --sandbox off lets them"
_HIGH = 500  # descriptors from here on: a program that closes those it knows of leaves it alone


def main(descriptor: int) -> None:
    """Do the job that is read from a channel, and answer there."""
    channel = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    known = frozenset(sys.modules)
    job = decoded(json.loads(_line(channel)), Job)
    _tell(channel, {"process": os.getpid()})
    faulthandler.enable(channel, all_threads=False)
    if job.request.verbose:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        logging.getLogger("gradlint").setLevel(logging.DEBUG)
    if job.folder is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = job.folder
    opened = _opened()
    try:
        if job.kind != "ask":
            sandbox.enter(job.sandbox, [] if job.folder is None else [job.folder])
        with stages.heard(lambda stage, target, layer: _tell(channel, {"stage": stage, "target": target, "layer": layer})):
            answer = {"result": _result(job), "files": sorted(set(_files(job, known, opened)))}
    except TargetError as error:
        error.target = error.target or job.target
        answer = {"failure": error.to_dict()}
    except GradlintError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises, KeyboardInterrupt too
        if job.request.verbose:
            traceback.print_exc()
        raised = f"{type(error).__name__}: {error}".rstrip(": ")
        answer = {"failure": AnalysisError(f"the worker raised {raised}", target=job.target).to_dict()}
    faulthandler.disable()
    with contextlib.suppress(Exception):  # the user's code may have replaced or closed it
        sys.stdout.flush()
    _tell(channel, answer)


def _result(job: Job) -> object:
    if job.kind in ("check", "capture"):
        with _quiet():  # the client has told it
            rulebook = Rulebook.of(job.request.settings())
        if job.kind == "check":
            return _explained(judge_target(job.target, rulebook), job)
        return _explained(judge_script(job.target, job.arguments, rulebook), job)
    if job.kind == "ask":
        with _quiet():
            return Rulebook.of(job.request.settings()).ask(job.run)
    from gradlint.packs import load_rules  # noqa: PLC0415

    return listed(load_rules(job.request.settings().packs))


def _explained(judged: Judged, job: Job) -> Judged:
    """What the sandbox may have refused is told as such."""
    if job.sandbox == "off":
        return judged
    failures = tuple({**f, "hint": _REFUSED} if _DENIED.search(f["message"]) else f for f in judged.failures)
    return replace(judged, failures=failures)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("gradlint")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _opened() -> set[str]:
    """The paths of files that are opened from here on; Python tells of those that it opens itself."""
    paths: set[str] = set()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            paths.add(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100 - for every file; links are followed once

    sys.addaudithook(hear)
    return paths


def _files(job: Job, known: frozenset[str], opened: set[str]) -> Iterator[str]:
    """The target's file, and of what the job has read or imported what is not installed.

    Args:
        known: the modules before.
        opened: paths of files.
    """
    target = Path(split(job.target)[0])
    if target.is_file():
        yield str(target.resolve())
    paths = sysconfig.get_paths()
    foreign = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    foreign += [Path(folder) for folder in ("/proc", "/sys", "/dev", *([job.folder] if job.folder else []))]
    modules = (getattr(sys.modules[name], "__file__", None) for name in sys.modules.keys() - known)
    for origin in {*(origin for origin in modules if isinstance(origin, str)), *opened}:
        path = Path(origin).resolve()
        if path.is_file() and not any(path.is_relative_to(folder) for folder in foreign):
            yield str(path)


def _line(channel: int) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(channel, 1 << 16)
        if not more:
            raise EOFError("the client is gone")
        data += more
    return data


def _tell(channel: int, message: dict[str, Any]) -> None:
    data = encoded(message).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]
