"""The command line from the outside: exit codes, streams, formats, settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradlint.testing import SECTIONS

ROOT = Path(__file__).parent.parent
GOOD = """
import torch.nn as nn

print("hello from the model's file")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)
"""
BAD = """
import torch.nn as nn

def build():
    layers = []
    for _ in range(20):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=1.0)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
"""
INPUT = ("--input", "2,8")


@pytest.fixture
def good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


def test_clean_model_exits_0_and_says_what_it_was_run_on(gradlint, good):
    done = gradlint("good.py", *INPUT)
    assert done.code == 0
    assert "All checks passed! 1 model, covered 1 of 1 ops" in done.out
    assert "good.py:Net: x: float32[2, 8]" in done.out


def test_findings_exit_1_and_show_the_line(gradlint, bad):
    done = gradlint("check", "bad.py")
    assert done.code == 1
    assert "error[GL101] exploding-path" in done.out
    assert "--> bad.py:8:9" in done.out
    assert "Found " in done.out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--fail-on", "info"], 1),
        (["--fail-on", "never"], 0),
        (["--exit-zero"], 0),
        (["--fail-on", "error"], 1),
        (["--select", "GL4"], 0),
        (["--ignore", "GL1,GL2"], 0),
        (["--ignore", "exploding-path", "--ignore", "GL2"], 0),
    ],
)
def test_what_fails_the_run_is_the_users_choice(gradlint, bad, flags, code):
    assert gradlint("bad.py", *flags).code == code


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no target given"),
        (["check"], "no target given"),
        (["--fail-on", "bad", "x.py"], "'bad' is not one of"),
        (["--no-such-flag", "x.py"], "No such option"),
        (["--select", "GL999", "x.py"], "no rule is called 'GL999'"),
        (["--select", "exploding-paht", "x.py"], "did you mean 'exploding-path'"),
        (["--select", "GL101", "--ignore", "GL101", "x.py"], "leave no rule"),
        (["--input", "what?", "x.py"], "what?"),
        (["explain", "GL998"], "no rule is called 'GL998'"),
        (["explain"], "Missing argument"),
        (["--config", "missing.toml", "x.py"], "does not exist"),
    ],
)
def test_usage_errors_exit_2(gradlint, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = gradlint(*args)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err


@pytest.mark.parametrize(
    ("source", "stage"),
    [
        (None, "load"),
        ("def (", "load"),
        ("import no_such_module", "load"),
        ("raise SystemExit(0)", "load"),
        ("x = 1", "load"),
        ("import torch.nn as nn\ndef build():\n    raise ValueError('no')", "build"),
        ("import torch.nn as nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.nope", ""),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--exit-zero"]])
def test_what_cannot_be_analysed_is_a_failure_and_the_others_go_on(gradlint, good, tmp_path, source, stage, flags):
    if source is not None:
        (tmp_path / "broken.py").write_text(source)
    done = gradlint("broken.py", "good.py", "--output-format", "json", *INPUT, *flags)
    assert done.code == 2
    report = json.loads(done.out)
    assert [target["name"] for target in report["targets"]] == ["good.py:Net"]
    (failure,) = report["failures"]
    assert failure["target"].startswith("broken.py")
    assert stage in failure["stage"]
    text = gradlint("broken.py", *flags)
    assert text.code == 2
    assert "1 target could not be analysed" in text.out.lower()
    assert "passed" not in text.out


def test_what_the_model_prints_does_not_reach_stdout(gradlint, good):
    good.write_text(GOOD + "\nimport os\nos.system('echo from below')\n")
    done = gradlint("good.py", "--output-format", "json", *INPUT)
    assert json.loads(done.out)["ok"]
    assert "hello from the model's file" in done.err
    assert "from below" in done.err


def test_a_crash_of_gradlint_exits_2_with_one_line(gradlint, good, monkeypatch):
    monkeypatch.setattr("gradlint.worker.protocol.configure", lambda *args, **kwargs: 1 / 0)
    done = gradlint("good.py")
    assert done.code == 2
    assert done.err.startswith("gradlint: internal error: ZeroDivisionError")
    assert "Traceback" not in done.err
    assert "Traceback" in gradlint("good.py", "-v").err


def test_a_crash_in_the_analysis_is_a_failure_of_that_model(gradlint, good, monkeypatch):
    monkeypatch.setattr("gradlint.pipeline.propagate", lambda traced: 1 / 0)
    done = gradlint("good.py", *INPUT)
    assert done.code == 2
    assert "failed[analyse] good.py:Net: the analysis failed: ZeroDivisionError" in done.out


def test_a_crash_of_a_rule_is_a_failure_and_the_other_rules_are_heard(gradlint, bad, monkeypatch):
    from gradlint.packs import load_rules

    broken = next(rule for rule in load_rules().rules if rule.code == "GL201")
    monkeypatch.setattr(type(broken), "check", lambda self, context: 1 / 0)
    done = gradlint("bad.py", "--output-format", "json")
    report = json.loads(done.out)
    assert done.code == 2
    assert "rule GL201 failed" in report["failures"][0]["message"]
    assert sorted(finding["code"] for finding in report["findings"]) == ["GL101", "GL903"]


def test_a_crash_of_a_rule_names_what_it_was_looking_at(gradlint):
    path = ROOT / "fixtures" / "gl903" / "bad.py"
    report = json.loads(gradlint(path, "--output-format", "json", "--select", "BX101,GL903").out)
    (finding,) = report["findings"]
    assert finding["evidence"]["rule"] == "BX101"
    assert finding["evidence"]["node"] == "conv.weight"
    assert finding["evidence"]["error"].startswith("ValueError: too many values to unpack")
    assert finding["evidence"]["where"].endswith("bx101_zero_width.py:16")
    assert finding["location"]["line"] == 7
    assert report["exit_code"] == 2


def test_ctrl_c_exits_130(gradlint, good, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradlint.engine.lint_targets", interrupted)
    assert gradlint("good.py").code == 130


def test_output_file_gets_the_report_and_stdout_nothing(gradlint, bad, tmp_path):
    done = gradlint("bad.py", "-o", "out.txt", "--output-format", "concise")
    assert done.code == 1
    assert done.out == ""
    assert (tmp_path / "out.txt").read_text("utf-8").startswith("bad.py:8:9: GL101 error ")
    assert gradlint("bad.py", "-o", "no/such/folder.txt").code == 2


def test_several_outputs_at_once_are_the_same_bytes_every_time(gradlint, bad, tmp_path):
    names = ["a.sarif", "b.json", "c.xml", "d.md", "e.jsonl", "quality.json"]
    flags = [flag for name in (*names[:-1], "gitlab=quality.json", "github=-") for flag in ("-o", name)]
    seen = []
    for _ in range(2):
        done = gradlint("bad.py", *flags)
        assert done.code == 1
        seen.append([(tmp_path / name).read_bytes() for name in names] + [done.out])
    assert seen[0] == seen[1]
    sarif = json.loads(seen[0][0])["runs"][0]
    assert [result["ruleId"] for result in sarif["results"]] == ["GL101", "GL201"]
    assert "## When to ignore it" in sarif["tool"]["driver"]["rules"][0]["help"]["markdown"]
    hops = sarif["results"][0]["codeFlows"][0]["threadFlows"][0]["locations"]
    assert len(hops) == 40
    total = json.loads(seen[0][1])["targets"][0]["gain_log2"]
    assert hops[-1]["location"]["message"]["text"].endswith(f"×{2**total:.3g} so far")


def test_quiet_prints_nothing_for_a_clean_model(gradlint, good):
    assert gradlint("good.py", "-q", *INPUT).out == ""


def test_configuration_is_read_and_flags_replace_it(gradlint, bad, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.gradlint]\nignore = ["GL"]\nselect = ["GL4"]\n')
    assert gradlint("bad.py").code == 0
    assert gradlint("bad.py", "--select", "GL101").code == 1
    assert gradlint("bad.py", "--isolated").code == 1


def test_every_setting_has_a_twin_in_the_environment(gradlint, bad, monkeypatch):
    monkeypatch.setenv("GRADLINT_SELECT", "GL4,GL301")
    assert gradlint("bad.py").code == 0
    assert gradlint("bad.py", "--select", "GL101").code == 1
    monkeypatch.setenv("GRADLINT_FAIL_ON", "eror")
    done = gradlint("bad.py")
    assert (done.code, done.out) == (2, "")
    monkeypatch.setenv("GRADLINT_FAIL_ON", "never")
    monkeypatch.setenv("GRADLINT_SLECT", "GL1")
    done = gradlint("bad.py", "--select", "GL101")
    assert done.code == 0
    assert done.err.startswith("gradlint: the environment variable GRADLINT_SLECT means nothing; did you mean 'GRADLINT_SELECT'?")


def test_every_key_of_the_file_that_is_no_table_has_a_flag_and_a_twin():
    from gradlint.cli.check import check
    from gradlint.cli.options import TWINS
    from gradlint.config import KINDS, schema

    tables = {key.replace("-", "_") for key, what in schema()["properties"].items() if what.get("type") in ("object", "array")}
    keys = set(KINDS) - tables - {"required_version"}
    assert keys <= {parameter.name for parameter in check.params}
    assert keys <= {twin.removeprefix("GRADLINT_").lower() for twin in TWINS}


CONFIGURED = """
[[target]]
name = "wide"
model = "bad.py:build"
args = {depth = 2}
max-gain = 3
ignore = ["GL2"]

[[target]]
name = "deep"
model = "bad.py:build"
"""


def test_without_targets_those_of_the_configuration_are_checked(gradlint, bad, tmp_path):
    bad.write_text(BAD.replace("build()", "build(depth=20)").replace("range(20)", "range(depth)"))
    (tmp_path / "gradlint.toml").write_text(CONFIGURED)
    report = json.loads(gradlint("--output-format", "json").out)
    assert [(target["name"], len(target["parameters"])) for target in report["targets"]] == [("wide", 4), ("deep", 40)]
    assert {(finding["code"], finding["target"]) for finding in report["findings"]} == {
        ("GL190", "wide"),
        ("GL101", "deep"),
        ("GL201", "deep"),
    }
    report = json.loads(gradlint("wide", "--output-format", "json", "--max-gain", "100").out)
    assert [target["name"] for target in report["targets"]] == ["wide"]
    assert report["ok"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{dept = 2}", "build takes no argument 'dept'"),
        ("{depth = 2, width = 'x'}", "raised TypeError"),
        ("{}", "build needs arguments: depth"),
    ],
)
def test_arguments_of_a_target_that_do_not_fit_are_told(gradlint, bad, tmp_path, args, message):
    bad.write_text(BAD.replace("build()", "build(depth, width=64)").replace("64, 64", "64, width"))
    (tmp_path / "gradlint.toml").write_text(f'[[target]]\nname = "a"\nmodel = "bad.py:build"\nargs = {args}\n')
    done = gradlint()
    assert done.code == 2
    assert message in done.out


def test_color_is_off_without_a_terminal_and_on_when_asked(gradlint, good):
    assert "\x1b[" not in gradlint("good.py", *INPUT).out
    assert "\x1b[" in gradlint("good.py", "--color", "always", *INPUT).out


def test_files_with_the_same_text_are_told_apart(gradlint, bad, tmp_path):
    (tmp_path / "copy.py").write_text(BAD)
    report = json.loads(gradlint("bad.py", "copy.py", "--select", "GL101", "--output-format", "json").out)
    assert [finding["location"]["path"] for finding in report["findings"]] == ["bad.py", "copy.py"]


def test_the_same_bytes_every_time(gradlint, bad):
    first, second = (gradlint("bad.py", "--output-format", "json").out for _ in range(2))
    assert first == second


def test_explain_prints_the_docstring_by_code_and_by_name(gradlint):
    by_code = gradlint("explain", "gl101")
    assert by_code.code == 0
    assert by_code.out.startswith("# GL101 exploding-path")
    assert "## When to ignore it" in by_code.out
    assert gradlint("explain", "exploding-path").out == by_code.out


def test_explain_as_json_has_every_section(gradlint):
    found = json.loads(gradlint("explain", "exploding-path", "--output-format", "json").out)
    assert (found["code"], found["name"], found["severity"], found["preview"]) == ("GL101", "exploding-path", "error", False)
    assert list(found["sections"]) == list(SECTIONS)
    assert all(found["sections"].values())
    assert found["markdown"] == gradlint("explain", "GL101").out.rstrip("\n")


def test_rules_lists_every_rule(gradlint):
    table = gradlint("rules").out
    rows = json.loads(gradlint("rules", "--output-format", "json").out)
    assert {"code", "name", "severity", "preview", "summary", "pack"} == set(rows[0])
    assert all(row["code"] in table and row["name"] in table for row in rows)


def test_version(gradlint):
    from gradlint import __version__

    assert gradlint("--version").out == f"gradlint {__version__}\n"


def test_help_and_import_need_no_torch():
    code = (
        "import sys, gradlint, gradlint.cli, gradlint.config, gradlint.findings\n"
        "try: gradlint.cli.main(['check', '--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert gradlint.Severity.ERROR and 'torch' not in sys.modules and 'networkx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_closed_pipe_is_not_a_pass(good):
    command = f"{sys.executable} -m gradlint rules --output-format json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)  # noqa: S607
    assert done.stdout.strip() in ("0", "2")
    assert "Traceback" not in done.stderr


def test_python_api(good):
    from torch import nn

    import gradlint

    report = gradlint.lint(lambda: nn.Linear(8, 8), ["2,8"])
    assert report.ok
    assert report.exit_code == 0
    analysis = gradlint.analyze(nn.Linear(8, 8), ["2,8"])
    assert analysis.parameters["weight"].grad_rms > 0
    with pytest.raises(gradlint.BuildError):
        gradlint.lint(lambda: 1)
    with pytest.raises(gradlint.UsageError, match="did you mean 'select'"):
        gradlint.lint(nn.Linear(8, 8), ["2,8"], selct=["GL1"])
    with pytest.raises(AttributeError):
        _ = gradlint.no_such_name
    assert gradlint.__all__ == sorted(gradlint.__all__)
    assert all(getattr(gradlint, name) is not None for name in gradlint.__all__)
