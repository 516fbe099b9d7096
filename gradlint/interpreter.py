"""The project's interpreter: where models run. No torch.

It is another one than gradlint's where that is installed without torch: by pipx, by uvx, in a hook's own environment.
It runs with this version of gradlint, with what the project has installed, and with what that lacks from here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from gradlint.errors import UsageError

__all__ = ["command", "elsewhere", "project_python"]

_INSIDE = "GRADLINT_INSIDE"  # set in the process that runs there: it does not look any further
_ENVIRONMENTS = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX")
_FOLDERS = (".venv", "venv", ".pixi/envs/default")
_OWN = ("gradlint", "gradlint_rules")  # of this version, whatever is installed there
_NEEDED = (
    "attr",
    "attrs",
    "cattrs",
    "click",
    "jinja2",
    "markupsafe",
    "networkx",
    "numpy",
    "packaging",
    "rich",
    "rich_click",
)  # from here only what is missing there
_OLDEST = (3, 11)
_PATIENCE = 30  # seconds for another tool to say where its environment is
_PROGRAM = f"""\
import sys
if sys.version_info < {_OLDEST}:
    print("gradlint: needs Python 3.11 or newer, " + sys.executable + " is " + sys.version.split()[0], file=sys.stderr)
    sys.exit(2)
if sys.path[:1] == [""]:
    del sys.path[0]  # a file beside the models is no module of Python's or torch's
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
folders, *own = sys.argv.pop(1).split({os.pathsep * 2!r})
sys.path += folders.split({os.pathsep!r})
for name, file in zip({_OWN}, own):
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
import_module(sys.argv.pop(1)).main()
"""


def project_python(python: Path | None, environment: Mapping[str, str]) -> Path:
    """The interpreter that models are to run in.

    Args:
        python: the one that was asked for; None is this one if it has torch, else the project's.

    Raises:
        UsageError: there is no torch here, and no interpreter is found that may have it.
    """
    if python is None and find_spec("torch") is not None:
        return Path(sys.executable)
    found = python or next(_interpreters(environment, Path.cwd()), None)
    if found is None:
        raise UsageError("torch is not installed here, and no interpreter of the project has it: name one with --python")
    if not found.exists():
        raise UsageError(f"--python: there is no {found}")
    return found


def command(python: Path, module: str, arguments: Sequence[str]) -> list[str]:
    """What runs ``main()`` of a module of this gradlint in an interpreter."""
    folders = dict.fromkeys(str(Path(file).parent.parent) for file in _files(_NEEDED))
    places = (os.pathsep * 2).join([os.pathsep.join(folders), *_files(_OWN)])
    return [str(python), "-c", _PROGRAM, places, module, *arguments]


def elsewhere(arguments: Sequence[str], python: Path | None, environment: Mapping[str, str]) -> int | None:
    """The exit code of the same command in the project's interpreter; None where it should run in this one.

    Raises:
        UsageError: there is no torch here, and no interpreter is found that may have it.
    """
    if _INSIDE in environment or (python is None and find_spec("torch") is not None):
        return None
    program = command(project_python(python, environment), "gradlint.cli", arguments)
    code = subprocess.run(program, env={**environment, _INSIDE: "1"}, check=False).returncode  # noqa: S603 - it was asked for
    return code if code in (0, 1, 2, 130) else 2  # killed by a signal: no verdict, and no pass


def _files(packages: Sequence[str]) -> list[str]:
    """The ``__init__.py`` of packages that are installed here."""
    return [spec.origin for spec in map(find_spec, packages) if spec is not None and spec.origin is not None]


def _interpreters(environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Those that have torch: active, in the folders above, of poetry, on the path. A hook's own may be active."""
    binary = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    homes = [Path(environment[name]) for name in _ENVIRONMENTS if environment.get(name)]
    homes += [above / name for above in (folder, *folder.parents) for name in _FOLDERS]
    seen = set[Path]()
    for python in _candidates([home / binary for home in homes], environment, folder, binary.name):
        if python in seen:
            continue
        seen.add(python)
        if python.exists() and python.parent.parent.resolve() != Path(sys.prefix).resolve() and _has_torch(python, environment):
            yield python


def _candidates(known: Sequence[Path], environment: Mapping[str, str], folder: Path, name: str) -> Iterator[Path]:
    yield from known
    yield from _of_poetry(environment, folder)
    for place in environment.get("PATH", "").split(os.pathsep):
        yield from (Path(place) / word for word in (name, "python3"))


def _of_poetry(environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Poetry keeps its environments where only it knows; it is asked where the project is one of its."""
    project = next((above for above in (folder, *folder.parents) if (above / "pyproject.toml").is_file()), None)
    poetry = shutil.which("poetry", path=environment.get("PATH"))
    if project is None or poetry is None:
        return
    with suppress(OSError, ValueError, subprocess.SubprocessError):  # a broken project has no environment to offer
        if "poetry" in tomllib.loads((project / "pyproject.toml").read_text("utf-8")).get("tool", {}):
            ask = [poetry, "env", "info", "--executable", "--directory", str(project)]
            done = subprocess.run(  # noqa: S603 - found on the user's path
                ask, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=True
            )
            yield Path(done.stdout.strip())


def _has_torch(python: Path, environment: Mapping[str, str]) -> bool:
    ask = [str(python), "-c", "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)"]
    return not subprocess.run(ask, env=environment, check=False, capture_output=True).returncode  # noqa: S603
