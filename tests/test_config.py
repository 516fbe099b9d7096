"""Settings: defaults, the nearest file, flags, and what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Settings, configure, discover
from gradlint.errors import UsageError
from gradlint.findings import Severity


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file.resolve()


def test_defaults_without_a_file():
    assert configure(["model.py"]) == Settings()


def test_every_setting_from_a_file():
    source = write(
        "pyproject.toml",
        '[tool.gradlint]\nselect = ["GL1"]\nignore = ["GL102"]\nfail-on = "never"\ninput = ["2,3"]\n'
        'output-format = "json"\noutput-file = "out.json"\n',
    )
    found = configure()
    assert found == Settings(("GL1",), ("GL102",), None, ("2,3",), "json", source.parent / "out.json")
    assert found.source == source


def test_steps_for_all_models_or_for_some():
    source = write("gradlint.toml", 'horizon = 200\ntraining-script = "train.py"\n[sequence-length]\n"*" = 50\nNet = 100\n')
    found = configure()
    assert (found.horizon_of("model.py:Net"), found.horizon_of("other")) == (200, 200)
    assert (found.sequence_length_of("model.py:Net"), found.sequence_length_of("other")) == (100, 50)
    assert found.training_script == source.parent / "train.py"
    assert configure(flags={"horizon": 7}).horizon_of("model.py:Net") == 7
    assert Settings().horizon_of("model.py:Net") is None


def test_flags_replace_the_file():
    write("gradlint.toml", 'fail-on = "error"\nignore = ["GL1"]')
    found = configure(flags={"fail_on": "info"})
    assert found.fail_on is Severity.INFO
    assert found.ignore == ("GL1",)


def test_who_selects_a_rule_gets_it_though_the_file_ignores_it():
    write("gradlint.toml", 'ignore = ["GL101"]')
    assert configure(flags={"select": ("GL101",)}).wants("GL101", "exploding-path")


def test_the_nearest_file_wins_and_one_without_the_table_is_passed_over():
    outer = write("gradlint.toml", "")
    write("a/pyproject.toml", "[tool.other]")
    inner = write("a/b/pyproject.toml", "[tool.gradlint]")
    write("a/b/c/model.py", "")
    write("a/model.py", "")
    assert discover(["a/b/c/model.py"]) == inner
    assert discover(["a/b/c/model.py:build"]) == inner
    assert discover(["a/model.py"]) == outer
    assert discover(["a/model.py", "a/b/c/model.py"]) == outer  # above both, whatever the order
    assert discover(["package.module:build"]) == outer


def test_isolated_reads_nothing_and_config_reads_that():
    write("gradlint.toml", 'fail-on = "error"')
    other = write("other.toml", 'fail-on = "info"')
    assert configure(isolated=True).fail_on is Severity.WARNING
    assert configure(config=other).fail_on is Severity.INFO


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slect = []", "unknown setting 'slect'; did you mean 'select'"),
        ("fail_on = 'error'", "unknown setting 'fail_on'; did you mean 'fail-on'"),
        ("fail-on = 'eror'", "did you mean 'error'"),
        ("select = 3", "expected a list of strings, got 3"),
        ("select = [3]", "expected a list of strings"),
        ("horizon = 0", "expected a positive number of steps, got 0"),
        ("[sequence-length]\nNet = 'x'", "Net: expected a positive number of steps"),
        ("output-format = 3", "expected a string, got 3"),
        ("select = [", "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(text, message):
    write("gradlint.toml", text)
    with pytest.raises(UsageError, match=r"gradlint\.toml") as error:
        configure()
    assert message in str(error.value)


def test_a_table_that_is_none_is_refused():
    write("pyproject.toml", "[tool]\ngradlint = 3")
    with pytest.raises(UsageError, match="must be a table"):
        configure()
    with pytest.raises(UsageError, match="has no"):
        configure(config=write("x/pyproject.toml", ""))


@pytest.mark.parametrize(
    ("select", "ignore", "wanted"),
    [
        ((), (), True),
        (("ALL",), (), True),
        (("GL1",), (), True),
        (("GL2",), (), False),
        (("exploding-path",), (), True),
        (("exploding",), (), False),  # a name is given whole
        ((), ("GL1",), False),
        (("GL101",), ("GL1",), True),  # the more specific one decides
        (("GL1",), ("GL101",), False),
        (("GL1",), ("GL1",), False),
        (("ALL",), ("GL",), False),
    ],
)
def test_the_more_specific_selector_decides(select, ignore, wanted):
    assert Settings(select=select, ignore=ignore).wants("GL101", "exploding-path") is wanted
