"""Comments that accept findings: which lines they mean, and when they are unused."""

from __future__ import annotations

import json

import pytest

from gradlint.findings import Confidence, Finding, Location, Severity
from gradlint.suppression import suppressions, unused_of

SOURCE = """\
import torch.nn as nn

# gradlint: ignore[GL101] the whole class
class Net(nn.Module):
    \"\"\"A net.\"\"\"

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)  # gradlint: ignore[exploding-path, GL2] both
        self.b = nn.Sequential(
            nn.Linear(8, 8),
            nn.ReLU(),
        )  # gradlint:ignore[GL3]
        # gradlint: ignore[GL4]
        self.c = nn.Linear(8, 8)
        for _ in range(3):
            # gradlint: ignore[GL5]
            self.d = nn.Linear(
                8, 8
            )

    def forward(self, x):  # noqa: GL602, ANN001  # gradlint: ignore[GL601]
        text = "# gradlint: ignore[GL9]"
        return x

def build():
    return Net()  # gradlint: ignore
"""


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return suppressions(str(path))


def test_what_each_comment_means(found):
    assert [(c.comment.line, c.selectors, (c.first, c.last), c.own) for c in found] == [
        (3, ("GL101",), (4, 24), True),
        (9, ("exploding-path", "GL2"), (9, 9), True),
        (13, ("GL3",), (10, 13), True),
        (14, ("GL4",), (15, 15), True),
        (17, ("GL5",), (18, 20), True),
        (22, ("GL601",), (22, 24), True),
        (22, ("GL602",), (22, 24), False),
        (27, (), (27, 27), True),
    ]


def test_a_file_that_cannot_be_read_has_none(tmp_path):
    (tmp_path / "bad.py").write_text("# gradlint: ignore[GL1]\ndef (")
    assert suppressions(str(tmp_path / "bad.py")) == ()
    assert suppressions(str(tmp_path / "missing.py")) == ()


@pytest.mark.parametrize(
    ("line", "code", "name", "selector"),
    [
        (9, "GL101", "exploding-path", "exploding-path"),
        (9, "GL201", "x", "GL2"),
        (9, "GL301", "x", None),
        (8, "GL201", "x", None),
    ],
)
def test_which_finding_a_comment_accepts(found, line, code, name, selector):
    place = Location(found[0].comment.path, line)
    finding = Finding(code, name, Severity.ERROR, Confidence.HIGH, "", place, "", "")
    assert found[1].selector_of(finding) == selector
    elsewhere = Finding(code, name, Severity.ERROR, Confidence.HIGH, "", None, "", "")
    assert found[1].selector_of(elsewhere) is None


def test_a_comment_means_a_rule_by_the_names_it_had(found):
    place = Location(found[0].comment.path, 9)
    finding = Finding("GL250", "new-name", Severity.ERROR, Confidence.HIGH, "", place, "", "")
    assert found[1].selector_of(finding, ("exploding-path",)) == "exploding-path"


def test_unused_is_what_could_have_accepted_something(found):
    path = found[0].comment.path
    ran = [("GL101", "exploding-path"), ("GL201", "init-variance"), ("GL301", "shrinking-activation")]
    known = {word for rule in ran for word in rule} | {"GL401", "GL501", "GL601"}
    used = [(found[1], "GL2")]
    seen = [(path, 9), (path, 11), (path, 15), (path, 27)]
    said = [(u.comment.line, u.selector, u.known) for u in unused_of(found, used, seen, ran, known)]
    assert said == [(3, "GL101", True), (9, "exploding-path", True), (13, "GL3", True), (27, "", True)]
    assert unused_of(found, used, [(path, 1)], ran, known) == ()
    (typo,) = unused_of(found[3:4], (), seen, ran, {"GL101", "GL51"})
    assert (typo.selector, typo.known) == ("GL4", False)


MODEL = """
import torch.nn as nn

def build():
    layers = []
    for _ in range(20):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=1.0)  # COMMENT
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
"""


@pytest.mark.parametrize(
    ("comment", "code", "counted", "suppressed"),
    [
        ("plain", 1, ["GL101", "GL201"], []),
        ("gradlint: ignore[GL101, GL201] known", 0, [], ["GL101", "GL201"]),
        ("gradlint: ignore[exploding-path] known", 1, ["GL201"], ["GL101"]),
        ("noqa: GL101,GL201", 0, [], ["GL101", "GL201"]),
        ("noqa", 1, ["GL101", "GL201"], []),
        ("gradlint: ignore", 1, ["GL101", "GL201", "GL902"], []),
        ("gradlint: ignore[GL1, GL2, GL301]", 1, ["GL902"], ["GL101", "GL201"]),
        ("gradlint: ignore[GL1, GL2, exploding-pth]", 1, ["GL902"], ["GL101", "GL201"]),
    ],
)
def test_from_the_command_line(gradlint, tmp_path, monkeypatch, comment, code, counted, suppressed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL.replace("COMMENT", comment))
    done = gradlint("net.py", "--output-format", "json", "--select", "GL101,GL201,GL301,GL902")
    report = json.loads(done.out)
    assert done.code == code
    assert sorted(finding["code"] for finding in report["findings"]) == counted
    assert sorted(finding["code"] for finding in report["suppressed"]) == suppressed


def test_a_comment_for_a_rule_that_did_not_run_is_left_alone(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL.replace("COMMENT", "gradlint: ignore[GL401]"))
    assert gradlint("net.py", "--select", "GL301,GL902").code == 0
    assert gradlint("net.py", "--select", "GL301,GL401,GL902").code == 1
