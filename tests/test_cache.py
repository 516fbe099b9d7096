"""A run that finds its answers gives the same bytes without a worker; whatever changed is judged anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gradlint import cache as module
from gradlint.cache import Cache, Interpreter, default_folder
from gradlint.worker.protocol import Job, Request

NET = """
import torch.nn as nn
from part import WIDTH


def build(n=3):
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
"""
OLD = 1_700_000_000  # a time at which nobody is writing


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    written(folder / "net.py", NET)
    written(folder / "part.py", "WIDTH = 8\n")
    monkeypatch.chdir(folder)
    return folder


def written(path, text):
    path.write_text(text)
    os.utime(path, (OLD, OLD))


def answer_of(project, text="x"):
    files = [str(project / name) for name in ("net.py", "part.py")]
    return {"result": {"targets": [text], "failures": []}, "files": files}


def made(tmp_path, **more):
    return Cache(tmp_path / "cache", Path(sys.executable), os.environ, **more)


def job_of(target="net.py", kind="check", **flags):
    return Job(kind, Request((target,), flags, isolated=True), target)


def kept(tmp_path, project, job, text="x"):
    cache = made(tmp_path)
    assert cache.get(job) is None
    cache.put(job, answer_of(project, text))
    assert made(tmp_path).get(job) == answer_of(project, text)


CHANGES = {
    "the target's file": (lambda project: written(project / "net.py", NET + "\n"), None),
    "a file that it imports": (lambda project: written(project / "part.py", "WIDTH = 9\n"), None),
    "an imported file is gone": (lambda project: (project / "part.py").unlink(), None),
    "a file that may hide another": (lambda project: written(project / "torch.py", ""), None),
    "a setting": (lambda _: None, job_of(max_gain=3.0)),
    "an argument": (lambda _: None, job_of(arg=("n=4",))),
    "an input": (lambda _: None, job_of(input=("2,8",))),
    "the target": (lambda _: None, job_of("net.py:build")),
    "the sandbox": (lambda _: None, replace(job_of(), sandbox="off")),
    "what is asked": (lambda _: None, job_of(kind="capture")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_not_known(project, tmp_path, change):
    kept(tmp_path, project, job_of())
    act, job = CHANGES[change]
    act(project)
    assert made(tmp_path).get(job or job_of()) is None


@pytest.mark.parametrize("name", ["__version__", "interpreter"])
def test_another_version_of_gradlint_torch_or_python_knows_nothing(project, tmp_path, monkeypatch, name):
    kept(tmp_path, project, job_of())
    new = "9.9" if name == "__version__" else lambda *_: Interpreter(sys.version, ("torch-9.9",))
    monkeypatch.setattr(module, name, new)
    assert made(tmp_path).get(job_of()) is None


def test_what_changes_only_the_conclusion_is_known(project, tmp_path):
    kept(tmp_path, project, job_of())
    assert made(tmp_path).get(job_of(fail_on="never", output_format=("json",))) is not None


def test_it_knows_both_branches(project, tmp_path):
    kept(tmp_path, project, job_of(), "one")
    written(project / "net.py", NET + "\n\n")
    kept(tmp_path, project, job_of(), "two")
    written(project / "net.py", NET)
    assert made(tmp_path).get(job_of()) == answer_of(project, "one")


def test_weights_and_the_training_script_count(project, tmp_path):
    for name, flag in (("w.safetensors", "weights"), ("train.py", "training_script")):
        written(project / name, "1")
        job = job_of(**{flag: project / name})
        kept(tmp_path, project, job)
        written(project / name, "2")
        assert made(tmp_path).get(job) is None


def test_a_file_that_changes_while_it_is_judged_is_not_kept(project, tmp_path):
    cache = made(tmp_path)
    cache.get(job_of())
    (project / "part.py").write_text("WIDTH = 10\n")
    cache.put(job_of(), answer_of(project))
    assert made(tmp_path).get(job_of()) is None


@pytest.mark.parametrize("part", ["failures", "broken", "crashes"])
def test_failures_are_not_kept(project, tmp_path, part):
    cache = made(tmp_path)
    cache.get(job_of())
    cache.put(job_of(), {"result": {part: [{"message": "no"}]}, "files": []})
    assert cache.use().entries == 0


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", None])
def test_a_damaged_entry_is_a_miss_and_is_replaced(project, tmp_path, damage):
    kept(tmp_path, project, job_of())
    [path] = made(tmp_path).folder.glob("*/*.json")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"x"', b'"y"') if damage is None else damage)
    assert made(tmp_path).get(job_of()) is None
    kept(tmp_path, project, job_of())


def test_it_stays_within_its_bound_and_drops_what_was_used_longest_ago(project, tmp_path):
    jobs = [job_of(max_gain=float(n)) for n in range(2, 12)]
    for job in jobs:
        kept(tmp_path, project, job)
    cache = made(tmp_path)
    size = cache.use().size // len(jobs)
    for age, job in enumerate(jobs):
        path = cache._path(cache.name_of(job))
        os.utime(path, (OLD - 60 * age, OLD - 60 * age))
    made(tmp_path).get(jobs[-1])  # the oldest, and now the youngest
    small = made(tmp_path, limit=4 * size + size // 2)
    new = job_of(max_gain=99.0)
    small.get(new)
    small.put(new, answer_of(project))
    assert small.use().size <= 4 * size + size // 2
    known = [made(tmp_path).get(job) is not None for job in [*jobs, new]]
    assert known == [True, True, *[False] * 7, True, True]


def test_writers_at_once_leave_whole_entries(project, tmp_path):
    jobs = [job_of(max_gain=float(2 + n % 5)) for n in range(40)]

    def work(job):
        cache = made(tmp_path)
        found = cache.get(job)
        assert found is None or found == answer_of(project)
        cache.put(job, answer_of(project))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, jobs))
    assert made(tmp_path).use().entries == 5
    assert all(made(tmp_path).get(job) == answer_of(project) for job in jobs)


def test_a_folder_that_cannot_be_written_changes_nothing(project, tmp_path):
    (tmp_path / "cache").write_text("a file")
    cache = made(tmp_path)
    assert cache.get(job_of()) is None
    cache.put(job_of(), answer_of(project))
    assert cache.get(job_of()) is None


def test_where_it_is(tmp_path):
    assert default_folder({"XDG_CACHE_HOME": str(tmp_path), "HOME": "/h"}) == tmp_path / "gradlint"
    assert default_folder({"XDG_CACHE_HOME": "relative", "HOME": str(tmp_path)}) == tmp_path / ".cache" / "gradlint"
    assert default_folder({}) is None


def run(*arguments, **environment):
    command = [sys.executable, "-m", "gradlint", "net.py:build", "--isolated", "--output-format", "json", *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_run_from_the_cache_writes_the_same_bytes_and_starts_no_worker(project, tmp_path):
    flags = ("--cache-dir", str(tmp_path / "cache"))
    cold = run(*flags)
    assert cold[0] == 0, cold
    warm = run(*flags, "--timeout", "0.000001")
    assert warm == cold  # a worker would have failed
    assert run("--no-cache", "--timeout", "0.000001")[0] == 2
    written(project / "part.py", "WIDTH = 16\n")
    code, text, _ = run(*flags)
    assert code == 0
    assert json.loads(text) != json.loads(cold[1])


def test_a_file_that_the_model_reads_counts(project, tmp_path):
    written(
        project / "net.py",
        "from pathlib import Path\n" + NET.replace("from part import WIDTH", "WIDTH = int(Path('w.txt').read_text())"),
    )
    written(project / "w.txt", "8")
    flags = ("--cache-dir", str(tmp_path / "cache"))
    first = run(*flags)
    written(project / "w.txt", "4")
    second = run(*flags)
    assert (first[0], second[0]) == (0, 0)
    assert first[1] != second[1]


def test_without_a_home_there_is_none_and_that_is_said(project):
    code, _, told = run("-v", HOME="", XDG_CACHE_HOME="")
    assert code == 0
    assert "no cache: HOME is not set" in told
