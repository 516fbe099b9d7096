"""The project's interpreter: where gradlint is installed without torch (pipx, uvx, a hook's own environment), it runs there.

It runs with this version of gradlint, with what the project has installed, and with what that lacks from here. No torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from gradlint.errors import UsageError

__all__ = ["elsewhere"]

_INSIDE = "GRADLINT_INSIDE"  # set in the process that runs there: it does not look any further
_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX")
_FOLDERS = (".venv", "venv")
_OWN = ("gradlint", "gradlint_rules")  # of this version, whatever is installed there
_NEEDED = (
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
_PROGRAM = f"""\
import sys
if sys.version_info < {_OLDEST}:
    print("gradlint: needs Python 3.11 or newer, " + sys.executable + " is " + sys.version.split()[0], file=sys.stderr)
    sys.exit(2)
from importlib.util import module_from_spec, spec_from_file_location
folders, *own = sys.argv.pop(1).split({os.pathsep * 2!r})
sys.path += folders.split({os.pathsep!r})
for name, file in zip({_OWN}, own):
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from gradlint.cli import main
main()
"""


def elsewhere(arguments: Sequence[str], python: Path | None, environment: Mapping[str, str]) -> int | None:
    """The exit code of the same command in the project's interpreter; None where it should run in this one.

    Args:
        python: the interpreter that was asked for; None looks for one if there is no torch here.

    Raises:
        UsageError: there is no torch here, and no interpreter is found that may have it.
    """
    if _INSIDE in environment or (python is None and find_spec("torch") is not None):
        return None
    found = python or next(_interpreters(environment, Path.cwd()), None)
    if found is None:
        raise UsageError("torch is not installed here, and no interpreter of the project has it: name one with --python")
    if not found.exists():
        raise UsageError(f"--python: there is no {found}")
    folders = dict.fromkeys(str(Path(file).parent.parent) for file in _files(_NEEDED))
    places = (os.pathsep * 2).join([os.pathsep.join(folders), *_files(_OWN)])
    command = [str(found), "-c", _PROGRAM, places, *arguments]
    code = subprocess.run(command, env={**environment, _INSIDE: "1"}, check=False).returncode  # noqa: S603 - it was asked for
    return code if code in (0, 1, 2, 130) else 2  # killed by a signal: no verdict, and no pass


def _files(packages: Sequence[str]) -> list[str]:
    """The ``__init__.py`` of packages that are installed here."""
    return [spec.origin for spec in map(find_spec, packages) if spec is not None and spec.origin is not None]


def _interpreters(environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Those that have torch: of the active environment, of the folders above, on the path. A hook's own may be active."""
    binary = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    homes = [Path(environment[name]) for name in _ENVIRONMENTS if environment.get(name)]
    homes += [above / name for above in (folder, *folder.parents) for name in _FOLDERS]
    found = [home / binary for home in homes]
    found += [Path(place) / name for place in environment.get("PATH", "").split(os.pathsep) for name in (binary.name, "python3")]
    for python in dict.fromkeys(found):
        if python.exists() and python.parent.parent.resolve() != Path(sys.prefix).resolve() and _has_torch(python, environment):
            yield python


def _has_torch(python: Path, environment: Mapping[str, str]) -> bool:
    command = [str(python), "-c", "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)"]
    return not subprocess.run(command, env=environment, check=False, capture_output=True).returncode  # noqa: S603
