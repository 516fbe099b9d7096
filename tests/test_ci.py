"""What runs gradlint elsewhere: the hooks of pre-commit and the steps of the GitHub action, as far as they run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

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


def committing(project, **config):
    """A git repository with pre-commit installed in it; returns how to run a command there, as its user would."""
    bin_ = f"{sys.prefix}/bin"
    variables = {
        "PRE_COMMIT_HOME": str(project.parent / "cache"),
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        **{f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    env = {name: value for name, value in {**os.environ, **variables}.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command, **more):
        return subprocess.run(command, cwd=project, env={**env, **more}, text=True, capture_output=True, check=False)

    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    assert run("git", "-c", "init.defaultBranch=main", "init", "--quiet", ".").returncode == 0
    assert run(sys.executable, "-m", "pre_commit", "install").returncode == 0
    return run


def test_what_is_committed_is_checked_with_the_local_hook(project):
    """The snippet of the documentation, where gradlint is installed beside the project's torch."""
    _, local, *_ = snippets("yaml")
    run = committing(project, **yaml.safe_load(local))
    commit = partial(run, "git", "commit", "--quiet", "-m", "a model", PYTHONPATH=environment()["PYTHONPATH"])
    (project / "gradlint.toml").write_text(CONFIG.format(model="bad"))
    run("git", "add", "-A")
    done = commit()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "warning[GL201]" in done.stderr
    assert run("git", "rev-parse", "HEAD").returncode, "nothing was committed"
    (project / "gradlint.toml").write_text(CONFIG.format(model="good"))
    run("git", "add", "-A")
    done = commit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert run("git", "rev-parse", "HEAD").returncode == 0
    (project / "notes.txt").write_text("no model is made of this")
    (project / "gradlint.toml").write_text(CONFIG.format(model="missing"))  # would fail, and is not committed
    run("git", "add", "notes.txt")
    done = commit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no files to check" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="pre-commit takes hooks from a git repository")
def test_pre_commit_itself_blocks_the_bad_model_and_lets_the_good_one_pass(project):
    """In the environment that it makes for the hook, which has no torch."""
    (project / "gradlint.toml").write_text(CONFIG.format(model="bad"))
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()  # noqa: S607
    run = committing(project, repos=[{"repo": str(ROOT), "rev": revision, "hooks": [{"id": "gradlint"}]}])
    assert run("git", "add", "-A").returncode == 0
    hook = (sys.executable, "-m", "pre_commit", "run", "--all-files")
    done = run(*hook)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "warning[GL201]" in done.stdout
    assert "exit code: 1" in done.stdout
    packages = {path.name for path in (project.parent / "cache").glob("repo*/py_env-*/lib/python*/site-packages/*")}
    assert "gradlint" in packages
    assert "torch" not in packages
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


def test_the_action_installs_the_version_that_is_asked_for(tmp_path):
    (install,) = [step for step in ACTION["runs"]["steps"] if "pip install" in step["run"]]
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    env = {**os.environ, "PYTHON": str(python), "VERSION": ">=0.1,<0.2"}
    assert set(install["env"]) <= set(env)
    done = subprocess.run(["bash", "-e", "-c", install["run"]], env=env, text=True, capture_output=True, check=True)  # noqa: S607
    assert done.stdout.split("\n")[:-1] == ["-m", "pip", "install", "--quiet", "gradlint>=0.1,<0.2"]


def snippets(language):
    """The blocks of a language in the documentation, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "ci.md").read_text("utf-8"), re.DOTALL)


def shell(project, script, **programs):
    """Run a script in ``sh``, with ``gradlint`` and other programs on the path."""
    tools = project / "tools"
    tools.mkdir(exist_ok=True)
    for name, body in {"gradlint": f'exec {sys.executable} -m gradlint "$@"', **programs}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    command = ["/bin/sh", "-c", script]
    return subprocess.run(command, cwd=project, env=environment(PATH=path), text=True, capture_output=True, check=False)


@pytest.mark.parametrize(("model", "code"), [("bad", 1), ("good", 0), ("missing", 2)])
def test_the_job_of_gitlab(project, model, code):
    (project / "gradlint.toml").write_text(CONFIG.format(model=model))
    job = yaml.safe_load(snippets("yaml")[3])["gradlint"]
    done = shell(project, job["script"])
    assert done.returncode == code, done.stderr
    quality = json.loads((project / job["artifacts"]["reports"]["codequality"]).read_text("utf-8"))
    assert bool(quality) == bool(code)
    assert all(issue["location"]["path"] == "bad.py" for issue in quality if model == "bad")


@pytest.mark.parametrize(("model", "code"), [("bad", 0), ("good", 0), ("missing", 1)])
def test_the_steps_of_jenkins(project, model, code):
    """Findings make the build unstable, by its tests; what could not be done fails it."""
    (project / "gradlint.toml").write_text(CONFIG.format(model=model))
    (steps,) = snippets("groovy")
    (script,), (results,) = re.findall(r"^sh '(.*)'$", steps, re.MULTILINE), re.findall(r"^junit '(.*)'$", steps, re.MULTILINE)
    done = shell(project, script)
    assert done.returncode == code, done.stderr
    suites = ET.parse(project / results).getroot()
    assert bool(suites.findall(".//failure") + suites.findall(".//error")) == (model != "good")


def test_the_pipe_to_reviewdog(project):
    (project / "gradlint.toml").write_text(CONFIG.format(model="bad"))
    (script,) = [text for text in snippets("sh") if "reviewdog" in text]
    done = shell(project, script, reviewdog='echo "$1" >&2; cat')
    assert "GL201" in {diagnostic["code"]["value"] for diagnostic in json.loads(done.stdout)["diagnostics"]}
    assert done.stderr.splitlines()[-1] == "-f=rdjson"


def test_the_workflow_of_github_gives_the_action_what_it_takes():
    github = yaml.safe_load(snippets("yaml")[2])
    (ours,) = [step for step in github["jobs"]["gradlint"]["steps"] if step.get("uses", "").startswith("gradlint/")]
    assert set(ours["with"]) <= set(ACTION["inputs"])


def test_every_input_of_the_action_is_used():
    text = (ROOT / "action.yml").read_text("utf-8").partition("runs:\n")[2]
    for name in ACTION["inputs"]:
        assert f"inputs.{name}" in text, name
