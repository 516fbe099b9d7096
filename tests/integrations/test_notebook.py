"""What a cell shows whose last line is a report, in a real IPython."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gradlint.errors import LoadError
from gradlint.findings import Confidence, Coverage, Finding, Hop, Location, Report, Severity, TargetReport

CELL = """
import gradlint
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(30))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x

gradlint.lint(Net, ["x:2,64"])
"""
# What a front end is sent for the result of a cell, by its type.
NOTEBOOK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
done = shell.run_cell(sys.stdin.read(), store_history=False)
done.raise_error()
data, _ = shell.display_formatter.format(done.result)
print(json.dumps(data))
"""


class Strict(HTMLParser):
    """Every tag that is opened is closed; keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def finding(**changes):
    usual = Finding(
        code="GL101",
        name="exploding-path",
        severity=Severity.ERROR,
        confidence=Confidence.HIGH,
        message="amplified",
        location=Location("net.py", 4),
        target="Net",
        module="",
        instances=tuple(f"layers.{i}.weight" for i in range(9)),
        fix="std 1",
    )
    return replace(usual, **changes)


def test_a_cell_shows_the_findings(tmp_path):
    pytest.importorskip("IPython")
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], input=CELL, text=True, capture_output=True, check=False, cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = Strict(json.loads(done.stdout.splitlines()[-1])["text/html"])
    assert "GL101 error" in " ".join(shown.text.split())
    assert "Net: x: float32[2, 64]; gradient ×" in shown.text
    assert {"table", "svg"} <= set(shown.tags)


def test_every_text_is_escaped():
    bad = "<script>alert('x')</script> & \"q\""
    failure = LoadError(bad, target=bad, where=bad, hint=bad).to_dict()
    texts = {"message": bad, "fix": bad, "name": bad, "module": bad, "target": bad, "instances": (bad,)}
    text = Report((), (finding(location=Location(bad, 3), **texts),), (failure,))._repr_html_()
    assert "script" not in Strict(text).tags
    assert "<script" not in text
    assert Strict(text).text.count(bad) == 9


def test_it_is_small_and_asks_for_nothing_from_elsewhere():
    shown = Report((), tuple(finding(code=f"GL{n}", message="m" * 80) for n in range(100, 120)))._repr_html_()
    page = Strict(shown)
    assert len(shown) < 20_000
    assert not {"script", "link", "img", "style", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert "layers.{0…8}.weight" in page.text


def test_the_line_of_a_very_deep_model_stays_small_and_keeps_its_ends():
    hops = tuple(Hop(f"n{i}", "", None, "weights", 0.01, 0.01 * (i + 1)) for i in range(20_000))
    target = TargetReport("Deep", None, ("x",), "real", Coverage(1), gain_log2=200.0, path=hops)
    page = Strict(Report((target,))._repr_html_())
    (points,) = [value.split() for name, value in page.attributes if name == "points"]
    assert len(points) <= 122
    assert (points[0], points[-1]) == ("0.0,18.0", "120.0,0.0")


def test_a_verdict_for_every_outcome():
    failure = LoadError("no such file", target="x.py", hint="name another").to_dict()
    assert "gradlint: nothing found" in Strict(Report()._repr_html_()).text
    warning = finding(severity=Severity.WARNING, confidence=Confidence.LOW, verified="contradicted", location=None)
    text = Strict(Report((), (warning, finding(), finding()), (failure,), suppressed=(finding(),))._repr_html_()).text
    assert "2 errors, 1 warning, 1 not analysed, 1 accepted" in text
    assert "(contradicted by real backward passes)" in text
    assert "confidence low" in text
    assert "x.py could not be analysed: no such file" in text
