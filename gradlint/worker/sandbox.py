"""What the kernel refuses a worker (Linux): writing files outside its own folder (Landlock), and sockets to anywhere (seccomp).

Damage limitation, not a security boundary: files can still be read, programs started, processor time used, and what the
user's code returns can be anything. Neither mechanism needs privileges; both hold for everything the worker starts.
Sources: Linux, Documentation/userspace-api/landlock.rst and seccomp_filter.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gradlint.errors import UsageError

__all__ = ["MODES", "Kernel", "enter", "kernel"]

MODES = ("auto", "require", "off")

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
_IO_URING_SETUP = 425
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_WRITES = (1 << 1) | sum(1 << bit for bit in range(4, 13))  # write, remove and make files of any kind
_SINCE = {2: 1 << 13, 3: _TRUNCATE}  # version of Landlock that brought it: move between folders, truncate
_SCOPED = 1 << 1  # signals to processes outside, since version 6
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
_SHARED = "/dev/shm"  # noqa: S108 - shared memory of a worker's own subprocesses; it does not outlive the machine

_ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH, number of socket()
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_AF_UNIX = 1


@dataclass(frozen=True)
class Kernel:
    """What this kernel can enforce for a process without privileges.

    Args:
        landlock: its version; 0: none.
        seccomp: filters of system calls.
    """

    landlock: int
    seccomp: bool

    @property
    def whole(self) -> bool:
        """Writing and the network, both."""
        return self.landlock > 0 and self.seccomp


def kernel() -> Kernel:
    """Ask the kernel; nothing is changed."""
    if sys.platform != "linux":
        return Kernel(0, seccomp=False)
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    # With no program, EFAULT says that filters are known, and EINVAL that they are not.
    _libc().prctl(_PR_SET_SECCOMP, _FILTER, None, 0, 0)
    filters = ctypes.get_errno() == errno.EFAULT
    return Kernel(max(version, 0), seccomp=filters and platform.machine() in _ARCHITECTURES)


def enter(mode: str, writable: Sequence[str]) -> None:
    """From here on this process, which must have one thread, and all that it starts can no longer do what is refused.

    Args:
        mode: ``auto`` refuses what this kernel can, ``require`` all or nothing, ``off`` nothing.
        writable: folders below which files may be written.

    Raises:
        UsageError: it is required, and this kernel cannot.
    """
    if mode == "off":
        return
    known = kernel()
    if mode == "require" and not known.whole:
        missing = [name for name, there in (("Landlock", known.landlock), ("seccomp", known.seccomp)) if not there]
        raise UsageError(f"--sandbox require: this system has no {' and no '.join(missing)}; auto goes on without")
    if known.landlock or known.seccomp:
        _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if known.landlock:
        _refuse_writing(known.landlock, writable)
    if known.seccomp:
        _refuse_sockets()


def _refuse_writing(version: int, writable: Sequence[str]) -> None:
    handled = _WRITES | sum(bit for since, bit in _SINCE.items() if version >= since)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPED if version >= 6 else 0)[: 24 if version >= 6 else 8]
    ruleset = _checked(_libc().syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    of_files = handled & (_WRITE_FILE | _TRUNCATE)
    for path, access in [*((folder, handled) for folder in (*writable, _SHARED)), *((device, of_files) for device in _DEVICES)]:
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", access, place)
            _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)))
            os.close(place)
    _checked(_libc().syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)


def _refuse_sockets() -> None:
    """socket() of any family but AF_UNIX fails with EPERM, and so does io_uring, which could open one by another way."""
    audit, socket = _ARCHITECTURES[platform.machine()]
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, 7, audit),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, 5, 0, _X32),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket),
        (_LOAD, 0, 0, 16),  # its first argument: the family
        (_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    whole = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _checked(_libc().prctl(_PR_SET_SECCOMP, _FILTER, whole, 0, 0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the sandbox cannot be entered: {os.strerror(number)}")
    return result
