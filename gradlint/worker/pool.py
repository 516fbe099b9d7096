"""Workers, from the client's side: started, never more than so many at once, watched, and their answers collected."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradlint.errors import UsageError
from gradlint.interpreter import command
from gradlint.worker import server
from gradlint.worker.environment import allowed
from gradlint.worker.faults import Ending, Reason
from gradlint.worker.protocol import Job, encoded
from gradlint.worker.watch import shared_once, use_of

__all__ = ["Answer", "Limits", "Pool"]

_POLL = 0.05  # seconds between two looks at what the workers use
_GRACE = 2.0  # seconds to write where it is, for a worker that has passed a limit
_TASKS = 1000  # threads and processes of one worker: more than processors have, fewer than a system


@dataclass(frozen=True)
class Limits:
    """What workers may use.

    Args:
        jobs: workers at once.
        timeout: seconds for each.
        memory: bytes for each; 0: any number.
        sandbox: ``auto``, ``require`` or ``off``.
        more: names of environment variables that are passed on as well.
    """

    jobs: int = 1
    timeout: float = 600.0
    memory: int = 0
    sandbox: str = "auto"
    more: tuple[str, ...] = ()


Answer = Mapping[str, Any] | Ending
"""What a worker said at last; or how it ended, where that is missing."""


@dataclass
class _Worker:
    """One that runs."""

    channel: socket.socket
    started: float
    process: int = 0
    data: bytearray = field(default_factory=bytearray)
    trace: list[str] = field(default_factory=list)
    ending: Ending = field(default_factory=Ending)
    answer: Mapping[str, Any] | None = None
    aborted: float | None = None

    def read(self) -> None:
        """Take what is there."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while more := self.channel.recv(1 << 20):
                self.data += more
        *lines, rest = bytes(self.data).split(b"\n")
        self.data = bytearray(rest)
        for line in lines:
            self._hear(line.decode("utf-8", "replace"))

    def _hear(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self.trace.append(line)
            return
        if "process" in message:
            self.process = message["process"]
        elif "stage" in message:
            stage, target = message["stage"] or self.ending.stage, message["target"] or self.ending.target
            self.ending = replace(self.ending, stage=stage, target=target, layer=message["layer"])
        else:
            self.answer = message


class Pool:
    """Runs jobs, each in a process of its own; a context manager, at whose end no process is left.

    Args:
        python: the interpreter to run them in.
        environment: of this process; workers see some of it.
    """

    def __init__(self, python: Path, environment: Mapping[str, str], limits: Limits) -> None:
        self._python = python
        self._environment = environment
        self._limits = limits
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._control is not None:
            self._control.close()  # the server kills all workers, and ends
        if self._server is not None:
            try:
                self._server.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """The answer to each job, in their order.

        Raises:
            UsageError: no worker can be started in that interpreter.
        """
        control = self._started()
        waiting = deque(enumerate(jobs))
        running: dict[int, _Worker] = {}
        answers: dict[int, Answer] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)
            while waiting or running:
                while waiting and len(running) < self._limits.jobs:
                    number, job = waiting.popleft()
                    running[number] = self._start(control, number, job)
                    selector.register(running[number].channel, selectors.EVENT_READ, running[number])
                ended: list[tuple[int, int, Reason]] = []
                for key, _ in selector.select(_POLL):
                    if key.data is not None:
                        self._read(key.data, selector)
                    elif data := control.recv(server.MESSAGE.size, socket.MSG_WAITALL):
                        _, status, number = server.MESSAGE.unpack(data)
                        ended.append((number, status, ""))
                    else:
                        selector.unregister(control)
                        ended += [(number, 0, "server") for number in (*running, *(number for number, _ in waiting))]
                        waiting.clear()
                for number, status, reason in ended:
                    worker = running.pop(number, None)
                    answers[number] = Ending(reason=reason) if worker is None else self._ended(worker, selector, status, reason)
                for number, worker in running.items():
                    self._watch(control, number, worker)
        return [answers[number] for number in range(len(jobs))]

    def _started(self) -> socket.socket:
        """The channel to the server, which is started with the first jobs."""
        if self._control is not None:
            return self._control
        mine, theirs = socket.socketpair()
        self._control = mine
        with theirs:
            sandboxed = self._limits.sandbox != "off"
            environment = allowed(self._environment, self._limits.more, sandboxed=sandboxed, jobs=self._limits.jobs)
            self._server = subprocess.Popen(  # noqa: S603 - the interpreter that was asked for or found
                command(self._python, "gradlint.worker.server", [str(theirs.fileno())]),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the client, which ends it
            )
        with contextlib.suppress(OSError):  # nowhere to write: then workers write nothing
            self._folder = tempfile.TemporaryDirectory(prefix="gradlint-", ignore_cleanup_errors=True)
        try:
            ready = mine.recv(server.MESSAGE.size, socket.MSG_WAITALL)
        except KeyboardInterrupt:
            self._server.kill()  # it has no workers yet
            raise
        if not ready:
            code = self._server.wait()
            raise UsageError(f"no worker can be started in {self._python}: it ended with exit code {code}; see above")
        return mine

    def _start(self, control: socket.socket, number: int, job: Job) -> _Worker:
        folder = None if self._folder is None else Path(self._folder.name) / f"{time.monotonic_ns()}"
        if folder is not None:
            folder.mkdir()
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(control, [server.MESSAGE.pack(server.START, 0, number)], [theirs.fileno()])
        job = replace(job, folder=None if folder is None else str(folder), sandbox=self._limits.sandbox)
        mine.sendall(encoded(job).encode() + b"\n")
        mine.setblocking(False)
        return _Worker(mine, time.monotonic())

    def _read(self, worker: _Worker, selector: selectors.BaseSelector) -> None:
        worker.read()
        try:
            gone = not worker.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ConnectionError:
            gone = True
        if gone:
            selector.unregister(worker.channel)

    def _ended(self, worker: _Worker, selector: selectors.BaseSelector, status: int, reason: Reason) -> Answer:
        worker.read()
        with contextlib.suppress(KeyError):
            selector.unregister(worker.channel)
        worker.channel.close()
        if worker.answer is not None and not reason:
            return worker.answer
        trace = "\n".join([*worker.trace, worker.data.decode("utf-8", "replace")])
        return replace(worker.ending, status=status, reason=worker.ending.reason or reason, trace=trace)

    def _watch(self, control: socket.socket, number: int, worker: _Worker) -> None:
        """End a worker that has passed a limit: it gets to write where it is, then it is killed with all it has started."""
        now = time.monotonic()
        if worker.aborted is not None:
            if now > worker.aborted + _GRACE:
                control.sendall(server.MESSAGE.pack(server.KILL, 0, number))
            return
        passed = self._passed(worker, now)
        if passed is not None:
            reason, limit = passed
            worker.ending = replace(worker.ending, reason=reason, limit=limit)
            worker.aborted = now
            control.sendall(server.MESSAGE.pack(server.ABORT, 0, number))

    def _passed(self, worker: _Worker, now: float) -> tuple[Reason, str] | None:
        """The limit that a worker has passed."""
        limits = self._limits
        if now > worker.started + limits.timeout:
            return "timeout", f"{limits.timeout:g} s"
        if worker.process == 0:
            return None
        use = use_of(worker.process)
        if use.tasks > _TASKS:
            return "tasks", str(_TASKS)
        if 0 < limits.memory < use.memory and limits.memory < shared_once(worker.process):
            return "memory", f"{limits.memory / 2**30:.3g} GiB"
        return None


def _stderr() -> int:
    """Where workers write: to stderr, if there is one."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
