"""How a worker ended without an answer, as a failure of its target: what ended it, at which stage, layer and line."""

from __future__ import annotations

import re
import signal
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gradlint.errors import TargetError
from gradlint.worker.protocol import Job

__all__ = ["Ending", "failure_of"]

Reason = Literal["", "timeout", "memory", "tasks", "server"]

_FRAME = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)
_MEANT = {
    "SIGSEGV": "a segmentation fault",
    "SIGBUS": "a bus error",
    "SIGFPE": "a floating-point exception",
    "SIGILL": "an illegal instruction",
    "SIGABRT": "abort()",
    "SIGKILL": "the system may have run out of memory",
}
_DOING = {
    "load": "while the file was imported",
    "build": "while the model was built",
    "inputs": "while its inputs were looked for",
    "trace": "in forward",
    "verify": "in a real run",
}


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Args:
        status: its exit status, negative for a signal.
        reason: why it was ended, if it was: a limit that it passed, or the server that is gone.
        limit: the limit, as text.
        stage: the last one that it told.
        target: the model that it was at.
        layer: the layer that it was in.
        trace: what ``faulthandler`` wrote.
    """

    status: int = 0
    reason: Reason = ""
    limit: str = ""
    stage: str = ""
    target: str = ""
    layer: str = ""
    trace: str = ""


def failure_of(job: Job, ending: Ending) -> dict[str, str]:
    """The failure, as ``TargetError.to_dict()`` gives it."""
    what, hint = _told(ending)
    place = _DOING.get(ending.stage, "")
    if ending.layer:
        place = f"{place or 'while it was analysed'}, in {ending.layer}"
    error = TargetError(
        f"{what}{place and f' {place}'}", target=ending.target or job.target, where=_line(ending.trace), hint=hint
    )
    return {**error.to_dict(), "stage": ending.stage or "load"}


def _told(ending: Ending) -> tuple[str, str]:
    """What ended it, and what to do."""
    if ending.reason == "timeout":
        return f"did not finish within {ending.limit}", "look for an endless loop; --timeout allows more seconds"
    if ending.reason == "memory":
        return f"took more than {ending.limit} of memory", "a smaller batch or model may do; --max-memory allows more"
    if ending.reason == "tasks":
        return f"started more than {ending.limit} threads and processes", "a model needs none of its own"
    if ending.reason == "server":
        return "the process that workers are started from is gone", "the system may have run out of memory"
    if ending.status < 0:
        name = signal.Signals(-ending.status).name if -ending.status in set(signal.Signals) else f"signal {-ending.status}"
        meaning = _MEANT.get(name)
        return f"the process died of {name}{f' ({meaning})' if meaning else ''}", "no result was lost but this target's"
    return f"the model's code ended the process with exit code {ending.status}", "code that is imported must not call os._exit()"


def _line(trace: str) -> str:
    """``path:line`` of the innermost frame in the user's code, of what ``faulthandler`` wrote; else empty."""
    return next((f"{path}:{line}" for path, line in _FRAME.findall(trace) if not _foreign(path)), "")


def _foreign(path: str) -> bool:
    return path.startswith("<") or "site-packages" in path or any(Path(path).is_relative_to(folder) for folder in _folders())


def _folders() -> Iterator[Path]:
    yield Path(__file__).resolve().parent.parent
    yield from _libraries()


def _libraries() -> Sequence[Path]:
    """Of this interpreter; another's standard library is told by its name."""
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")] + [
        Path(sys.base_prefix) / "lib"
    ]
