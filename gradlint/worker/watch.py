"""What a worker and all that it has started use, read from ``/proc``: memory, threads. Elsewhere nothing is known."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Use", "memory_of_machine", "use_of"]


@dataclass(frozen=True)
class Use:
    """What a process and its descendants use.

    Args:
        memory: bytes that are backed by no file.
        tasks: threads and processes.
    """

    memory: int
    tasks: int


def use_of(process: int) -> Use:
    """Now; zero where it cannot be told, or the process is gone."""
    family = _family(process)
    total = [0, 0]
    for member in family:
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{member}/status").read_text("ascii", "replace")
            found = dict(re.findall(r"^(RssAnon|RssShmem|Threads):\s+(\d+)", status, re.MULTILINE))
            total[0] += 1024 * (int(found.get("RssAnon", 0)) + int(found.get("RssShmem", 0)))
            total[1] += int(found.get("Threads", 0))
    return Use(*total)


def shared_once(process: int) -> int:
    """Bytes of memory of a family, pages that forked processes share counted once; slow."""
    total = 0
    for member in _family(process):
        with suppress(OSError, ValueError):
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text("ascii", "replace")
            total += 1024 * sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", rollup, re.MULTILINE)))
    return total


def memory_of_machine() -> int:
    """Bytes of memory of this machine or its container; 0 where it cannot be told."""
    sizes = []
    with suppress(OSError, ValueError, AttributeError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            sizes.append(int(Path(path).read_text("ascii")))
    return min(sizes, default=0)


def _family(process: int) -> list[int]:
    """A process and its descendants."""
    found, left = [], [process]
    while left:
        member = left.pop()
        found.append(member)
        with suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):  # noqa: PTH208 - called ten times a second
                with suppress(OSError):
                    left += map(int, Path(f"/proc/{member}/task/{task}/children").read_text("ascii").split())
    return found
