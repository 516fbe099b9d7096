"""Lines: of calls, of constructions, of registrations."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlint.trace import step, trace

LINES = Path(__file__).read_text().splitlines()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Linear(4, 8),  # first
            nn.ReLU(),
            nn.Linear(8, 8),  # second
        )
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))  # blocks
        self.scale = nn.Parameter(torch.ones(8))  # scale
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)  # encoder

    def forward(self, x):
        x = self.stem(x)  # call stem
        for block in self.blocks:
            x = x + F.gelu(block(x))  # residual
        return self.encoder(x) * self.scale  # head


def marked(text):
    return next(number for number, line in enumerate(LINES, 1) if line.endswith(f"# {text}"))


@pytest.fixture(scope="module")
def traced():
    return trace(Net, (torch.zeros(2, 4),))


def test_modules_know_the_line_that_constructed_them(traced):
    built = {path: record.constructed for path, record in traced.modules.items()}
    assert built["stem.0"].line == marked("first")
    assert built["stem.2"].line == marked("second")
    assert built["stem.2"].column == LINES[marked("second") - 1].index("nn.Linear") + 1
    assert built["blocks.1"].line == marked("blocks")
    assert built["blocks.1"].column == LINES[marked("blocks") - 1].index("nn.Linear") + 1
    assert built["encoder"].line == built["encoder.layers.0.linear1"].line == marked("encoder")
    assert {place.path for path, place in built.items() if path} == {__file__}


def test_parameters_know_the_line_that_registered_them(traced):
    assert traced.parameters["scale"].location.line == marked("scale")
    assert traced.parameters["stem.2.bias"].location.line == marked("second")
    assert traced.parameters["stem.2.bias"].law.location.line == marked("second")


def test_calls_know_their_line(traced):
    places = {node.name: step(node).location for node in traced.graph.nodes if node.op.startswith("call")}
    assert places["gelu"].line == places["add"].line == marked("residual")
    assert places["gelu"].column == LINES[marked("residual") - 1].index("F.gelu") + 1
    assert places["mul"].line == marked("head")
    assert places["linear"].line == marked("call stem")
    assert places["layer_norm"].line == marked("head")
    assert traced.modules["blocks.0"].called.line == marked("residual")


def test_nodes_know_their_module(traced):
    modules = {node.name: step(node).module for node in traced.graph.nodes}
    assert (modules["linear"], modules["linear_1"], modules["gelu"]) == ("stem.0", "stem.2", "")


def test_the_model_is_located_by_its_class(traced):
    assert traced.location.line == inspect.getsourcelines(Net)[1]


def test_library_models_show_the_line_that_made_them():
    transformers = pytest.importorskip("transformers")
    settings = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1}

    def build():
        return transformers.GPT2Model(transformers.GPT2Config(**settings))  # library

    traced = trace(build)
    assert traced.parameters["h.0.mlp.c_fc.weight"].law.location.line == marked("library")
    first = next(node for node in traced.graph.nodes if node.op == "call_function")
    assert step(first).location.path.endswith("modeling_gpt2.py")


def test_an_instance_built_before_has_no_lines_but_a_class():
    traced = trace(Net(), (torch.zeros(2, 4),))
    assert traced.modules["stem.0"].constructed is None
    assert traced.parameters["scale"].law.kind == "constant"
    assert traced.parameters["stem.0.weight"].law.kind == "values"
    assert traced.location.line == inspect.getsourcelines(Net)[1]
