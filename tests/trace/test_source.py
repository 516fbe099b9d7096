"""Lines: of calls, of constructions, of registrations."""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
from pathlib import Path
from typing import ClassVar

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
    place = traced.parameters["h.0.mlp.c_fc.weight"].law.location
    assert place.line == marked("library")
    assert "transformers" in place.library.path
    built = traced.modules["h.0.mlp.c_fc"].constructed
    assert (built.path, built.line) == (__file__, marked("library"))
    assert "self.c_fc = " in linecache.getline(built.library.path, built.library.line)
    called = traced.modules["h.0.mlp.c_fc"].called
    assert "self.c_fc(" in linecache.getline(called.path, called.line)
    first = next(node for node in traced.graph.nodes if node.op == "call_function")
    assert step(first).location.path.endswith("modeling_gpt2.py")


def make(width):
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(2)])  # made


class Mixin:
    def add(self, name, module):
        self.add_module(name, module)  # added


class Roundabout(Mixin, nn.Module):
    """Factories, partials, dictionaries of classes, a subclass of a layer, setattr, deepcopy, a decorated helper."""

    LAYERS: ClassVar = {"linear": nn.Linear}

    def __init__(self):
        super().__init__()
        self.made = make(8)
        block = functools.partial(nn.Linear, 8)
        self.part = block(8)  # part
        self.looked = self.LAYERS["linear"](8, 8)  # looked up
        self.own = Own(8)  # own
        setattr(self, "set", nn.Linear(8, 8))  # noqa: B010  # set
        self.add("added", nn.Linear(8, 8))  # inner
        self.copies = nn.ModuleList([copy.deepcopy(self.part) for _ in range(2)])  # copied
        self.mapped = nn.ModuleDict(dict(map(lambda name: (name, nn.Linear(8, 8)), "ab")))  # noqa: C417  # mapped

    def forward(self, x):
        x = self.made(x)  # through the list
        for copied in self.copies:
            x = self.helper(copied, x)
        parts = [self.part, self.looked, self.own, self.set, self.added]
        x = functools.reduce(lambda value, layer: layer(value), parts, x)  # reduced
        return sum(layer(x) for layer in self.mapped.values())  # summed

    def helper(self, layer, x):
        return layer(x)  # helper


class Own(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)  # drawn


def test_lines_are_found_through_factories_comprehensions_and_copies():
    traced = trace(Roundabout, (torch.zeros(2, 8),))
    built = {path: record.constructed.line for path, record in traced.modules.items() if path}
    assert {path for path, record in traced.modules.items() if path and record.constructed.path != __file__} == set()
    assert built["made.0"] == built["made.1"] == marked("made")
    assert built["part"] == marked("part")
    assert built["looked"] == marked("looked up")
    assert built["own"] == marked("own")
    assert built["set"] == marked("set")
    assert built["added"] == marked("inner")
    assert built["copies.0"] == built["copies.1"] == marked("copied")
    assert built["mapped.a"] == marked("mapped")
    called = {path: record.called.line for path, record in traced.modules.items() if path}
    assert called["made"] == called["made.0"] == marked("through the list")
    assert called["copies.1"] == marked("helper")
    assert called["own"] == called["added"] == marked("reduced")
    assert called["mapped.b"] == marked("summed")
    weights = {name: record.law.location.line for name, record in traced.parameters.items()}
    assert weights["made.1.weight"] == marked("made")
    assert weights["own.weight"] == marked("drawn")


def test_an_instance_built_before_has_no_lines_but_a_class():
    traced = trace(Net(), (torch.zeros(2, 4),))
    assert traced.modules["stem.0"].constructed is None
    assert traced.parameters["scale"].law.kind == "constant"
    assert traced.parameters["stem.0.weight"].law.kind == "values"
    assert traced.location.line == inspect.getsourcelines(Net)[1]
