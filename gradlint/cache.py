"""What workers have answered before: files of JSON, found by what they were made from. No torch, nothing pickled.

An entry's name is the hash of all that is known before a worker starts: gradlint's own code, the interpreter, what is installed
for it, the settings, the target, its arguments, its file. In the entry stands every file of the user that the worker read, with
its hash: it holds only while these are the same. Several runs may share a folder, and so may branches: nothing is ever changed,
an entry is written whole or not at all, and one that cannot be read is a miss.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradlint._version import __version__
from gradlint.config import Settings
from gradlint.errors import GradlintError
from gradlint.worker.protocol import Job, encoded

__all__ = ["LIMIT", "Cache", "Interpreter", "Use", "default_folder", "interpreter"]

LIMIT = 256 << 20
"""Bytes that a cache may take: some thousand entries."""

_LAYOUT = "1"  # of the entries
_OWN = ("gradlint", "gradlint_rules")
_SEEN = ("PYTHONPATH", "HF_HOME", "TORCH_HOME")  # variables that decide what is imported and read
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Entries of gradlint; may be deleted. See https://bford.info/cachedir/\n"
_DIGEST = 64  # characters of a hash
_ASK = "import json, sys; print(json.dumps([sys.version, sys.path]))"

_log = logging.getLogger("gradlint")


def default_folder(environment: Mapping[str, str]) -> Path | None:
    """``$XDG_CACHE_HOME/gradlint`` or ``~/.cache/gradlint``; None where there is no home."""
    given = environment.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given) / "gradlint"
    home = environment.get("USERPROFILE" if os.name == "nt" else "HOME", "")
    return Path(home) / ".cache" / "gradlint" if Path(home).is_absolute() else None


@dataclass(frozen=True)
class Interpreter:
    """What a model would run in, told without importing anything.

    Args:
        version: of Python, with its build.
        installed: ``name-version`` of all that is installed for it.
    """

    version: str
    installed: tuple[str, ...]

    @property
    def torch(self) -> str | None:
        """Its version."""
        found = (name.split("-") for name in self.installed)
        return next((parts[1] for parts in found if parts[0] == "torch" and len(parts) > 1), None)


def interpreter(python: Path, environment: Mapping[str, str]) -> Interpreter:
    """What is known of an interpreter from the folders that it imports from.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: it cannot be started.
    """
    version, folders = sys.version, list(sys.path)
    if python != Path(sys.executable):
        done = subprocess.run(  # noqa: S603 - the one that models are to run in
            [str(python), "-c", _ASK], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        version, folders = json.loads(done.stdout)
    return Interpreter(version, tuple(sorted(set(_installed(folders)))))


def _installed(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        with suppress(OSError):
            for name in os.listdir(folder or "."):  # noqa: PTH208 - several thousand names
                stem, dot, kind = name.rpartition(".")
                if dot and kind in ("dist-info", "egg-info"):
                    yield stem


@dataclass(frozen=True)
class Use:
    """What a cache takes.

    Args:
        size: bytes.
    """

    entries: int
    size: int


class Cache:
    """Answers of workers, as :class:`gradlint.worker.client.Memory`.

    Args:
        folder: where they are; made with the first.
        python: what the models run in.
        environment: of the workers.
        more: names of variables that models may see besides the usual ones.
        limit: bytes; beyond, the entries that were not used for longest are removed.
    """

    def __init__(
        self, folder: Path, python: Path, environment: Mapping[str, str], more: Sequence[str] = (), limit: int = LIMIT
    ) -> None:
        self.folder = folder / f"v{_LAYOUT}"
        self._python = python
        self._environment = environment
        self._more = more
        self._limit = limit
        self._asked: dict[str, int] = {}
        self._hashes: dict[Path, str | None] = {}
        self._written: int | None = None  # bytes since the last look at the whole

    def get(self, job: Job) -> Mapping[str, Any] | None:
        """The answer to a job, if it is known and would be the same today."""
        try:
            name = self.name_of(job)
        except (GradlintError, OSError, ValueError, subprocess.SubprocessError) as error:  # the run itself says it better
            _log.debug("cache: not used: %s", error)
            return None
        self._asked[name] = time.time_ns()
        path = self._path(name)
        try:
            answer = self._read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            _log.debug("cache: %s is not valid: %s: %s", path, type(error).__name__, error)
            return None
        if answer is not None:
            with suppress(OSError):  # a cache that cannot be written is still read
                os.utime(path)
        return answer

    def put(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Keep an answer. A failure is never kept: what it comes from may be none of the files that are known."""
        result = answer["result"]
        if job.kind != "rules" and any(result.get(part) for part in ("failures", "broken", "crashes")):
            return
        try:
            name = self.name_of(job)
            since = self._asked.pop(name, None)
            files = self._files(job, answer["files"], since)
            if files is not None:
                self._write(self._path(name), json.dumps({"files": files, "answer": answer}, separators=(",", ":")))
        except (GradlintError, OSError, ValueError, subprocess.SubprocessError) as error:
            _log.debug("cache: nothing is kept: %s", error)

    def use(self) -> Use:
        """How much there is."""
        sizes = [size for _, size, _ in self._entries()]
        return Use(len(sizes), sum(sizes))

    def name_of(self, job: Job) -> str:
        """The hash of all that is known before a worker starts.

        Raises:
            GradlintError, OSError, ValueError, subprocess.SubprocessError: something of it cannot be read.
        """
        settings = job.request.settings()
        # what only the conclusion reads, which is drawn anew each time
        judged = replace(settings, output_format=(), output_file=(), fail_on=None, baseline=None)
        file = _file_of(job.target)
        parts = {
            "gradlint": [__version__, self._own],
            "interpreter": self._interpreter,
            "environment": {name: self._environment.get(name) for name in sorted({*_SEEN, *self._more})},
            "sandbox": job.sandbox != "off",
            "machine": platform.machine(),
            "folder": os.getcwd(),  # noqa: PTH109 - a text
            "root": str(settings.root),
            "settings": judged,
            "job": [job.kind, job.target, job.arguments, job.run],
            "file": None if file is None else self._hash(file),
            "beside": [] if job.kind in ("rules", "ask") else _importable(Path.cwd() if file is None else file.parent),
            "given": [(str(path), self._hash(path)) for path in _given(settings)],
        }
        return hashlib.sha256(encoded(parts).encode()).hexdigest()

    @cached_property
    def _interpreter(self) -> Interpreter:
        return interpreter(self._python, self._environment)

    @cached_property
    def _own(self) -> str:
        """The hash of gradlint's code: an installation may be one that is worked on."""
        digest = hashlib.sha256()
        for spec in map(find_spec, _OWN):
            if spec is not None and spec.origin is not None:
                folder = Path(spec.origin).parent
                for path in sorted(folder.rglob("*.py")):
                    digest.update(f"{path.relative_to(folder)}\0{_digest(path)}\0".encode())
        return digest.hexdigest()

    def _hash(self, path: Path) -> str | None:
        """Of a file, as it was when this run looked first; None where there is none."""
        if path not in self._hashes:
            self._hashes[path] = _digest(path) if path.is_file() else None
        return self._hashes[path]

    def _files(self, job: Job, paths: Sequence[str], since: int | None) -> list[tuple[str, str]] | None:
        """What the answer was made from, with hashes; None if it may have been changed since the worker read it."""
        files: list[tuple[str, str]] = []
        read = dict.fromkeys([*map(Path, paths), *_given(job.request.settings())])
        for path in read:
            if since is None or not path.is_file() or path.stat().st_mtime_ns >= since:
                _log.debug("cache: %s is not kept: %s changed meanwhile", job.target, path)
                return None
            files.append((str(path), _digest(path)))
        return files

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name[2:]}.json"

    def _read(self, path: Path) -> Mapping[str, Any] | None:
        text = path.read_text("utf-8")
        digest, body = text[:_DIGEST], text[_DIGEST + 1 :]
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise ValueError("it is damaged")
        entry = json.loads(body)
        answer: Mapping[str, Any] = entry["answer"]
        return answer if all(self._hash(Path(file)) == before for file, before in entry["files"]) else None

    def _write(self, path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tag = self.folder.parent / "CACHEDIR.TAG"
        if not tag.exists():
            tag.write_text(_TAG, "ascii")
        data = f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        self._bounded(len(data))

    def _bounded(self, added: int) -> None:
        """Remove what was not used for longest; looked at with the first entry of a run, then now and then."""
        if self._written is not None and self._written + added < self._limit // 16:
            self._written += added
            return
        self._written = 0
        entries = sorted(self._entries(), reverse=True)
        total = 0
        for _, size, path in entries:
            total += size
            if total > self._limit:
                with suppress(OSError):  # another run was faster
                    path.unlink()

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """When each was used last, its bytes, and where it is; what an interrupted run has left included."""
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_of(target: str) -> Path | None:
    """The file that a target names."""
    text, colon, _ = target.rpartition(":")
    path = Path(target if Path(target).exists() or not colon else text)
    path = path / "config.json" if target and path.is_dir() else path
    return path.resolve() if target and path.is_file() else None


def _importable(folder: Path) -> list[str]:
    """What a file there can import: one that is new may hide another of that name."""
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if e.name.endswith((".py", ".so", ".pyd")) or (e.is_dir() and e.name.isidentifier())]
    return sorted(set(found) - {"__pycache__"})


def _given(settings: Settings) -> Iterator[Path]:
    """The files that settings name: weights, the training script, rules."""
    for path in (settings.weights, settings.training_script, *(target.own.get("weights") for target in settings.target)):
        if path is not None:
            yield from sorted(Path(path).glob("*.safetensors*")) if Path(path).is_dir() else [Path(path)]
            if str(path).endswith(".index.json"):
                yield from sorted(Path(path).parent.glob("*.safetensors"))
    for pack in settings.packs:
        yield from sorted(Path(pack).rglob("*.py"))
