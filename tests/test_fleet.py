"""Shards, joblib backends, doctor, and --watch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import gradlint
from gradlint.errors import UsageError
from gradlint.fleet import share

NET = "import torch.nn as nn\n\n\ndef build():\n    return nn.Sequential(nn.Linear(8, {}), nn.Tanh())\n"
TARGETS = [f"models/net{n}.py" for n in range(23)]


@pytest.mark.parametrize("of", [1, 2, 5, 40])
def test_every_target_is_in_one_shard_and_they_are_of_one_size(of):
    shards = [share(TARGETS, n, of) for n in range(1, of + 1)]
    assert sorted(target for shard in shards for target in shard) == sorted(TARGETS)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert shards == [share(TARGETS, n, of) for n in range(1, of + 1)]


def test_a_shard_that_does_not_exist():
    with pytest.raises(UsageError):
        share(TARGETS, 3, 2)


def test_only_a_shard_is_checked(gradlint, tmp_path):
    code, _, told = gradlint("--shard", "3/2", "x.py")
    assert (code, "is no shard" in told) == (2, True)
    code, _, told = gradlint("--shard", "2/2", "x.py")
    assert (code, "no target is in shard 2/2" in told) == (0, True)


def test_many_targets_over_joblib_are_what_they_are_one_by_one(tmp_path):
    files = [tmp_path / f"net{n}.py" for n in range(2)]
    for n, file in enumerate(files):
        file.write_text(NET.format(4 + n))
    (tmp_path / "bad.py").write_text("import os\nos._exit(0)\n")
    names = [f"{file}:build" for file in files]
    report = gradlint.lint_many([*names, str(tmp_path / "bad.py")], n_jobs=2, backend="threading")
    assert [target.name for target in report.targets] == names
    assert [failure["target"] for failure in report.failures] == [str(tmp_path / "bad.py")]
    assert not report.ok


def test_doctor_tells_names_and_no_values(gradlint, monkeypatch):
    monkeypatch.setenv("GRADLINT_TIMEOUT", "4711.5")
    monkeypatch.setenv("MY_TOKEN", "sesame")
    code, out, _ = gradlint("doctor")
    assert code == 0
    assert f"models run in  python {sys.version.split()[0]}" in out
    assert "torch " in out
    assert "GRADLINT_TIMEOUT" in out
    assert "4711.5" not in out
    assert "sesame" not in out


def test_watch_checks_again_what_has_changed(tmp_path):
    (tmp_path / "part.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text("from part import WIDTH\n" + NET.replace("{}", "WIDTH"))
    command = [sys.executable, "-m", "gradlint", "net.py:build", "--watch", "--isolated", "--output-format", "concise"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - also where this run ignores it
    ) as run:
        assert run.stderr is not None
        timer = threading.Timer(120, run.kill)  # a test that waits for a line may not wait for ever
        timer.daemon = True
        timer.start()
        lines = iter(run.stderr.readline, "")
        assert any("gradlint: watching" in line for line in lines)
        (tmp_path / "part.py").write_text("WIDTH = 'broken'\n")
        assert any("gradlint: watching" in line for line in lines)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
        assert run.stdout is not None
        assert "failed" in run.stdout.read()
