"""Does a real run fit into memory? A process that the system kills says nothing."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from gradlint.errors import VerificationError
from gradlint.trace.graph import Traced, step
from gradlint.verification.measure import PRECISIONS

__all__ = ["precisions"]


def precisions(traced: Traced) -> tuple[torch.dtype, ...]:
    """The precisions in which weights, their gradients and the activations of one run fit, the finest first.

    Raises:
        VerificationError: none does.
    """
    weights = sum(math.prod(record.shape) for record in traced.parameters.values())
    kept = (step(node) for node in traced.graph.nodes if node.op.startswith("call"))
    entries = 2 * weights + sum(math.prod(facts.shape or ()) for facts in kept if facts.floating)
    free = _free()
    fitting = tuple(dtype for dtype in PRECISIONS if free is None or entries * dtype.itemsize <= free)
    if not fitting and free is not None:
        need = entries * min(dtype.itemsize for dtype in PRECISIONS)
        raise VerificationError(
            f"a real run needs at least {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            hint="verify a smaller configuration of the model, or smaller inputs",
        )
    return fitting


def _free() -> int | None:
    """Bytes that can be had without swapping, by the machine's account and the container's; None where neither is kept."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    found = [1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"]
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        found.append(int(limit) - int(used))
    return min(found, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
