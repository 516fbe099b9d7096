"""``gradlint --watch``: check again whenever a file changes that the last run was made from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from gradlint.errors import GradlintError, UsageError
from gradlint.worker.protocol import Job

if TYPE_CHECKING:
    from gradlint.worker.client import Memory

__all__ = ["Watched", "watch"]

_LOOK = 1000  # milliseconds


class Watched:
    """A memory that notes which files the answers of a run were made from; what it knows, another does, if any."""

    def __init__(self) -> None:
        self.memory: Memory | None = None
        self.files: set[Path] = set()

    def get(self, job: Job) -> Mapping[str, Any] | None:
        """The answer to a job, if it is known."""
        answer = None if self.memory is None else self.memory.get(job)
        if answer is not None:
            self.files.update(map(Path, answer["files"]))
        return answer

    def put(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Keep it."""
        self.files.update(map(Path, answer["files"]))
        if self.memory is not None:
            self.memory.put(job, answer)


def watch(once: Callable[[Watched], int], targets: Sequence[str]) -> int:
    """Run, and again after each change, until Ctrl-C.

    Args:
        once: one run.
        targets: their files count too where a run failed before it could tell which it read.

    Raises:
        UsageError: watchfiles is not installed.
    """
    try:
        from watchfiles import watch as changes
    except ImportError as error:
        raise UsageError("--watch needs watchfiles: pip install 'gradlint[watch]'") from error
    files = set(_named(targets))
    while True:
        watched, before = Watched(), _states(files)
        try:
            once(watched)
        except GradlintError as error:  # it may be what is being edited
            click.echo(f"gradlint: {error}", err=True)
        before |= _states(watched.files - files)
        files |= watched.files
        folders = sorted({file.parent for file in files if file.parent.is_dir()})
        if not folders:
            raise UsageError("--watch: none of the targets is a file")
        click.echo(f"gradlint: watching {len(files)} files, Ctrl-C ends", err=True)
        # folders: editors replace a file by a new one, and a watch on the file would stay with the old; a look at the files
        # themselves now and then: what changed during the run, or before the watch stood, is no event
        events = changes(
            *folders, watch_filter=partial(_is_one, files), recursive=False, raise_interrupt=True, rust_timeout=_LOOK,
            yield_on_timeout=True,
        )  # fmt: skip
        next(event for event in events if event or _states(files) != before)


def _states(files: Collection[Path]) -> dict[Path, tuple[int, int] | None]:
    """When each was written, and its size; None where it is gone."""
    found: dict[Path, tuple[int, int] | None] = {}
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found[file] = None
        else:
            found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def _is_one(files: Collection[Path], _change: object, path: str) -> bool:
    return Path(path) in files


def _named(targets: Sequence[str]) -> Iterator[Path]:
    for target in targets:
        path = next((p for p in (Path(target), Path(target.rpartition(":")[0])) if p.is_file()), None)
        if path is not None:
            yield path.resolve()
