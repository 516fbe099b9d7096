"""The plugin, in runs of pytest of their own, as a project would see it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gradlint.integrations.pytest import assert_stable

ROOT = Path(__file__).parent.parent.parent
pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester, monkeypatch):
    """A folder with the bad and the good model of a rule; returns how to run pytest there."""
    for name in ("bad", "good"):
        pytester.path.joinpath(f"{name}.py").write_text((ROOT / "fixtures" / "gl201" / f"{name}.py").read_text("utf-8"))
    # Whether or not gradlint is installed with its entry point: the plugin is named, and is there once.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'rules'}")
    return lambda *args: pytester.runpytest_subprocess("-p", "gradlint.integrations.pytest", *args)


def configured(folder, *models):
    tables = "".join(f'[[target]]\nname = "{model}"\nmodel = "{model}.py"\n' for model in models)
    (folder / "gradlint.toml").write_text(tables)


def test_the_entry_point_names_the_plugin():
    ((name, module),) = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pytest11"].items()
    assert name == "gradlint"
    assert importlib.import_module(module).assert_stable is assert_stable


def test_a_model_that_is_not_stable_fails_its_test_with_the_findings(project, pytester):
    pytester.makepyfile(
        """
        import bad, good

        MODEL = next(name for name, value in vars(bad).items() if getattr(value, "__module__", "") == "bad")

        def test_bad(assert_stable):
            assert_stable(getattr(bad, MODEL))

        def test_good(assert_stable):
            assert assert_stable(getattr(good, MODEL)).ok

        def test_what_was_not_asked_for_does_not_count(assert_stable):
            assert "GL201" in {finding.code for finding in assert_stable(getattr(bad, MODEL), fail_on="never").findings}

        def test_budget(assert_stable):
            assert_stable(getattr(good, MODEL), max_gain=1e-9, select=["GL190"])
        """
    )
    done = project("-p", "no:cacheprovider")
    done.assert_outcomes(passed=2, failed=2)
    done.stdout.fnmatch_lines(["*AssertionError: *[[]GL*", "*warning[[]GL201[]] init-variance: *", "*= help: *"])
    done.stdout.fnmatch_lines(["*error[[]GL190[]] budget-exceeded: *"])
    done.stdout.no_fnmatch_line("*gradlint/integrations/pytest.py:*")  # the traceback ends in the test


def test_models_of_the_configuration_are_tests(project, pytester):
    configured(pytester.path, "bad", "good")
    pytester.makepyfile("def test_of_its_own(): pass")
    project().assert_outcomes(passed=1)
    done = project("--gradlint")
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(["*warning[[]GL201[]] init-variance: *", "*--> bad.py:*", "FAILED gradlint::bad - *"])
    project("--gradlint", "-k", "good").assert_outcomes(passed=1, deselected=2)


def test_files_that_are_named_are_judged_in_place_of_the_configuration(project, pytester):
    configured(pytester.path, "bad")
    project("--gradlint", "good.py").assert_outcomes(passed=1)
    done = project("--gradlint", "good.py", "bad.py")
    done.assert_outcomes(passed=1, failed=1)
    pytester.path.joinpath("broken.py").write_text("import torch\nraise RuntimeError('at import')\n")
    done = project("--gradlint", "broken.py")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*failed[[]load[]] broken.py: *RuntimeError: at import*"])


def test_what_cannot_be_asked_is_an_error_of_usage_and_no_pass(project, pytester):
    done = project("--gradlint")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--gradlint: no file of models is named, and the configuration has no *target*"])
    pytester.path.joinpath("gradlint.toml").write_text("selct = []")
    done = project("--gradlint")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*gradlint: *selct*"])


def test_torch_is_not_imported_until_it_is_needed(project, pytester):
    pytester.makepyfile(
        """
        import sys

        def test_first():
            assert "gradlint.integrations.pytest" in sys.modules
            assert not {"torch", "numpy", "networkx", "rich", "gradlint.engine", "gradlint.config"} & sys.modules.keys()

        def test_with_the_fixture_unused(assert_stable):
            assert "torch" not in sys.modules
        """
    )
    project().assert_outcomes(passed=2)


def test_the_plugin_alone_costs_no_time_worth_mentioning():
    code = "import sys; before = set(sys.modules); import pytest, gradlint.integrations.pytest; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, cwd=ROOT)
    assert {name for name in done.stdout.split() if name.startswith("gradlint")} == {
        "gradlint", "gradlint._version", "gradlint.integrations", "gradlint.integrations.pytest",
    }  # fmt: skip
