"""More targets than one machine judges: a share of them for each job of a CI, or all over a backend of joblib. No torch here."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.worker.client import concluded
from gradlint.worker.pool import Answer, Limits, Pool
from gradlint.worker.protocol import Job, Request

__all__ = ["lint_many", "share"]

_BATCHES = 4  # for each worker of a backend: a slow target delays its batch only


def share(targets: Sequence[str], number: int, of: int) -> tuple[str, ...]:
    """The targets of one shard, in their order.

    They are dealt by the hash of their text: the shards of the same list are the same everywhere, each target is in exactly one,
    and a target that is added moves at most those whose place in the order of hashes comes after it.

    Args:
        number: of the shard, from 1.
        of: how many there are.

    >>> [share(["a.py", "b.py", "c.py"], n, 2) for n in (1, 2)]
    [('a.py', 'b.py'), ('c.py',)]
    """
    if not 1 <= number <= of:
        raise UsageError(f"shard {number}/{of}: the first number is from 1 to the second")
    order = sorted(range(len(targets)), key=lambda i: (hashlib.sha256(targets[i].encode()).digest(), i))
    return tuple(targets[i] for i in sorted(order[number - 1 :: of]))


def lint_many(
    targets: Sequence[str],
    *,
    n_jobs: int | None = None,
    backend: str | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> Report:
    """Judge many targets over a backend of joblib: this machine's processes, or the cluster of Dask or Ray behind it.

    The rules are heard here; each worker of the backend needs gradlint, torch and the files under the same paths. There every
    target has a process of its own, as on the command line; no configuration file is read, and nothing is cached.

    Args:
        targets: as on the command line.
        n_jobs: as of ``joblib.Parallel``; None is what ``joblib.parallel_config`` says, or 1.
        backend: likewise: ``loky``, ``dask``, ``ray`` …
        limits: of each target; the number of jobs in it counts for each worker of the backend.
        settings: fields of :class:`~gradlint.config.Settings`.

    Raises:
        UsageError: there is no target, or a setting makes no sense.
        PackError: a rule pack cannot be loaded.
        ImportError: joblib is not installed (``gradlint[fleet]``).
    """
    from joblib import Parallel, delayed, effective_n_jobs, parallel_config  # noqa: PLC0415 - an extra

    if not targets:
        raise UsageError("lint_many(): no target given")
    request = Request(tuple(targets), settings, isolated=True)
    chosen = request.settings()
    own = limits or Limits()

    def spread(jobs: Sequence[Job]) -> list[Answer]:
        with nullcontext() if backend is None else parallel_config(backend):
            size = max(1, -(-len(jobs) // (_BATCHES * effective_n_jobs(n_jobs))))
            batches = [jobs[first : first + size] for first in range(0, len(jobs), size)]
            return list(chain.from_iterable(Parallel(n_jobs=n_jobs)(delayed(_answers)(batch, own) for batch in batches)))

    def here(jobs: Sequence[Job]) -> list[Answer]:
        return _answers(jobs, own)

    return concluded(request, chosen, [Job("check", request, target) for target in targets], here, spread)


def _answers(jobs: Sequence[Job], limits: Limits) -> list[Answer]:
    """Where a batch ends up: in the interpreter there."""
    with Pool(Path(sys.executable), os.environ, limits) as pool:
        return pool.run(jobs)
