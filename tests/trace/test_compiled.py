"""Code that no function mode sees into: compiled, scripted, transformed by ``torch.func``."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlint.trace import step, trace
from gradlint.trace.graph import op_name
from gradlint.trace.state import preserved, seeded

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.conv, self.batch = nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(8)

    def forward(self, x):
        if x.size(0) > 1:
            x = torch.relu(self.inner(x))
        x = self.batch(self.conv(x.unsqueeze(1)).squeeze(1)).add_(1.0)
        x[:, 0] = 0.5
        return torch.softmax(self.norm(x), dim=-1)


def gate(x):
    return x * torch.sigmoid(x)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.script = torch.jit.script(Body())
        self.traced = torch.jit.trace(nn.Linear(8, 8), torch.ones(2, 8))
        self.gate = torch.jit.script(gate)

    def forward(self, x):
        return self.traced(self.gate(self.script(self.first(x))))


class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body, self.last = nn.Linear(8, 8), torch.compile(Body()), nn.Linear(8, 8)
        self.last.compile()
        self.gate = torch.compile(gate)

    def forward(self, x):
        return self.last(self.gate(self.body(self.first(x))))


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.weights = nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8, 8) / 3)

    def forward(self, x):
        many = torch.vmap(lambda w: F.linear(self.inner(x), w).tanh())(self.weights)
        return torch.vmap(lambda row: self.inner(row).sum() * row)(x) + many.sum(0)


class Field(nn.Module):
    """The gradient of a scalar network, as physics-informed models and energy models take it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        slope = torch.vmap(torch.func.grad(lambda row: self.net(row).squeeze(-1)))(x)
        return slope + self.net(x)


@pytest.mark.parametrize("build", [Scripted, Compiled, Mapped, Field])
@pytest.mark.parametrize("ready", [False, True], ids=["factory", "instance"])
def test_the_graph_computes_what_the_model_computes(build, ready, replay):
    traced = trace(build() if ready else build, (X,))
    model = traced.model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9).add_(0.01)
    with seeded(), preserved(model), torch.compiler.set_stance("force_eager"):
        want = model(X * 0.8).detach()
    with seeded(), preserved(model), torch.no_grad():
        got = replay(traced, [X * 0.8])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert set(traced.parameters) == {name for name, _ in model.named_parameters()}
    calls = [node for node in traced.graph.nodes if node.op.startswith("call")]
    assert all(step(node).grad for node in calls)
    # By the names that users know, but for what has none.
    unnamed = {op_name(node) for node in calls if isinstance(node.target, torch._ops.OpOverload)}
    assert unnamed == ({"tanh_backward"} if build is Field else set())


def test_what_a_factory_scripts_stays_python():
    traced = trace(Scripted, (X,))
    assert not any(isinstance(module, torch.jit.ScriptModule) for module in traced.model.modules())
    assert traced.modules["script.norm"].called.path == __file__
    assert isinstance(torch.jit.script(nn.Linear(2, 2)), torch.jit.ScriptModule)


def test_a_scripted_model_is_left_as_it_was():
    model = torch.jit.script(Body()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, (X,))
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dynamo_is_not_imported_for_a_plain_model():
    code = (
        "import sys, torch; from torch import nn; from gradlint.trace import trace\n"
        "trace(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GRU(4, 4)), (torch.ones(3, 4),))\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Operators(nn.Module):
    """Aten operators called by name, as exported programs do."""

    def __init__(self):
        super().__init__()
        self.weight, self.scale, self.shift = (nn.Parameter(torch.randn(*s)) for s in ((8, 8), (8,), (8,)))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        aten = torch.ops.aten
        x = aten.linear.default(x, self.weight, self.shift)
        x = aten.batch_norm.default(x, self.scale, self.shift, self.mean, self.var, True, 0.1, 1e-5, False)
        y = aten.mul.Tensor(x, 2.0)
        aten.add_.Tensor(y, x)
        y = aten.relu(y)  # the overload is chosen by torch
        return aten.layer_norm.default(aten.slice.Tensor(y, 1, 0, 4), [4], self.scale[:4], None)


def test_operators_are_recorded_as_the_functions_they_stand_for():
    with preserved(model := Operators()):
        traced = trace(model, (X,))
    names = [op_name(n) for n in traced.graph.nodes if n.op.startswith("call")]
    assert names[:7] == ["linear", "batch_norm", "mul", "add", "relu", "getitem", "getitem"]
    assert names[-1] == "layer_norm"
    [norm] = [n for n in traced.graph.nodes if n.target is F.batch_norm]
    assert [a.target for a in norm.args[1:5]] == ["mean", "var", "scale", "shift"]
    interpreted = torch.fx.Interpreter(torch.fx.GraphModule(model, traced.graph)).run(X)
    with preserved(model):
        torch.testing.assert_close(interpreted[0] if isinstance(interpreted, tuple) else interpreted, model(X))
