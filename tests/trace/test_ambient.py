"""Nothing that user code does while it is loaded, built or run stays behind in the process or in the model."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.trace import trace
from gradlint.trace.ambient import ambient_kept
from gradlint.trace.private import global_hooks


def chdir(tmp_path):
    os.chdir(tmp_path)


SETTINGS = {
    "default dtype": (torch.get_default_dtype, lambda _: torch.set_default_dtype(torch.float64)),
    "default device": (lambda: str(torch.get_default_device()), lambda _: torch.set_default_device("meta")),
    "grad mode": (torch.is_grad_enabled, lambda _: torch.set_grad_enabled(False)),
    "anomaly mode": (torch.is_anomaly_enabled, lambda _: torch.set_anomaly_enabled(True)),
    "determinism": (torch.are_deterministic_algorithms_enabled, lambda _: torch.use_deterministic_algorithms(True)),
    "matmul": (torch.get_float32_matmul_precision, lambda _: torch.set_float32_matmul_precision("medium")),
    "matmul, the new way": (
        lambda: torch.backends.cuda.matmul.fp32_precision,
        lambda _: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ),
    "threads": (torch.get_num_threads, lambda _: torch.set_num_threads(torch.get_num_threads() + 1)),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda _: torch.set_autocast_enabled("cpu", True)),
    "cudnn benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda _: setattr(torch.backends.cudnn, "benchmark", True),
    ),
    "cudnn deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda _: setattr(torch.backends.cudnn, "deterministic", True),
    ),
    "warning filters": (lambda: list(warnings.filters), lambda _: warnings.filterwarnings("ignore", "what a model says")),
    "sys.path": (lambda: list(sys.path), lambda _: sys.path.insert(0, "elsewhere")),
    "sys.path itself": (lambda: id(sys.path), lambda _: setattr(sys, "path", [*sys.path])),
    "sys.argv": (lambda: list(sys.argv), lambda _: sys.argv.append("--train")),
    "recursion": (sys.getrecursionlimit, lambda _: sys.setrecursionlimit(54_321)),
    "working directory": (os.getcwd, chdir),
    "environment": (lambda: dict(os.environ), lambda _: os.environ.update(CUDA_VISIBLE_DEVICES="7")),
    "global hooks": (
        lambda: [dict(table) for table in global_hooks()],
        lambda _: nn.modules.module.register_module_forward_hook(lambda *_: None),
    ),
    "torch generator": (lambda: torch.get_rng_state().tolist(), lambda _: torch.manual_seed(11)),
    "numpy generator": (lambda: list(np.random.get_state()[1]), lambda _: np.random.seed(11)),  # noqa: NPY002
    "python generator": (random.getstate, lambda _: random.seed(11)),
}
GENERATORS = {name for name in SETTINGS if name.endswith("generator")}


@pytest.fixture(params=SETTINGS)
def setting(request, tmp_path):
    """A setting's name, how to read it and how to change it; put back by the test itself should it stay changed."""
    read, change = SETTINGS[request.param]
    with ambient_kept():
        yield request.param, read, lambda: change(tmp_path)


def test_every_change_is_one(setting):
    _, read, change = setting
    before = read()
    change()
    assert read() != before


def test_settings_are_put_back_by_the_block(setting):
    name, read, change = setting
    if name in GENERATORS:
        pytest.skip("restored by seeded()")
    before = read()
    with ambient_kept():
        change()
    assert read() == before


@pytest.mark.parametrize("moment", ["build", "forward"])
def test_settings_are_put_back_after_a_trace(setting, moment):
    name, read, change = setting
    if (name, moment) in {("default device", "build"), ("default device", "forward"), ("default dtype", "forward")}:
        pytest.skip("such a model cannot be run")

    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)
            if moment == "build":
                change()

        def forward(self, x):
            if moment == "forward":
                change()
            return self.inner(x)

    before = read()
    assert trace(Changes).inputs
    assert read() == before


def test_what_a_file_sets_holds_for_its_models_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(warnings, "filters", list(warnings.filters))
    (tmp_path / "double.py").write_text(
        "import os, torch\n"
        "from torch import nn\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.backends.cudnn.benchmark = True\n"
        "os.environ['MODE'] = 'training'\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Linear(3, 3)\n"
        "    def forward(self, x):\n"
        "        assert os.environ['MODE'] == 'training'\n"
        "        return self.inner(x + torch.ones(3)) @ torch.ones(3, 3)\n"
    )
    (tmp_path / "single.py").write_text(
        "import os\n"
        "from torch import nn\n"
        "assert 'MODE' not in os.environ\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Linear(3, 3)\n"
        "    def forward(self, x):\n"
        "        return self.inner(x)\n"
    )
    report = lint_targets([str(tmp_path / "double.py"), str(tmp_path / "single.py")], Settings())
    assert not report.failures
    assert [target.inputs for target in report.targets] == [("x: float64[2, 3]",), ("x: float32[2, 3]",)]
    assert torch.get_default_dtype() == torch.float32
    assert not torch.backends.cudnn.benchmark
    assert "MODE" not in os.environ


class Keeps(nn.Module):
    """Everything that a forward can change of its module."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.history, self.window, self.cache, self.seen = [], deque([0], maxlen=3), {}, set()
        self.memory = torch.zeros(4)
        self.register_buffer("count", torch.zeros(1))
        self.calls = 0
        self.drop.eval()

    def forward(self, x):
        self.calls += 1
        self.history.append(x)
        self.window.append(x)
        self.cache["x"], self.count[0] = x, self.count[0] + 1
        self.seen.add(self.calls)
        self.memory += 1
        self.inner.register_forward_hook(lambda *_: None, with_kwargs=True)
        self.norm.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
        self.drop.train()
        y = self.drop(self.norm(self.inner(x)))
        if torch.is_grad_enabled():
            y.sum().backward(retain_graph=True)
        self.inner.register_full_backward_hook(lambda *_: None)
        self.inner.bias.requires_grad_(False)
        return self.inner(y)


def test_the_model_is_as_it_was():
    model = Keeps()
    model.inner.weight.grad = torch.ones(4, 4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    trace(model, (torch.randn(8, 4),))
    for name, module in model.named_modules():
        assert list(vars(module)) == list(attributes[name])
        for attribute, value in attributes[name].items():
            assert vars(module)[attribute] is value, (name, attribute)
        assert not any(vars(module)[table] for table in vars(module) if "hook" in table and table.startswith("_"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (model.calls, model.history, list(model.window), model.cache, model.seen) == (0, [], [0], {}, set())
    assert model.memory.eq(0).all()
    assert model.inner.weight.grad.eq(1).all()
    assert model.inner.bias.grad is None
    assert model.inner.bias.requires_grad
    assert model.training
    assert not model.drop.training
