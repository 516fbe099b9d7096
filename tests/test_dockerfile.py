"""The Dockerfile, as far as it can be held without building an image: what it says, and its own step that builds the wheel."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def stages():
    """The instructions of each stage, as pairs of instruction and value; first those before any."""
    parse = pytest.importorskip("dockerfile_parse")
    found = [[]]
    for item in parse.DockerfileParser(str(ROOT / "Dockerfile"), cache_content=True).structure:
        if item["instruction"] == "FROM":
            found.append([])
        if item["instruction"] != "COMMENT":
            found[-1].append((item["instruction"], item["value"]))
    return found


def values(stage, instruction):
    return [value for name, value in stage if name == instruction]


def copied(stage):
    """Source and destination of what is copied from the context."""
    for value in values(stage, "COPY"):
        *sources, target = shlex.split(value)
        if not sources[0].startswith("--from"):
            yield from ((source, target) for source in sources)


def test_it_is_slim_has_python_that_is_new_enough_and_runs_gradlint_as_nobody_special(stages):
    before, build, final = stages
    (python,) = [value.removeprefix("PYTHON=") for value in values(before, "ARG") if value.startswith("PYTHON=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert tuple(map(int, python.split("."))) >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert [values(stage, "FROM")[0].partition(" ")[0] for stage in (build, final)] == ["python:${PYTHON}-slim"] * 2
    assert json.loads(values(final, "ENTRYPOINT")[0]) == ["gradlint"]
    assert "gradlint" in project["scripts"]
    names = [name for name, _ in final]
    (user,) = values(final, "USER")
    assert user not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert any(re.search(rf"useradd .*\b{user}$", value) for value in values(final, "RUN"))
    assert not [value for name, value in final[names.index("USER") :] if name in ("RUN", "COPY", "ADD")]


def test_torch_is_the_one_the_tests_run_with_and_nothing_is_kept_of_installing_it(stages):
    *_, final = stages
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)[0]
    assert f"TORCH={pinned}" in values(final, "ARG")
    for command in values(final, "RUN"):
        assert "pip install" not in command or "--no-cache-dir" in command
    extra = re.search(r"\[(\w+)\]", next(command for command in values(final, "RUN") if "/wheels/gradlint" in command))[1]
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def test_an_index_that_was_not_named_stops_the_build_and_says_which_one_is_meant(stages):
    *_, final = stages
    (install,) = [command for command in values(final, "RUN") if "TORCH_INDEX" in command]
    done = subprocess.run(["/bin/sh", "-c", install], env={}, text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert "TORCH_INDEX" in done.stderr
    assert "PyTorch for CPUs" in done.stderr


def test_the_context_holds_what_is_copied_and_little_else(stages):
    _, build, final = stages
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert {source.removeprefix("./") for stage in (build, final) for source, _ in copied(stage)} == let_in
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.slow
def test_the_wheel_is_built_from_what_is_copied(stages, tmp_path):
    """The step of the first stage, in a folder that holds what the stage holds."""
    _, build, _ = stages
    for source, target in copied(build):
        place = tmp_path / "context" / target / ("" if target != "./" else source)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, place)
    (command,) = values(build, "RUN")
    words = shlex.split(command.replace("/wheels", str(tmp_path / "wheels")))
    assert words[0] == "pip"
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=tmp_path / "context", text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    data = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "gradlint").rglob("*")
        if path.suffix in (".json", ".html", ".typed")
    ]
    assert set(data) <= set(names)
    assert "gradlint_rules/__init__.py" in names
    (entry,) = fnmatch.filter(names, "*.dist-info/entry_points.txt")
    assert "gradlint.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
