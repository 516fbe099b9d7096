"""What another revision was found to be: checked in a copy of its files, by a process of its own.

The copy is written from git's objects with an index of its own: the working tree, the index and the references of the
repository are not touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradlint.errors import UsageError
from gradlint.interpreter import command

__all__ = ["Tree", "checked", "checked_out"]

_UNSET = ("GRADLINT_OUTPUT_FILE", "GRADLINT_OUTPUT_FORMAT", "GRADLINT_BASELINE", "GRADLINT_PYTHON")  # of this run alone
_ASK = "import json, sys; print(json.dumps([sys.path, [sys.prefix, sys.base_prefix]]))"


@dataclass(frozen=True)
class Tree:
    """A revision as files.

    Args:
        top: of the working tree.
        copy: where the files of the revision are.
        name: of the revision, with its hash.
    """

    top: Path
    copy: Path
    name: str

    def there(self, path: Path) -> Path:
        """The counterpart of a path; itself outside the working tree."""
        full = path.absolute() if path.absolute().is_relative_to(self.top) else path.resolve()
        return self.copy / full.relative_to(self.top) if full.is_relative_to(self.top) else path


@contextmanager
def checked_out(revision: str) -> Iterator[Tree]:
    """The files of a revision of the repository around the working directory, in a folder that goes away.

    Raises:
        UsageError: no git, no repository, no such revision.
    """
    top = Path(_git("rev-parse", "--show-toplevel", failed=f"{Path.cwd()} is in no git repository"))
    unknown = f"there is no revision {revision!r} here (a shallow clone has few: fetch it first)"
    tree = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{tree}}", failed=unknown)
    known = _git("rev-parse", "--short", "--end-of-options", revision, failed=unknown)
    with tempfile.TemporaryDirectory(prefix="gradlint-") as folder:
        copy = Path(folder).resolve() / "tree"
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        failed = f"the files of {revision} cannot be written"
        _git("-c", "core.sparseCheckout=false", "read-tree", tree, failed=failed, more=index)
        _git("checkout-index", "--all", "--quiet", f"--prefix={copy}/", failed=failed, more=index, folder=top)
        copy.mkdir(exist_ok=True)
        yield Tree(top, copy, revision if revision.startswith(known) else f"{revision} ({known})")


def checked(tree: Tree, arguments: Sequence[str], python: Path) -> str:
    """The JSON report of ``gradlint check`` in the copy, as another process wrote it; its paths are those of the working tree.

    Args:
        arguments: targets and settings.
        python: the interpreter that the models run in.

    Raises:
        UsageError: there is no report, or it is about files of the working tree.
    """
    folder = tree.there(Path.cwd())
    folder.mkdir(parents=True, exist_ok=True)
    entries, installed = _paths(python)
    env = {key: value for key, value in os.environ.items() if key not in _UNSET}
    env["PYTHONPATH"] = os.pathsep.join(_mapped(tree, [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p], entries))
    with tempfile.TemporaryDirectory(prefix="gradlint-") as results:
        file = Path(results) / "report.json"
        there = [] if python == Path(sys.executable) else [f"--python={python}"]  # there is no .venv in the copy
        words = ["check", *there, f"--output-file=json={file}", *arguments]
        done = subprocess.run(  # noqa: S603 - this gradlint, on what the user named
            command(Path(sys.executable), "gradlint.cli", words),
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if not file.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise UsageError(f"{tree.name} could not be checked: {said[-1] if said else f'exit code {done.returncode}'}")
        text = file.read_text("utf-8")
    _clean(text, tree, installed)
    return text.replace(json.dumps(str(tree.copy))[1:-1], json.dumps(str(tree.top))[1:-1])


def _paths(python: Path) -> tuple[list[str], list[Path]]:
    """Where an interpreter looks for modules, and where what is installed lies."""
    asked = [str(python), "-P", "-c", _ASK]
    done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise UsageError(f"{python} cannot be asked for its path: {done.stderr.strip()}")
    entries, prefixes = json.loads(done.stdout)
    return entries, [Path(prefix) for prefix in prefixes]


def _mapped(tree: Tree, told: Sequence[str], found: Sequence[str]) -> Iterator[str]:
    """What comes before all else on Python's path: folders of the working tree, as they are in the copy.

    Args:
        told: by ``PYTHONPATH``; folders elsewhere stay.
        found: all that the interpreter knows: editable installations name folders of the working tree.
    """
    for entry in dict.fromkeys((*told, *found)):
        copy = tree.there(Path(entry))
        if copy == Path(entry):
            yield from [str(copy.absolute())] if entry in told else []
        elif copy.is_dir():
            yield str(copy)


def _clean(text: str, tree: Tree, installed: Sequence[Path]) -> None:
    """A report about a revision must not be about lines of the working tree, whatever was on Python's path."""
    document = json.loads(text)
    for target in document["targets"]:
        places = [item["location"] for kind in ("modules", "nodes") for item in target[kind]]
        for place in (target["location"], *places):
            path = Path(place["path"]) if place else Path()
            own = path.is_absolute() and path.is_relative_to(tree.top) and "site-packages" not in path.parts
            if own and not any(prefix != tree.top and path.is_relative_to(prefix) for prefix in installed):
                raise UsageError(f"{tree.name} could not be checked: its code imports {path} of the working tree")


def _git(*arguments: str, failed: str, more: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - git, with arguments made here
            ["git", *arguments],  # noqa: S607 - the one on the path
            cwd=folder,
            env={**os.environ, **(more or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError("--diff-base needs git, which is not installed") from error
    if done.returncode:
        raise UsageError(f"--diff-base: {failed}")
    return done.stdout.strip()
