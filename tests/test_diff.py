"""`gradlint diff` and `gradlint check --diff-base`: before and after, and only what is new fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import gradlint as library
from gradlint.changes import compare
from gradlint.facts import Coverage, DepthFacts, TargetReport
from gradlint.findings import Confidence, Finding, Report, Severity

MODEL = """
import torch.nn as nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(16)])
        for layer in self.layers:
            nn.init.normal_(layer.weight, std={std} * (2 / 64) ** 0.5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
"""
GOOD, BAD, WORSE = (MODEL.format(std=std) for std in (1.0, 2.0, 3.0))
SCHEMA = json.loads((Path(library.__file__).parent / "report" / "schema.json").read_text("utf-8"))
INPUT = ("--input", "4,64")


def git(*words):
    names = ("-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *names, *words], check=True, capture_output=True, text=True).stdout  # noqa: S607


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit: a good model, and a bad one that is known."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", ".")
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    git("add", "-A")
    git("commit", "--quiet", "-m", "first")
    return tmp_path


def test_what_was_there_does_not_fail_and_what_is_new_does(gradlint, repository):
    done = gradlint("check", "--diff-base", "HEAD", "bad.py", *INPUT)
    assert done.code == 0, done.err
    assert "1 kept" in done.out
    assert "as in HEAD" in done.out
    (repository / "good.py").write_text(WORSE)
    done = gradlint("check", "--diff-base", "HEAD", "bad.py", "good.py", *INPUT)
    assert done.code == 1
    assert "error[GL101]" in done.out
    row = next(line for line in done.out.splitlines() if line.startswith("good.py:Net"))
    assert re.fullmatch(r"good.py:Net +×1 → ×4\.3e7 +×1 → ×3 · 16 layers\.\* +never → \d blocks +\d new", row)


def test_what_is_fixed_is_told(gradlint, repository):
    (repository / "bad.py").write_text(GOOD)
    done = gradlint("check", "--diff-base", "HEAD", "bad.py", *INPUT)
    assert done.code == 0
    assert "1 fixed" in done.out
    assert "fixed error[GL101] bad.py:9" in done.out


def test_moved_lines_and_renamed_attributes_are_not_new(gradlint, repository):
    (repository / "bad.py").write_text("# moved\n\n\n" + BAD.replace("self.layers", "self.blocks"))
    done = gradlint("check", "--diff-base", "HEAD", "bad.py", *INPUT)
    assert done.code == 0, done.out


def test_a_file_that_was_not_there_is_new(gradlint, repository):
    (repository / "young.py").write_text(BAD)
    done = gradlint("check", "--diff-base", "HEAD", "young.py", "bad.py", *INPUT)
    assert done.code == 1
    assert "new model" in next(line for line in done.out.splitlines() if line.startswith("young.py:Net"))
    (repository / "older.py").write_text("import nothing_of_that_name\n")
    git("add", "-A")
    git("commit", "--quiet", "-m", "broken")
    (repository / "older.py").write_text(BAD)
    done = gradlint("check", "--diff-base", "HEAD", "older.py", *INPUT)
    assert done.code == 1
    assert "before:" in done.out
    assert "nothing_of_that_name" in done.out


def test_the_working_tree_the_index_and_the_references_are_as_they_were(gradlint, repository):
    (repository / "bad.py").write_text(WORSE)
    (repository / "staged.py").write_text(GOOD)
    git("add", "staged.py")
    (repository / "untracked.txt").write_text("mine")
    files = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    gradlint("check", "--diff-base", "HEAD", "bad.py", *INPUT)
    after = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert after == files


def test_the_folder_counts_and_so_do_whole_paths(gradlint, repository, monkeypatch):
    (repository / "inner").mkdir()
    git("mv", "bad.py", "inner/bad.py")
    git("commit", "--quiet", "-m", "moved")
    monkeypatch.chdir(repository / "inner")
    assert gradlint("check", "--diff-base", "HEAD", "bad.py", *INPUT).code == 0
    done = gradlint("check", "--diff-base", "HEAD", repository / "inner" / "bad.py", *INPUT)
    assert done.code == 0, done.out
    assert "1 kept" in done.out


def test_modules_of_the_project_are_those_of_the_revision(gradlint, repository, monkeypatch):
    """Also where the working tree is on Python's path, as an editable installation puts it there."""
    package = repository / "src" / "shapes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("STD = 2.0\n")
    (repository / "uses.py").write_text(
        BAD.replace("import torch.nn", "from shapes import STD\nimport torch.nn").replace("2.0", "STD")
    )
    git("add", "-A")
    git("commit", "--quiet", "-m", "package")
    (package / "__init__.py").write_text("STD = 1.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(repository / "src")
    done = gradlint("check", "--diff-base", "HEAD", "uses.py", *INPUT)
    assert done.code == 0, done.err
    assert "1 fixed" in done.out, "the revision's own module was used"


def test_a_revision_that_imports_the_working_tree_is_not_judged(gradlint, repository, monkeypatch):
    """Where a link leads out of the copy, there is no telling what the revision was."""
    (repository / "inner").mkdir()
    (repository / "inner" / "made.py").write_text(BAD)
    text = "import sys\nsys.path.insert(0, %r)\nfrom made import Net\n\ndef build():\n    return Net()\n"
    (repository / "outer.py").write_text(text % str(repository / "inner"))
    git("add", "-A")
    git("commit", "--quiet", "-m", "outer")
    done = gradlint("check", "--diff-base", "HEAD", "outer.py:build", *INPUT)
    assert done.code == 2
    assert "made.py of the working tree" in done.err


@pytest.mark.parametrize(
    ("revision", "told"),
    [("nowhere", "no revision 'nowhere'"), ("--help", "no revision '--help'"), ("", "no revision ''")],
)
def test_a_revision_that_is_not_there_exits_2(gradlint, repository, revision, told):
    done = gradlint("check", f"--diff-base={revision}", "bad.py", *INPUT)
    if revision:
        assert done.code == 2
        assert told in done.err
    else:
        assert done.code == 1, "an empty value is none"


def test_without_a_repository_or_without_git_it_exits_2(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(GOOD)
    done = gradlint("check", "--diff-base", "HEAD", "good.py", *INPUT)
    assert (done.code, done.out) == (2, "")
    assert "in no git repository" in done.err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs git" in gradlint("check", "--diff-base", "HEAD", "good.py", *INPUT).err


def test_formats_say_what_changed(gradlint, repository):
    (repository / "good.py").write_text(WORSE)
    outputs = ("-o", "json=r.json", "-o", "r.sarif", "-o", "r.md")
    assert gradlint("check", "--diff-base", "HEAD", "bad.py", "good.py", *INPUT, *outputs).code == 1
    document = json.loads((repository / "r.json").read_text("utf-8"))
    jsonschema.validate(document, SCHEMA)
    assert {f["target"] for f in document["findings"]} == {"good.py:Net"}
    assert {f["suppressed"] for f in document["suppressed"]} == {"base"}
    change = {target["name"]: target for target in document["changes"]["targets"]}["good.py:Net"]
    assert change["before"]["depths"][0]["critical"] is None or change["before"]["depths"][0]["critical"] > 16
    assert change["after"]["depths"][0]["critical"] < 16
    results = json.loads((repository / "r.sarif").read_text("utf-8"))["runs"][0]["results"]
    assert {result["baselineState"] for result in results} == {"new", "unchanged"}
    assert "| `good.py:Net` |" in (repository / "r.md").read_text("utf-8")


def test_two_files_are_compared_also_where_both_have_a_module_of_the_same_name(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, std in (("old", 1.0), ("new", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "spreads_of_net.py").write_text(f"STD = {std}\n")
        text = BAD.replace("import torch.nn", "from spreads_of_net import STD\nimport torch.nn").replace("2.0", "STD")
        (tmp_path / folder / "model.py").write_text(text)
    done = gradlint("diff", "old/model.py", "new/model.py", *INPUT)
    assert done.code == 1, done.err
    assert "1 new" in done.out
    assert gradlint("diff", "new/model.py", "old/model.py", *INPUT).code == 0
    assert gradlint("diff", "new/model.py", "new/model.py:Net", *INPUT).code == 0


def test_reports_that_were_written_are_compared_without_the_models(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("before", GOOD), ("after", BAD)):
        (tmp_path / "model.py").write_text(text)
        gradlint("model.py", *INPUT, "-o", f"json={name}.json")
    (tmp_path / "model.py").unlink()
    done = gradlint("diff", "before.json", "after.json", "--output-format", "json")
    assert done.code == 1, done.err
    document = json.loads(done.out)
    assert [f["code"] for f in document["targets"][0]["new"]] == ["GL101"]
    assert gradlint("diff", "after.json", "before.json").code == 0
    assert gradlint("diff", "after.json", "after.json").code == 0
    assert "| `model.py:Net` |" in gradlint("diff", "before.json", "after.json", "--output-format", "markdown").out
    (tmp_path / "broken.json").write_text('{"gradlint_version": "0", "schema_version": 1}')
    done = gradlint("diff", "broken.json", "after.json")
    assert done.code == 2
    assert "broken.json is no report" in done.err


def test_what_cannot_be_compared_exits_2(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(GOOD)
    assert gradlint("diff", "gone.py", "good.py", *INPUT).code == 2
    assert gradlint("diff", "good.py", "gone.py", *INPUT).code == 2


def target(name, gain=1.0):
    return TargetReport(
        name, None, (), "real", Coverage(1), gain, depths=(DepthFacts("layers.{}", 4, "exponential", gain, 4 * gain, 9),)
    )


def found(**changes):
    given = {
        "code": "GL101",
        "name": "exploding-path",
        "severity": Severity.WARNING,
        "confidence": Confidence.HIGH,
        "message": "it grows",
        "location": None,
        "target": "a.py:Net",
        "module": "layers.0",
        "evidence": {"quantity": "gain", "measured": 100.0, "expected": 1.0},
    }
    return Finding(**{**given, **changes})


def report(*findings, names=("a.py:Net",), fail_on=Severity.WARNING):
    return Report(tuple(map(target, names)), findings, fail_on=fail_on)


def states(old, new):
    changed = compare(old, new, "old", Path.cwd())
    (change,) = changed.changes.targets
    counts = {kind: len(getattr(change, kind)) for kind in ("new", "worse", "kept", "fixed")}
    return {kind: count for kind, count in counts.items() if count}, changed.exit_code


def test_what_got_worse_is_told_and_does_not_fail():
    worse = found(evidence={"quantity": "gain", "measured": 150.0, "expected": 1.0})
    assert states(report(found()), report(worse)) == ({"worse": 1}, 0)
    barely = found(evidence={"quantity": "gain", "measured": 105.0, "expected": 1.0})
    assert states(report(found()), report(barely)) == ({"kept": 1}, 0)


def test_what_fails_only_now_fails():
    """It was there as an information, which fails nothing."""
    assert states(report(found(severity=Severity.INFO)), report(found())) == ({"worse": 1}, 1)
    both = report(found(severity=Severity.WARNING)), report(found(severity=Severity.ERROR))
    assert states(*both) == ({"worse": 1}, 0)
    strict = replace(both[1], fail_on=Severity.ERROR)
    assert states(both[0], strict) == ({"worse": 1}, 1)


def test_one_more_of_the_same_is_new():
    second = found(module="head")
    assert states(report(found()), report(found(), second)) == ({"new": 1, "kept": 1}, 1)
    assert states(report(found(), second), report(found())) == ({"kept": 1, "fixed": 1}, 0)


def test_a_model_is_known_again_in_another_file_and_by_another_name():
    assert states(report(found()), report(found(target="b.py:Net"), names=("b.py:Net",))) == ({"kept": 1}, 0)
    assert states(report(found()), report(found(target="b.py:Other"), names=("b.py:Other",))) == ({"kept": 1}, 0)
    two = report(found(), names=("a.py:Net", "a.py:Critic"))
    now = report(found(target="b.py:Other"), names=("b.py:Other", "a.py:Critic"))
    assert compare(two, now, "old", Path.cwd()).exit_code == 1, "which became which is not known"


def test_a_model_that_is_gone_has_its_findings_fixed():
    changed = compare(report(found()), Report(), "old", Path.cwd())
    (change,) = changed.changes.targets
    assert change.after is None
    assert [f.code for f in change.fixed] == ["GL101"]
