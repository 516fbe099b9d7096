"""What runs gradlint elsewhere: the hooks of pre-commit and the steps of the GitHub action, as far as they run here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gradlint.cli import cli

ROOT = Path(__file__).parent.parent
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
CONFIG = '[[target]]\nname = "net"\nmodel = "{model}.py"\n'


@pytest.fixture
def project(tmp_path):
    """A project with one model, the bad or the good one."""
    for name in ("bad", "good"):
        (tmp_path / f"{name}.py").write_text((ROOT / "fixtures" / "gl201" / f"{name}.py").read_text("utf-8"))
    return tmp_path


def environment(**more):
    path = os.pathsep.join([str(ROOT), str(ROOT / "rules")])
    return {**os.environ, "PYTHONPATH": path, **more}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hooks_are_what_pre_commit_expects(hook):
    assert {"id", "name", "entry", "language"} <= set(hook)
    assert hook["language"] == "python"
    assert hook["require_serial"]
    assert not hook["pass_filenames"]
    program, *args = shlex.split(hook["entry"])
    assert program == "gradlint"
    command = cli.commands[args[0] if args else "check"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(args[1:]) <= known


@pytest.mark.parametrize(("model", "code"), [("bad", 1), ("good", 0)])
def test_the_hook_blocks_a_bad_model_and_lets_a_good_one_pass(project, model, code):
    (project / "gradlint.toml").write_text(CONFIG.format(model=model))
    entry = shlex.split(HOOKS[0]["entry"])
    done = subprocess.run([sys.executable, "-m", *entry], cwd=project, env=environment(), capture_output=True, check=False)
    assert done.returncode == code


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="pre-commit takes hooks from a git repository")
def test_pre_commit_itself_blocks_the_bad_model_and_lets_the_good_one_pass(project):
    """In the environment that it makes for the hook, which has no torch."""
    (project / "gradlint.toml").write_text(CONFIG.format(model="bad"))
    variables = {"PRE_COMMIT_HOME": str(project.parent / "cache"), "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    env = {name: value for name, value in {**os.environ, **variables}.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command):
        return subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, check=False)

    revision = run("git", "-C", str(ROOT), "rev-parse", "HEAD").stdout.strip()
    repo = {"repo": str(ROOT), "rev": revision, "hooks": [{"id": "gradlint"}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [repo]}))
    assert run("git", "-c", "init.defaultBranch=main", "init", "--quiet", ".").returncode == 0
    assert run("git", "add", "-A").returncode == 0
    hook = (sys.executable, "-m", "pre_commit", "run", "--all-files")
    done = run(*hook)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "warning[GL201]" in done.stdout
    assert "exit code: 1" in done.stdout
    (project / "gradlint.toml").write_text(CONFIG.format(model="good"))
    assert run("git", "add", "-A").returncode == 0
    done = run(*hook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout


def step(project, **inputs):
    """The action's own step, with the values that GitHub would fill in."""
    given = {**{name: value.get("default", "") for name, value in ACTION["inputs"].items()}, **inputs}
    (main,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == "gradlint"]
    filled = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match[1]], value) for name, value in main["env"].items()
    }
    written = {name: str(project / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", main["run"]],  # noqa: S607 - as GitHub starts it
        cwd=project,
        env=environment(**filled, **written),
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_action_annotates_summarises_and_keeps_the_exit_code(project):
    done = step(project, targets="bad.py", python=sys.executable, **{"sarif-file": "out.sarif"})
    assert done.returncode == 1, done.stderr
    assert re.search(r"^::warning title=gradlint \(GL\d+ [\w-]+\),file=bad\.py,line=\d+", done.stdout, re.MULTILINE)
    assert "| rule | where |" in (project / "github_step_summary").read_text("utf-8")
    assert (project / "github_output").read_text("utf-8") == "exit-code=1\n"
    assert (project / "out.sarif").read_text("utf-8").startswith("{")


def test_what_the_user_gives_the_action_is_words_and_no_commands(project):
    done = step(project, targets="good.py", args="--fail-on never ; touch oops $(touch oops)", python=sys.executable)
    assert done.returncode == 2
    assert not (project / "oops").exists()


def test_the_snippets_of_the_documentation_can_be_read():
    text = (ROOT / "docs" / "ci.md").read_text("utf-8")
    local, github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[1:])
    (hook,) = local["repos"][0]["hooks"]
    assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("gradlint", "unsupported", False)
    (ours,) = [step for step in github["jobs"]["gradlint"]["steps"] if step.get("uses", "").startswith("gradlint/")]
    assert set(ours["with"]) <= set(ACTION["inputs"])
    for script in (gitlab["gradlint"]["script"], *re.findall(r"^gradlint .*?(?= \|)", text, re.MULTILINE)):
        with cli.commands["check"].make_context("check", shlex.split(script)[1:]) as context:
            assert context.params["output_file"] or context.params["output_format"]


def test_every_input_of_the_action_is_used():
    text = (ROOT / "action.yml").read_text("utf-8").partition("runs:\n")[2]
    for name in ACTION["inputs"]:
        assert f"inputs.{name}" in text, name
