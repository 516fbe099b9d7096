"""The process that workers are forked from: it has imported torch and gradlint and computes nothing, so that a fork is safe.

A fork of a process that has computed with torch may hang: its threads do not exist in the copy. This one has no threads.
It ends with its client: when the control channel closes, every worker and what it has started is killed.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

__all__ = ["ABORT", "KILL", "MESSAGE", "READY", "START", "main"]

_Work = Callable[[int], None]

MESSAGE = struct.Struct("!ciI")  # what, exit status or 0, number of the job
START, ABORT, KILL, READY, ENDED = b"s", b"a", b"k", b"r", b"e"


def main() -> None:
    """``argv[1]`` is the descriptor of the control channel."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        import torch  # noqa: F401, PLC0415 - what takes long is imported once, for all workers
    except ImportError as error:
        print(f"gradlint: {sys.executable} has no torch that can be imported: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    from gradlint.packs import BUILT_IN, load_pack  # noqa: PLC0415
    from gradlint.worker import child  # noqa: PLC0415

    load_pack(BUILT_IN)
    gc.collect()
    gc.freeze()  # what is there already stays out of the workers' collections, and their pages stay shared
    control.sendall(MESSAGE.pack(READY, 0, 0))
    wakeup, written = os.pipe()
    for end in (wakeup, written):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(written)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, int] = {}  # process to job
    try:
        while _served(control, wakeup, written, workers, child.main):
            pass
    finally:
        for process in workers:
            _kill(process, signal.SIGKILL)


def _served(control: socket.socket, wakeup: int, written: int, workers: dict[int, int], work: _Work) -> bool:
    """One turn: what the client asks for, then who has ended. False when the client is gone."""
    ready, _, _ = select.select([control.fileno(), wakeup], [], [])
    if wakeup in ready:
        with suppress(BlockingIOError):
            os.read(wakeup, 4096)
    if control.fileno() in ready:
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE.size, 1)
        if not data:
            return False
        what, _, job = MESSAGE.unpack(data)
        if what == START:
            workers[_fork(descriptors[0], (control.fileno(), wakeup, written), work)] = job
            os.close(descriptors[0])
        else:
            for process in [process for process, number in workers.items() if number == job]:
                _kill(process, signal.SIGKILL if what == KILL else signal.SIGABRT, group=what == KILL)
    while workers:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            break
        _kill(process, signal.SIGKILL)  # what it has started
        if process in workers:
            control.sendall(MESSAGE.pack(ENDED, os.waitstatus_to_exitcode(status), workers.pop(process)))
    return True


def _fork(channel: int, others: tuple[int, ...], work: _Work) -> int:
    """Start a worker; returns its process."""
    process = os.fork()
    if process:
        with suppress(OSError):  # the worker does it too: whoever is first
            os.setpgid(process, process)
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor in others:
            os.close(descriptor)
        work(channel)
        code = 0
    finally:
        os._exit(code)  # nothing of the server's is run to an end here


def _kill(process: int, number: signal.Signals, *, group: bool = True) -> None:
    with suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(process, number)
