"""Accepted findings: known again, measured again, missed when they are gone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gradlint import baseline
from gradlint.comparison import significant
from gradlint.findings import Confidence, Finding, Location, Severity

MODEL = """
import torch.nn as nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(20):
            layer = nn.Linear(64, 64)
            nn.init.normal_(layer.weight, std=STD)
            self.layers.append(layer)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
"""
STD = 1.0
FLAGS = ("--select", "GL1,GL2,GL904")


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"

    def write(std=STD, change=lambda text: text):
        path.write_text(change(MODEL.replace("STD", str(std))))
        return path

    write()
    return write


def codes(report, key="findings"):
    return sorted(finding["code"] for finding in report[key])


def lint(gradlint, *args):
    done = gradlint("net.py", "--output-format", "json", *FLAGS, *args)
    return done.code, json.loads(done.out)


def test_what_is_accepted_passes_and_is_told(gradlint, net, tmp_path):
    before = lint(gradlint)
    assert before[0] == 1
    done = gradlint("baseline", "net.py", *FLAGS, "--reason", "legacy")
    assert done.code == 0
    assert done.out == f"{tmp_path / 'gradlint-baseline.json'}: 2 accepted\n"
    entries = json.loads((tmp_path / "gradlint-baseline.json").read_text())["findings"]
    assert [(e["code"], e["target"], e["reason"]) for e in entries] == [
        ("GL101", "net.py:Net", "legacy"),
        ("GL201", "net.py:Net", "legacy"),
    ]
    assert all(e["measured"] > e["expected"] for e in entries)
    code, report = lint(gradlint)
    assert (code, codes(report), codes(report, "suppressed")) == (0, [], codes(before[1]))
    assert gradlint("net.py", "--isolated", *FLAGS).code == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# moved\n" * 9 + text,
        lambda text: text.replace("layers", "blocks"),
        lambda text: text.replace("layer", "dense"),
        lambda text: text.replace("nn.Linear(64", "Block(64") + "\nclass Block(nn.Linear):\n    pass\n",
        lambda text: text.replace("self.layers.append(layer)", "x = 3; self.layers.append(layer)"),
    ],
)
def test_moved_lines_and_renamed_blocks_are_known_again(gradlint, net, change):
    gradlint("baseline", "net.py", *FLAGS)
    net(change=change)
    code, report = lint(gradlint)
    assert (code, codes(report), codes(report, "suppressed")) == (0, [], ["GL101", "GL201"])


def test_what_got_worse_counts_again_and_less_than_a_tenth_does_not(gradlint, net):
    gradlint("baseline", "net.py", *FLAGS)
    net(STD * 1.004)  # 20 layers: 8 %
    assert lint(gradlint)[0] == 0
    net(STD * 1.01)  # 22 %
    code, report = lint(gradlint)
    assert (code, codes(report), codes(report, "suppressed")) == (1, ["GL101"], ["GL201"])
    assert "accepted in gradlint-baseline.json, but" in report["findings"][0]["notes"][-1]
    assert "22 % worse than" in report["findings"][0]["notes"][-1]
    net(STD * 0.99)
    assert lint(gradlint)[0] == 0


def test_what_is_gone_is_stale_until_it_is_pruned(gradlint, net, tmp_path):
    gradlint("baseline", "net.py", *FLAGS)
    net(0.18)
    code, report = lint(gradlint)
    assert (code, codes(report)) == (1, ["GL904", "GL904"])
    place = report["findings"][0]["location"]
    assert place["path"] == "gradlint-baseline.json"
    assert '"reason"' in (tmp_path / place["path"]).read_text().splitlines()[place["line"] - 1]
    assert gradlint("net.py", "--select", "GL301,GL904").code == 0, "rules that were not asked"
    assert gradlint("baseline", "--prune", "net.py", *FLAGS).out.endswith(": 0 accepted\n")
    assert lint(gradlint)[0] == 0


def test_pruning_accepts_nothing_new_and_keeps_the_old_number(gradlint, net, tmp_path):
    path = tmp_path / "gradlint-baseline.json"
    gradlint("baseline", "net.py", "--select", "GL201", "--reason", "known")
    before = path.read_text()
    net(STD * 2)
    gradlint("baseline", "--prune", "net.py", *FLAGS)
    assert path.read_text() == before
    gradlint("baseline", "net.py", *FLAGS, "--reason", "new")
    reasons = {entry["code"]: entry["reason"] for entry in json.loads(path.read_text())["findings"]}
    assert reasons == {"GL101": "new", "GL201": "known"}


def test_entries_of_what_was_not_analysed_stay(gradlint, net, tmp_path):
    (tmp_path / "other.py").write_text(MODEL.replace("STD", "1.0"))
    gradlint("baseline", "net.py", "other.py", *FLAGS)
    gradlint("baseline", "net.py", *FLAGS)
    path = tmp_path / "gradlint-baseline.json"
    assert {entry["target"] for entry in json.loads(path.read_text())["findings"]} == {"net.py:Net", "other.py:Net"}
    before = path.read_text()
    (tmp_path / "other.py").write_text("def (")
    done = gradlint("baseline", "other.py", *FLAGS)
    assert done.code == 2
    assert "its entries are as they were" in done.err
    assert path.read_text() == before


def test_a_target_is_known_from_other_folders_and_by_its_configured_name(gradlint, net, tmp_path, monkeypatch):
    (tmp_path / "gradlint.toml").write_text("")
    gradlint("baseline", "net.py", *FLAGS)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert gradlint("../net.py", *FLAGS).code == 0
    assert gradlint(tmp_path / "net.py", *FLAGS).code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 9, "findings": []}'])
def test_a_broken_baseline_is_refused(gradlint, net, tmp_path, text):
    (tmp_path / "gradlint-baseline.json").write_text(text)
    done = gradlint("net.py")
    assert done.code == 2
    assert "gradlint-baseline.json" in done.err


def make(module, measured, expected=1.0, severity=Severity.WARNING):
    evidence = {"quantity": "gain", "measured": measured, "expected": expected}
    place = Location("net.py", 1)
    return Finding("GL201", "init-variance", severity, Confidence.HIGH, "", place, "net.py:Net", module, evidence)


def accepted(*findings, root):
    found = baseline.fingerprinted(findings, (), root)
    return found, baseline.merged(found, (), {"net.py:Net"}, root)


def test_findings_that_look_alike_are_paired_by_module_then_by_size(tmp_path):
    _, entries = accepted(make("a", 4.0), make("b", 32.0), make("c", 8.0), root=tmp_path)
    assert len({entry.fingerprint for entry in entries}) == 3
    now, _ = accepted(make("x", 33.0), make("a", 4.1), make("y", 8.5), make("z", 2.0), root=tmp_path)
    counts, passes, stale = baseline.accept(now, entries, tmp_path / "b.json", {"net.py:Net"}, {"GL201"}, tmp_path)
    assert [finding.module for finding in counts] == ["z"]
    assert [finding.module for finding in passes] == ["x", "a", "y"]
    assert stale == []
    _, _, stale = baseline.accept(now[:1], entries, tmp_path / "b.json", {"net.py:Net"}, {"GL201"}, tmp_path)
    assert sorted(entry.module for entry in stale) == ["a", "c"]


@pytest.mark.parametrize(
    ("then", "now", "worse"),
    [
        (make("m", 10.0), make("m", 10.9), False),
        (make("m", 10.0), make("m", 11.1), True),
        (make("m", 0.1), make("m", 0.095), False),
        (make("m", 0.1), make("m", 0.09), True),  # below what it should be: smaller is worse
        (make("m", 0.1), make("m", 0.0), True),
        (make("m", 0.0), make("m", 0.0), False),
        (make("m", "many"), make("m", "more"), False),
        (make("m", "many"), make("m", "more", severity=Severity.ERROR), True),
    ],
)
def test_worse_is_a_tenth_further_from_what_it_should_be(tmp_path, then, now, worse):
    _, entries = accepted(then, root=tmp_path)
    found, _ = accepted(now, root=tmp_path)
    counts, passes, _ = baseline.accept(found, entries, tmp_path / "b.json", {"net.py:Net"}, {"GL201"}, tmp_path)
    assert (len(counts), len(passes)) == ((1, 0) if worse else (0, 1))


def test_a_file_is_read_as_it_was_written(tmp_path):
    _, entries = accepted(make("blocks.0.fc", 4.123456789), make("head", 0.0), root=tmp_path)
    baseline.write(tmp_path / "b.json", entries, "1.0")
    read = baseline.read(tmp_path / "b.json")
    assert [replace(entry, line=0) for entry in read] == [replace(e, measured=significant(e.measured)) for e in entries]
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert all('"reason"' in lines[entry.line - 1] for entry in read)
    assert [entry.module for entry in read] == ["blocks.*.fc", "head"]
