"""What another revision, or another target, was found to be: checked in a process of its own, a revision in a copy of its files.

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
from importlib.util import find_spec
from pathlib import Path

from gradlint.errors import UsageError

__all__ = ["Tree", "checked", "checked_out"]

_OWN = ("gradlint", "gradlint_rules")  # of this version, whatever the revision holds
_UNSET = ("GRADLINT_OUTPUT_FILE", "GRADLINT_OUTPUT_FORMAT", "GRADLINT_BASELINE")  # of this run, not of the other
_PROGRAM = """\
import json, sys
from importlib.util import module_from_spec, spec_from_file_location
given = json.loads(sys.argv.pop(1))
sys.path[:] = given["path"]
for name, file in given["own"].items():
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from gradlint.cli import main
main()
"""


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


def checked(arguments: Sequence[str], name: str, tree: Tree | None = None) -> str:
    """The JSON report of ``gradlint check`` in a process of its own, its paths those of the working tree.

    Args:
        arguments: targets and settings.
        name: what messages call it.
        tree: check there, below the counterpart of the working directory; None: here.

    Raises:
        UsageError: there is no report, or it is about files of the working tree.
    """
    here = Path.cwd()
    folder = here if tree is None else tree.there(here)
    folder.mkdir(parents=True, exist_ok=True)
    given = {"path": sys.path if tree is None else list(_paths(tree)), "own": dict(_own())}
    env = {key: value for key, value in os.environ.items() if key not in _UNSET} | {"GRADLINT_INSIDE": "1"}
    with tempfile.TemporaryDirectory(prefix="gradlint-") as results:
        file = Path(results) / "report.json"
        command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps(given), "check", f"--output-file=json={file}", *arguments]
        done = subprocess.run(  # noqa: S603 - this program, on what the user named
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if not file.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise UsageError(f"{name} could not be checked: {said[-1] if said else f'exit code {done.returncode}'}")
        text = file.read_text("utf-8")
    if tree is None:
        return text
    _clean(text, name, tree)
    return text.replace(json.dumps(str(tree.copy))[1:-1], json.dumps(str(tree.top))[1:-1])


def _paths(tree: Tree) -> Iterator[str]:
    """Where modules are looked for: in the copy instead of in the working tree, installed ones as they are.

    Its folders come once more at the end, before the finders of editable installations.
    """
    for entry in sys.path:
        path = tree.there(Path(entry or "."))
        if path == Path(entry or ".") or path.is_dir():
            yield entry and str(path)
        elif "site-packages" in path.parts:
            yield entry
    yield from (str(folder) for folder in (tree.copy, tree.copy / "src") if folder.is_dir())


def _own() -> Iterator[tuple[str, str]]:
    for name in _OWN:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            yield name, spec.origin


def _clean(text: str, name: str, tree: Tree) -> None:
    """A report about a revision must not be about lines of the working tree, whatever was on Python's path."""
    document = json.loads(text)
    for target in document["targets"]:
        places = [item["location"] for kind in ("modules", "nodes") for item in target[kind]]
        for place in (target["location"], *places):
            path = Path(place["path"]) if place else Path()
            if path.is_absolute() and path.is_relative_to(tree.top) and tree.there(path).exists():
                raise UsageError(f"{name} could not be checked: its code imports {path} of the working tree")


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
