"""A report is the same bytes whether its targets were judged in this process or each in one of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlint.comparison import Claim, Place
from gradlint.conclusion import Judged
from gradlint.errors import UsageError
from gradlint.facts import Coverage, Location, ParameterFacts, TargetReport
from gradlint.findings import Confidence, Factor, Finding, Severity
from gradlint.interpreter import project_python
from gradlint.worker.client import lint
from gradlint.worker.pool import Limits, Pool
from gradlint.worker.protocol import Job, Request, decoded, encoded

FIXTURES = Path(__file__).parents[2] / "fixtures"
HELPED = "from parts import Part\n\nclass Net(Part):\n    pass\n"
PART = """
import torch.nn as nn

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)
"""
CELLS = (
    "import torch.nn as nn",
    """def build():
    layers = []
    for _ in range(20):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=1.0)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)""",
)
SCRIPT = """
import sys, torch
from parts import Part

for _ in range(int(sys.argv[1])):
    Part()(torch.randn(4, 8)).sum().backward()
"""


def run(*arguments, cwd):
    command = [sys.executable, "-m", "gradlint", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    (folder / "net.py").write_text(HELPED)
    (folder / "parts.py").write_text(PART)
    (folder / "train.py").write_text(SCRIPT)
    cells = [{"cell_type": "code", "id": str(n), "metadata": {}, "outputs": [], "execution_count": None, "source": source}
             for n, source in enumerate(CELLS)]  # fmt: skip
    (folder / "nb.ipynb").write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    (folder / "broken.py").write_text("import no_such_module")
    return folder


def test_reports_are_the_same_bytes(folder):
    """Among the targets: findings, a notebook's lines, a rule that crashes, an unused comment, a failure, real runs."""
    targets = [FIXTURES / name / "bad.py" for name in ("gl101", "gl902", "gl903")]
    targets += ["nb.ipynb", "broken.py", "net.py"]
    seen = []
    for jobs in (0, 2):
        names = [f"{jobs}.{suffix}" for suffix in ("json", "sarif", "txt", "xml", "md")]
        flags = ("--verify", "--packs", FIXTURES / "gl903" / "broken_rules", "-j", jobs)
        done = run(*targets, *flags, *(flag for name in names for flag in ("-o", name)), cwd=folder)
        assert done.returncode == 2, done.stderr
        seen.append([(folder / name).read_bytes() for name in names])
    report = json.loads(seen[0][0])
    assert {"GL101", "GL902", "GL903"} <= {finding["code"] for finding in report["findings"]}
    assert b"nn.init.normal_(layer.weight, std=1.0)\n" in seen[1][2], "a cell's line is shown"
    assert seen[0] == seen[1]


def test_a_script_is_captured_in_a_worker(folder):
    outs = [run("--capture", "train.py", "-j", jobs, "--output-format", "json", "--", "1", cwd=folder) for jobs in ("0", "1")]
    assert json.loads(outs[1].stdout)["targets"][0]["inputs"] == ["x: float32[4, 8]"]
    assert outs[0].stdout == outs[1].stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "what?"], "what?"),
        (["--arg", "nonsense"], "nonsense"),
        (["--select", "GL999"], "no rule is called 'GL999'"),
        (["--packs", "."], "rule pack"),
        (["--max-memory", "much"], "is no size"),
        (["--timeout", "0"], "timeout"),
    ],
)
def test_usage_errors_are_told_as_in_one_process(folder, flags, message):
    done = run("net.py", *flags, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    if flags[0] not in ("--max-memory", "--timeout"):
        assert run("net.py", *flags, "-j", "0", cwd=folder).stderr == done.stderr


def test_baselines_are_made_from_workers(folder):
    name = FIXTURES / "gl101" / "bad.py"
    assert run("baseline", name, "--baseline", "b.json", cwd=folder).returncode == 0
    done = run(name, "--baseline", "b.json", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "accepted: 1 by the baseline" in done.stdout


class Noted(dict):
    """Remembers, and counts what it was not asked for before."""

    def get(self, job):
        return super().get((job.kind, job.target))

    def put(self, job, answer):
        self[job.kind, job.target] = answer


def test_what_is_known_needs_no_worker(folder, monkeypatch):
    monkeypatch.chdir(folder)
    request = Request(("net.py",))
    jobs, memory = [Job("check", request, "net.py")], Noted()
    first = lint(request, request.settings(), jobs, Path(sys.executable), Limits(), memory)
    again = lint(request, request.settings(), jobs, Path("/no/such/python"), Limits(), memory)
    assert again == first
    assert again.ok
    assert [Path(file).name for file in memory["check", "net.py"]["files"]] == ["net.py", "parts.py"]


def test_an_interpreter_that_does_not_start_is_an_error(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    with Pool(python, os.environ, Limits()) as pool, pytest.raises(UsageError, match="exit code 3"):
        pool.run([Job("rules", Request())])


def test_records_come_through_as_they_are():
    place = Location("m.py", 3, 5, Location("lib.py", 9))
    finding = Finding(
        "GL101", "exploding-path", Severity.ERROR, Confidence.LOW, "…", place, "m.py:Net", "fc",
        evidence={"measured": 2.0, "expected": 1, "quantity": "gain", "worst": math.inf},
        factors=(Factor("weights", 0.1 + 0.2),), instances=("a", "b"), claim=Claim((Place("parameter", "w"),), -math.inf),
        verified="verified", suppressed="comment",
    )  # fmt: skip
    parameter = ParameterFacts("w", (2, 3), "normal", 1 / 3, None, grad_interval=(1e-310, 2.0))
    target = TargetReport("m.py:Net", place, ("x",), "real", Coverage(3, {"f": 1}), parameters=(parameter,))
    judged = Judged((target,), (finding,), ({"target": "t"},), seen=(("m.py", 3),), sources={"cell": "x\n"})
    back = decoded(json.loads(encoded(judged)), Judged)
    assert back == judged
    assert [type(value) for value in back.findings[0].evidence.values()] == [float, int, str, float]
    assert back.findings[0].location.library == place.library, "which equality does not compare"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX", None])
def test_the_projects_interpreter_is_found(tmp_path, monkeypatch, variable):
    home = tmp_path / ".venv" if variable is None else tmp_path / "elsewhere"
    python = fake(home)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradlint.interpreter.find_spec", lambda name: None)
    environment = {} if variable is None else {variable: str(home)}
    assert project_python(None, {"PATH": "", **environment}) == python


def test_poetry_is_asked_where_the_project_is_one_of_its(tmp_path, monkeypatch):
    python = fake(tmp_path / "cache" / "env")
    (tmp_path / "poetry").write_text(f"#!/bin/sh\necho {python}\n")
    (tmp_path / "poetry").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradlint.interpreter.find_spec", lambda name: None)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(UsageError, match="name one with --python"):
        project_python(None, {"PATH": str(tmp_path)})
    (tmp_path / "pyproject.toml").write_text("[tool.poetry]\n")
    assert project_python(None, {"PATH": str(tmp_path)}) == python


def fake(home):
    """An interpreter that says it has torch."""
    python = home / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    return python
