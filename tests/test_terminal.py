"""What only a terminal gets: links and a sign of life; and `--statistics`, which everybody gets."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty", reason="terminals are a matter of POSIX")

MODEL = """
import time
import torch.nn as nn

time.sleep({sleep})

def build():
    layers = []
    for _ in range(12):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=1.0)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
"""
LINK = re.compile(r"\x1b\]8;id=[^;]*;([^\x1b]*)\x1b\\(.*?)\x1b\]8;;\x1b\\")


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL.format(sleep=0))
    return tmp_path


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    @property
    def written(self):
        return self.getvalue()

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "FORCE_HYPERLINK", "PRE_COMMIT", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def on_terminal(stream, *args, **variables):
    """What the stream (1 stdout, 2 stderr) of a command shows when it is a terminal, and what the other one gets."""
    inner, outer = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "PRE_COMMIT", "COLUMNS")}
    places = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, ("stdout", "stderr")[stream - 1]: outer}
    command = [sys.executable, "-m", "gradlint", *args]
    with subprocess.Popen(command, env={**env, "TERM": "xterm-256color", **variables}, **places) as process:
        os.close(outer)
        shown = b"".join(iter(lambda: _read(inner), b""))
        other = (process.stderr if stream == 1 else process.stdout).read()
    os.close(inner)
    return shown.decode(), other.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so where the other end is closed
        return b""


def test_codes_lead_to_the_pages_of_their_rules_and_places_to_their_files(model):
    shown, _ = on_terminal(1, "model.py:build")
    links = {re.sub(r"\x1b\[[\d;]*m", "", text): link for link, text in LINK.findall(shown)}
    assert links["GL101"].startswith("file:///")
    assert links["GL101"].endswith("gl101_exploding_path.py")
    assert links["model.py:11"] == (model / "model.py").as_uri()


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_HYPERLINK": "0"}])
def test_no_links_where_they_are_not_wanted(monkeypatch, terminal, variables):
    from gradlint.cli.streams import terminal_view

    monkeypatch.setattr(sys, "stdout", terminal)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal_view("auto", quiet=False, verbose=False).links is (not variables)


def test_no_links_in_logs_and_files(gradlint, model):
    assert "\x1b]8;" not in gradlint("model.py:build", "--color", "always").out
    gradlint("model.py:build", "--color", "always", "-o", "out.txt")
    assert "\x1b]8;" not in (model / "out.txt").read_text("utf-8")


def test_a_sign_of_life_after_a_second_on_stderr_and_nothing_else(model):
    (model / "model.py").write_text(MODEL.format(sleep=2))
    shown, out = on_terminal(2, "model.py:build")
    assert "checking model.py:build" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "it is gone at the end"
    assert "\x1b" not in out
    assert "GL101" in out


@pytest.mark.parametrize(
    ("seconds", "quiet", "variables", "shows"),
    [
        (0.5, False, {}, True),
        (0.0, False, {}, False),
        (0.5, True, {}, False),
        (0.5, False, {"PRE_COMMIT": "1"}, False),
        (0.5, False, {"TERM": "dumb"}, False),
    ],
)
def test_no_sign_of_life_where_it_is_not_wanted(monkeypatch, terminal, seconds, quiet, variables, shows):
    """Nor of what takes no time."""
    from gradlint.cli.progress import progress

    monkeypatch.setattr(sys, "__stderr__", terminal)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with progress(["a.py", "b.py"], quiet=quiet, patience=0.1):
        time.sleep(seconds)
    assert ("checking 2 targets" in terminal.written) is shows
    assert bool(terminal.written) is shows


def test_statistics_count_the_findings_of_each_rule(gradlint, model):
    (model / "both.py").write_text(MODEL.format(sleep=0) + "\n\ndef other():\n    return build()\n")
    done = gradlint("both.py:build", "both.py:other", "--statistics", "--output-format", "concise")
    rows = re.findall(r"^(\d+)  (GL\d+)  [\w-]+ +in (\d) models?$", done.out, re.MULTILINE)
    told = [line.split(": ")[1].split()[0] for line in done.out.splitlines() if line.startswith("both.py:")]
    assert {code: int(count) for count, code, _ in rows} == {code: told.count(code) for code in set(told)}
    assert [int(count) for count, *_ in rows] == sorted((int(count) for count, *_ in rows), reverse=True)
    assert "models" not in gradlint("both.py:build", "--output-format", "concise", "-q").out


def test_statistics_also_count_what_is_accepted(gradlint, model):
    assert gradlint("baseline", "model.py:build").code == 0
    done = gradlint("model.py:build", "--statistics")
    assert done.code == 0
    assert re.search(r"^0  GL101  exploding-path +1 accepted$", done.out, re.MULTILINE)
