"""LightningModules, by what they have: Lightning itself is not installed here."""

from __future__ import annotations

import textwrap

import pytest

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.load import load, recipe_of

MODULE = """
import torch
from torch import nn

class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.example_input_array = torch.zeros(5, 12)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch, batch_idx):
        raise RuntimeError("this was not to be run")
    def configure_optimizers(self):
        decay = 0.1
        return torch.optim.AdamW(self.parameters(), lr=3e-4, weight_decay=decay)

def warm_up(model):
    return torch.optim.SGD(model.parameters(), lr=7.0)
"""


@pytest.fixture
def built(tmp_path):
    def build(text=MODULE, name="lit.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return load(f"{path}:Lit")[0].build()

    return build


def test_its_optimisers_are_those_it_configures(built):
    recipe = recipe_of(built())
    [optimizer] = recipe.optimizers
    assert (optimizer.name, optimizer.lr.value, optimizer.weight_decay.value) == ("AdamW", 3e-4, 0.1)
    assert (optimizer.location.line, recipe.trains, recipe.clips) == (16, False, ())


def test_a_trainer_in_the_same_file_says_the_rest(built):
    recipe = recipe_of(
        built(MODULE + "\ndef main():\n    pl.Trainer(max_epochs=3, gradient_clip_val=0.5, precision='16-mixed')\n")
    )
    assert (recipe.trains, [clip.threshold.value for clip in recipe.clips], recipe.precisions) == (True, [0.5], ("fp16",))


def test_other_modules_say_nothing(built):
    assert recipe_of(built(MODULE.replace("training_step", "another_step"))) is None
    assert recipe_of(built(MODULE.replace("configure_optimizers", "optimizers"))) is None


def test_its_example_is_its_input(built, tmp_path):
    built()
    report = lint_targets([f"{tmp_path / 'lit.py'}:Lit"], Settings())
    [target] = report.targets
    assert "5, 12" in str(target.inputs)
    assert target.inputs_origin == "example_input_array"
