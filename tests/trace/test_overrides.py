"""Inputs that somebody says: by flag, by configuration, by an attribute of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradlint import lint
from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.errors import InputError, UsageError
from gradlint.trace import trace

SOURCE = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)
    def forward(self, x):
        return self.inner(x)

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 1)
    def forward(self, state, action):
        return self.inner(torch.cat([state, action], -1))
"""


class Batched(nn.Module):
    """Takes a batch with fields, and a state of two tensors."""

    def __init__(self):
        super().__init__()
        self.inner, self.cell = nn.Linear(5, 6), nn.LSTMCell(6, 7)

    def forward(self, batch, state):
        h, c = state
        return self.cell(self.inner(batch["image"]) * batch.weight[:, None], (h, c))


def shapes(traced):
    return {spec.name: spec.shape for spec in traced.inputs}


def test_fields_and_items_are_named_with_dots():
    given = ["batch.image:3,5", "batch.weight:3", "state.0:3,7", "state.1:3,7"]
    traced = trace(Batched, given)
    assert shapes(traced) == {"batch.image": (3, 5), "batch.weight": (3,), "state.0": (3, 7), "state.1": (3, 7)}
    assert traced.arguments.origin == "given"


def test_the_same_are_guessed():
    traced = trace(Batched)
    n = shapes(traced)["batch.weight"][0]
    assert shapes(traced) == {"batch.image": (n, 5), "batch.weight": (n,), "state.0": (n, 7), "state.1": (n, 7)}
    assert traced.arguments.origin == "guessed"


def test_what_is_not_given_is_guessed_to_suit_it():
    traced = trace(Batched, ["batch.image:9,5", "batch.weight:9"])
    assert shapes(traced) == {"batch.image": (9, 5), "batch.weight": (9,), "state.0": (9, 7), "state.1": (9, 7)}
    assert traced.arguments.origin == "guessed"


def test_what_is_given_is_never_changed():
    with pytest.raises(InputError, match=r"mat1 and mat2 shapes cannot be multiplied \(9x4 and 5x6\)"):
        trace(Batched, ["batch.image:9,4", "batch.weight:9", "state:2"])


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path / "nets.py"


@pytest.mark.parametrize("pattern", ["Critic", "nets.py:Critic", "*.py:Crit*"])
def test_configuration_gives_inputs_of_single_models(file, gradlint, pattern):
    (file.parent / "gradlint.toml").write_text(f'[inputs]\n"{pattern}" = ["state:3,5", "action:3,3"]\n')
    out = gradlint("nets.py", "-v").out
    assert "nets.py:Critic: state: float32[3, 5], action: float32[3, 3];" in out
    assert "nets.py:Encoder: x: float32[2, 6] (guessed)" in out


def test_a_flag_counts_more_than_the_table(file, gradlint):
    (file.parent / "gradlint.toml").write_text('[inputs]\nCritic = ["state:3,5", "action:3,3"]\n')
    out = gradlint("nets.py:Critic", "-v", "--input", "2,6", "--input", "2,2").out
    assert "state: float32[2, 6], action: float32[2, 2];" in out


def test_the_table_counts_more_than_what_is_for_every_model(file):
    settings = Settings(input=("7,6",), inputs={"Critic": ("2,5", "2,3")})
    report = lint_targets(["nets.py"], settings)
    assert [target.inputs[0] for target in report.targets] == ["x: float32[7, 6]", "state: float32[2, 5]"]
    assert lint(Batched, inputs=["batch.image:4,5"]).targets[0].inputs[0] == "batch.image: float32[4, 5]"


def test_unreadable_tables_are_refused(file, gradlint):
    (file.parent / "gradlint.toml").write_text('[inputs]\nCritic = ["state:3;5"]\n')
    done = gradlint("nets.py")
    assert (done.code, "cannot read the input 'state:3;5'" in done.err) == (2, True)
    (file.parent / "gradlint.toml").write_text('inputs = ["2,3"]\n')
    assert "expected a table of models and their inputs" in gradlint("nets.py").err
    with pytest.raises(UsageError, match="expected a list of strings"):
        Settings().updated({"inputs": {"Net": 3}}, "here")


class Offers(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(3, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x, y=None):
        return self.first(x) if y is None else self.first(x) + self.second(y)


@pytest.mark.parametrize("name", ["example_inputs", "example_input_array"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.ones(7, 4), {"x": (7, 4)}),
        ((torch.ones(7, 4), torch.ones(7, 3)), {"x": (7, 4), "y": (7, 3)}),
        ([torch.ones(6, 4)], {"x": (6, 4)}),
        ({"x": torch.ones(5, 4), "y": torch.ones(5, 3)}, {"x": (5, 4), "y": (5, 3)}),
        (lambda: torch.ones(8, 4), {"x": (8, 4)}),
        (None, {"x": (2, 4)}),
        ("no tensors", {"x": (2, 4)}),
    ],
)
def test_an_attribute_offers_inputs(name, value, expected):
    traced = trace(Offers(**{name: value}))
    assert shapes(traced) == expected
    assert traced.arguments.origin == ("guessed" if expected == {"x": (2, 4)} else name)


def test_given_inputs_count_more_than_an_attribute():
    assert shapes(trace(Offers(example_inputs=torch.ones(7, 4)), ["x:3,4"])) == {"x": (3, 4)}


def test_what_an_attribute_offers_is_not_replaced_by_a_guess():
    with pytest.raises(InputError, match="refuses the model's own example_inputs: RuntimeError: mat1") as caught:
        trace(Offers(example_inputs=torch.ones(7, 5)))
    assert "example_inputs" in caught.value.hint
    assert __file__ in caught.value.where
