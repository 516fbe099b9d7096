"""Installed without torch, gradlint runs in the project's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from gradlint.errors import UsageError
from gradlint.interpreter import elsewhere

ROOT = Path(__file__).parent.parent
PARTS = (
    *("attr", "attrs", "cattr", "cattrs", "click", "markdown_it", "mdurl", "networkx", "numpy", "packaging"),
    *("pygments", "rich", "rich_click", "typing_extensions"),
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    """An environment that has gradlint and what it needs, but no torch: as pipx or a hook makes it."""
    home = tmp_path_factory.mktemp("tool")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for name in PARTS:
        origin = find_spec(name).origin
        source = Path(origin).parent if Path(origin).name == "__init__.py" else Path(origin)
        (site / source.name).symlink_to(source)
        if (libraries := source.parent / f"{name}.libs").exists():
            (site / libraries.name).symlink_to(libraries)
    (site / "gradlint").symlink_to(ROOT / "gradlint")
    (site / "gradlint_rules").symlink_to(ROOT / "rules" / "gradlint_rules")
    return home / "bin" / "python"


def run(python, *args, cwd, **environment):
    keep = {"PATH": "/usr/bin:/bin", **{name: os.environ[name] for name in ("HOME", "OMP_NUM_THREADS") if name in os.environ}}
    command = [python, "-m", "gradlint", *args]
    return subprocess.run(command, cwd=cwd, env={**keep, **environment}, text=True, capture_output=True, check=False)


def test_models_are_checked_in_the_environment_of_the_project(tool, tmp_path):
    bad, good = (ROOT / "fixtures" / "gl201" / f"{name}.py" for name in ("bad", "good"))
    done = run(tool, bad, "--output-format", "json", cwd=tmp_path, VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 1, done.stderr
    assert "GL201" in [finding["code"] for finding in json.loads(done.stdout)["findings"]]
    done = run(tool, good, "--python", sys.executable, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_an_interpreter_it_says_what_to_do(tool, tmp_path):
    done = run(tool, "model.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "name one with --python" in done.stderr
    assert run(tool, "--version", cwd=tmp_path).returncode == 0
    assert run(tool, "config", cwd=tmp_path).returncode == 0
    done = run(tool, "model.py", cwd=tmp_path, VIRTUAL_ENV=str(tool.parent.parent))
    assert "name one with --python" in done.stderr, "this one is not another one"


def test_a_hook_finds_the_interpreter_behind_its_own_on_the_path(tool, tmp_path):
    path = os.pathsep.join([str(tool.parent), str(Path(sys.prefix) / "bin")])
    done = run(tool, ROOT / "fixtures" / "gl201" / "bad.py", cwd=tmp_path, PATH=path, VIRTUAL_ENV=str(tool.parent.parent))
    assert done.returncode == 1, done.stderr


def test_an_interpreter_without_torch_is_no_pass_and_no_loop(tool, tmp_path):
    (tmp_path / ".venv").symlink_to(tool.parent.parent)
    other = tmp_path / "other"
    venv.create(other, with_pip=False, symlinks=True)
    done = run(tool, "model.py", "--python", other / "bin" / "python", cwd=tmp_path)
    assert done.returncode == 2
    assert "torch" in done.stderr


@pytest.mark.parametrize(("code", "seen"), [("0", 0), ("1", 1), ("130", 130), ("77", 2), ("'killed'", 2)])
def test_its_exit_code_is_passed_on_and_a_signal_is_no_pass(tmp_path, code, seen):
    python = tmp_path / "python"
    end = "kill -9 $$" if code == "'killed'" else f"exit {code}"
    python.write_text(f"#!/bin/sh\n{end}\n")
    python.chmod(0o755)
    assert elsewhere(["model.py"], python, {"PATH": os.environ["PATH"]}) == seen


def test_with_torch_here_nothing_is_looked_for():
    assert elsewhere(["model.py"], None, {}) is None
    assert elsewhere(["model.py"], Path("/no/such/python"), {"GRADLINT_INSIDE": "1"}) is None
    with pytest.raises(UsageError, match="there is no /no/such/python"):
        elsewhere(["model.py"], Path("/no/such/python"), {})
