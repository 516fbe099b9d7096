"""Settings: defaults, the nearest file, flags, and what makes no sense."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from gradlint.config import KINDS, Output, Settings, Training, configure, discover, misspelt, schema
from gradlint.errors import UsageError
from gradlint.findings import Confidence, Finding, Location, Severity


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
    assert found == Settings(("GL1",), ("GL102",), None, ("2,3",), ("json",), (Output(source.parent / "out.json"),))
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
        ("output-format = 3", "expected a list of strings, got 3"),
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


TARGETS = """
[[target]]
name = "small"
model = "model.py:build"
args = {width = 8}
input = "2,8"
ignore = ["GL2"]
max-gain = 30
train = {optimizer = "adamw", lr = 3e-4, clip = 1.0, precision = "bf16", weight-decay = 0}
"""


def test_a_target_has_settings_of_its_own():
    write("model.py", "")
    write("gradlint.toml", 'ignore = ["GL3"]\nmax-gain = 100\n' + TARGETS)
    found = configure()
    target = found.configured("small")
    assert target is not None
    assert target == found.configured("model.py:build")
    assert found.configured("other") is None
    assert (target.model, target.args) == ("model.py:build", {"width": 8})
    own = found.of(target)
    assert (own.input, own.max_gain, own.ignore) == (("2,8",), 30.0, ("GL3", "GL2"))
    assert own.train == Training("adamw", 3e-4, 0.0, 1.0, "bf16")
    assert found.of(None) is found


def test_what_is_given_stands_in_for_what_the_script_says():
    write("train.py", "opt = torch.optim.SGD(ps, lr=0.1)\nclip_grad_norm_(ps, 5.0)\nopt.step()\n")
    source = write("gradlint.toml", "training-script = 'train.py'\n[train]\nclip = 1.0\nprecision = 'fp16'\n")
    recipe = configure().recipe()
    assert [(clip.threshold.value, clip.location.path) for clip in recipe.clips] == [(1.0, str(source))]
    assert [(made.name, made.lr.value) for made in recipe.optimizers] == [("SGD", 0.1)]
    assert (recipe.precisions, recipe.trains) == (("fp16",), True)
    write("gradlint.toml", "[train]\noptimizer = 'sgd'\nlr = 0.2\n")
    recipe = configure().recipe()
    assert (recipe.trains, recipe.clips, recipe.optimizers[0].lr.value) == (True, (), 0.2)
    write("gradlint.toml", "training-script = 'missing.py'")
    with pytest.raises(UsageError, match=r"missing\.py: cannot be read"):
        configure().recipe()
    assert Settings().recipe() is None


def test_a_flag_counts_more_than_a_target_of_the_file():
    write("gradlint.toml", TARGETS)
    found = configure(flags={"max_gain": 5.0, "input": ("4,8",), "select": ("GL201",)})
    own = found.of(found.configured("small"))
    assert (own.max_gain, own.input, own.ignore) == (5.0, ("4,8",), ())


def test_paths_count_from_the_file_and_targets_are_named_from_here(monkeypatch):
    source = write("a/gradlint.toml", 'packs = "rules"\nbaseline = "accepted.json"\n' + TARGETS)
    write("a/model.py", "")
    found = configure(["a/model.py"])
    assert found.packs == (source.parent / "rules",)
    assert found.baseline == source.parent / "accepted.json"
    assert found.target[0].model == "a/model.py:build"
    monkeypatch.chdir("a")
    assert configure().target[0].model == "model.py:build"


def test_a_baseline_beside_the_file_is_taken():
    source = write("gradlint.toml", "")
    assert configure().baseline is None
    write("gradlint-baseline.json", "{}")
    assert configure().baseline == source.parent / "gradlint-baseline.json"
    assert configure(isolated=True).baseline is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[target]]\nname = 'a'", "target a: model is missing"),
        ("[[target]]\nmodel = 'a'", "target 1: name is missing"),
        ("[[target]]\nnane = 'a'", "unknown setting 'nane'; did you mean 'name'"),
        (TARGETS + TARGETS, "the name 'small' is used twice"),
        (TARGETS.replace("adamw", "rmsprob"), "did you mean 'rmsprop'"),
        (TARGETS.replace("max-gain = 30", "max-gain = 0"), "expected a positive number, got 0"),
        (TARGETS.replace("max-gain = 30", "select = 'GL1'"), "unknown setting 'select'"),
        ("target = 3", "expected [[target]] tables"),
        ("train = 3", "expected a table"),
        ("per-file-ignores = 3", "expected a table of patterns and codes"),
        ("max-gain = true", "expected a positive number, got True"),
        ("required-version = '0.1'", "expected a version specifier"),
        ("required-version = '>=999'\nno-such-key = 1", "requires gradlint >=999, this is"),
    ],
)
def test_more_that_makes_no_sense(text, message):
    write("gradlint.toml", text)
    with pytest.raises(UsageError) as error:
        configure()
    assert message in str(error.value)


def test_required_version_lets_this_one_pass():
    write("gradlint.toml", "required-version = '>=0.0.1,<999'")
    assert configure().required_version


def make(path="net.py", target="net.py:Net", module="encoder.layers.3", instances=(), code="GL101"):
    confidence, place = Confidence.HIGH, Location(path, 1)
    return Finding(code, "exploding-path", Severity.ERROR, confidence, "", place, target, module, instances=instances)


@pytest.mark.parametrize(
    ("table", "pattern", "finding", "dropped"),
    [
        ("per_file_ignores", "net.py", make(), True),
        ("per_file_ignores", "old/*.py", make("old/deep/net.py"), True),
        ("per_file_ignores", "old/*.py", make("new/net.py"), False),
        ("per_target_ignores", "Net", make(), True),
        ("per_target_ignores", "net.py:*", make(), True),
        ("per_target_ignores", "Other", make(), False),
        ("per_module_ignores", "encoder.layers.*", make(), True),
        ("per_module_ignores", "encoder.*", make(module="", instances=("encoder.a.weight", "encoder.{0…3}")), True),
        ("per_module_ignores", "encoder.*", make(module="", instances=("encoder.a.weight", "head")), False),
        ("per_module_ignores", "decoder.*", make(), False),
        ("per_module_ignores", "encoder.layers.*", make(code="GL301"), False),
    ],
)
def test_ignores_by_place(table, pattern, finding, dropped):
    assert replace(Settings(), **{table: {pattern: ("GL1",)}}).drops(finding) is dropped


def test_misspelt_variables_are_told():
    said = misspelt(["GRADLINT_SLECT", "GRADLINT_SELECT", "HOME"], {"GRADLINT_SELECT"})
    assert said == ["the environment variable GRADLINT_SLECT means nothing; did you mean 'GRADLINT_SELECT'?"]


class TestSchema:
    VALIDATOR = jsonschema.Draft202012Validator(schema())

    def test_it_describes_every_field_and_is_published(self):
        self.VALIDATOR.check_schema(schema())
        fields = {field.name for field in dataclasses.fields(Settings)} - {"source"}
        assert set(KINDS) == fields
        assert {key.replace("-", "_") for key in schema()["properties"]} == fields
        published = importlib.resources.files("gradlint.config") / "schema.json"
        assert json.loads(published.read_text("utf-8")) == schema()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            TARGETS,
            "select = 'GL1'",
            "select = ['GL1', 'GL2']",
            "slect = []",
            "select = 3",
            "select = [3]",
            "fail-on = 'eror'",
            "fail-on = 'never'",
            "preview = true",
            "preview = 1",
            "max-gain = 0",
            "max-gain = 2.5",
            "max-gain = '3'",
            "output-file = ['a.json', 'b.sarif']",
            "packs = ''",
            "[inputs]\nNet = '2,3'",
            "[inputs]\nNet = 3",
            "[per-module-ignores]\n'a.*' = ['GL1']",
            "[per-module-ignores]\n'a.*' = 1",
            "[train]\noptimizer = 'sgd'\nlr = 0.1",
            "[train]\nlr = 0",
            "[train]\nweight-decay = 0",
            "[train]\noptimiser = 'sgd'",
            "[[target]]\nname = 'a'",
            "[[target]]\nname = 'a'\nmodel = 'b'\nargs = {'not a name' = 1}",
            "[[target]]\nname = 'a'\nmodel = 'b'\nverify = true",
        ],
    )
    def test_it_accepts_what_the_settings_accept(self, text):
        write("gradlint.toml", text)
        try:
            configure()
        except UsageError:
            accepted = False
        else:
            accepted = True
        assert self.VALIDATOR.is_valid(tomllib.loads(text)) is accepted
