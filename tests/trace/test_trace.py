"""What trace() promises besides the graph: the contract of its nodes, restored state, its errors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlint.errors import BuildError, TraceError
from gradlint.trace import step, trace
from gradlint.trace.graph import op_name


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.last, self.calls = nn.BatchNorm1d(4), nn.Linear(4, 4), None, 0
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.calls += 1
        self.last = x
        with torch.no_grad():
            self.inner.weight.clamp_(-0.1, 0.1)
        return self.drop(self.inner(self.norm(x)))


def test_everything_is_left_as_it_was():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is what must be restored
    model = Stateful().eval()
    model.norm.train()
    model.inner.bias.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: module.training for name, module in model.named_modules()}
    patched = nn.Module.__call__, nn.Module.__init__, torch.autograd.Function.__dict__["apply"].__func__.__code__, torch.compile
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with torch.no_grad():
        traced = trace(model)
        assert not torch.is_grad_enabled()
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.calls, model.last) == (0, None)
    assert torch.equal(model.inner.bias.grad, torch.ones(4))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    now = nn.Module.__call__, nn.Module.__init__, torch.autograd.Function.__dict__["apply"].__func__.__code__, torch.compile
    assert patched == now
    assert not nn.modules.module._global_module_registration_hooks
    assert any(node.target is F.dropout for node in traced.graph.nodes)


def test_state_is_restored_after_an_error_too():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.count = 0

        def forward(self, x):
            self.count += 1
            raise KeyError("no")

    model, call = Fails(), nn.Module.__call__
    with pytest.raises(TraceError, match="KeyError") as caught:
        trace(model, torch.zeros(2, 4))
    assert __file__ in caught.value.where
    assert model.count == 0
    assert nn.Module.__call__ is call


def test_defaults_that_a_model_sets_are_restored():
    class Sets(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            torch.set_default_dtype(torch.float64)

        def forward(self, x):
            torch.set_default_device("meta")
            return self.inner(x)

    trace(Sets, (torch.zeros(2, 4),))
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float32, "cpu")


def test_memory_that_was_never_written_is_zero_in_the_graph(replay):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            y = self.inner(x)
            out = y.new_empty(3, 2, 8)
            out[0, :, :4] = y
            out[1, :, 4:].copy_(y)
            return out + torch.empty(8) + torch.empty_like(out)

    poison = [torch.full((n,), float("nan")) for n in (48, 8, 48, 48)]
    del poison  # the allocator hands the same memory out again
    traced = trace(Joined, (torch.ones(2, 4),))
    constants = [step(node).value for node in traced.graph.nodes if node.op == "get_attr" and step(node).value is not None]
    assert all(bool((value == 0).all()) for value in constants)
    assert replay(traced, [torch.ones(2, 4)]).isfinite().all()


def test_tied_weights_are_one_node_with_both_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    traced = trace(Tied)
    assert list(traced.parameters) == ["table.weight"]
    assert traced.parameters["table.weight"].names == ("table.weight", "head.weight")
    assert [n.target for n in traced.graph.nodes if n.op == "get_attr"] == ["table.weight"]


def test_masks_and_ids_are_constants_with_values():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids):
            x = self.table(ids)
            keep = (ids != 0).float()[..., None]
            positive = x > 0
            return x * keep * positive + torch.arange(4.0)

    traced = trace(Masked)
    nodes = {node.name: node for node in traced.graph.nodes}
    assert step(nodes["ids"]).value is not None
    keep, positive = nodes["mul"].args[1], nodes["mul_1"].args[1]
    assert keep.op == "get_attr"
    assert step(keep).value.unique().tolist() in ([0.0, 1.0], [1.0])
    assert positive.target == "gt"
    assert step(positive).value.dtype == torch.bool
    assert not step(positive).floating


def test_in_place_calls_are_out_of_place_in_the_graph():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Hardtanh(inplace=True))
    traced = trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"][1:] == [F.relu, F.hardtanh]
    assert not any(n.kwargs.get("inplace") for n in traced.graph.nodes)
    assert traced.modules["0"].output == "linear"
    assert traced.modules["1"].output == "relu"


def test_recurrent_layers_are_leaves():
    traced = trace(lambda: nn.GRU(4, 8, batch_first=True))
    nodes = {n.name: n for n in traced.graph.nodes}
    leaf = next(n for n in nodes.values() if n.op == "call_module")
    assert leaf.target == ""
    assert traced.output == "getitem"
    assert step(nodes["getitem"]).shape == (2, 16, 8)


def test_grad_mode_is_kept_per_node():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                a = self.inner(x).relu()
            return a + self.inner(x).detach() + self.inner(x).tanh()

    traced = trace(Detached)
    grads = {node.name: step(node).grad for node in traced.graph.nodes}
    assert (grads["relu"], grads["detach"], grads["tanh"], grads["add_1"]) == (False, False, True, True)


def test_values_that_leave_torch_are_assumptions():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            y = self.inner(x)
            return y * 2 if y.sum() > 0 else y

    [note] = trace(Branches).assumptions
    assert note.startswith(f"{__file__}:")
    assert "bool() read a value" in note


def test_dropped_paths_carry_their_law():
    class DropPath(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            mask = x.new_empty(x.shape[0], 1).bernoulli_(0.75).div_(0.75)
            return x + self.inner(x) * mask

    traced = trace(DropPath)
    law = next(step(n).law for n in traced.graph.nodes if step(n).law is not None)
    assert (law.kind, law.mean) == ("bernoulli", 1.0)


def test_dead_code_is_dropped_but_module_outputs_stay():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aside = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            self.aside(x).exp()
            return self.main(x)

    traced = trace(Extra)
    names = [n.name for n in traced.graph.nodes]
    assert traced.modules["aside"].output in names
    assert "exp" not in names


def test_random_numbers_do_not_depend_on_the_caller():
    def values():
        return [p.law.mean for p in trace(lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU())).parameters.values()]

    torch.manual_seed(1)
    first = values()
    torch.manual_seed(2)
    assert values() == first


def test_errors():
    with pytest.raises(BuildError, match="ZeroDivisionError"):
        trace(lambda: 1 / 0)
    with pytest.raises(BuildError, match=r"expected an nn\.Module, got int"):
        trace(lambda: 3)

    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(3)

    with pytest.raises(TraceError, match="depends on its parameters or inputs"):
        trace(Constant)
    with pytest.raises(TraceError, match="meta device"):
        trace(nn.Linear(2, 2, device="meta"))


class Prints(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        print("running")  # noqa: T201
        return self.inner(x)


def test_what_a_model_prints_goes_to_stderr(capsys):
    trace(Prints, torch.zeros(2, 4))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "running\n")


def test_models_that_differentiate_in_forward():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            x = x.clone().requires_grad_()
            y = self.inner(x).tanh()
            [force] = torch.autograd.grad(y.sum(), x, create_graph=True)
            return y + force

    traced = trace(Force)
    assert torch.autograd.grad in [node.target for node in traced.graph.nodes]


class Dropped(nn.Module):
    """Layer drop, decided by torch or by Python."""

    def __init__(self, draw):
        super().__init__()
        self.layers, self.draw = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), draw

    def forward(self, x):
        for layer in self.layers:
            if not self.training or self.draw() > 0.3:
                x = layer(x).tanh()
        return x


def draws_of_torch():
    return torch.rand([])


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (draws_of_torch, "bool() read a random number"),
        (lambda: torch.rand(1).item(), "item() read a random number"),
        (random.random, "forward drew from random"),
        (np.random.rand, "forward drew from numpy.random"),
    ],
    ids=["bool", "item", "random", "numpy"],
)
def test_of_random_paths_the_one_that_runs_most_layers_is_judged(draw, said):
    traced = trace(lambda: Dropped(draw), (torch.zeros(2, 4),))
    assert {f"layers.{i}" for i in range(3)} <= traced.modules.keys()
    assert any(said in note and "only one outcome is followed" in note for note in traced.assumptions)


def test_random_numbers_that_decide_nothing_are_no_assumption():
    traced = trace(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.RReLU()), (torch.zeros(2, 4),))
    assert traced.assumptions == ()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_is_recorded_as_the_calls_it_is_made_of(kind, replay):
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = kind(6, 5)

        def forward(self, x):
            state = self.cell(x)
            return state[0] if isinstance(state, tuple) else state

    model, x = Once(), torch.randn(3, 6)
    traced = trace(model, (x,))
    names = [op_name(n) for n in traced.graph.nodes if n.op.startswith("call")]
    assert names.count("linear") == 2
    assert not any(name.endswith("_cell") for name in names)
    assert {step(n).module for n in traced.graph.nodes if op_name(n) == "linear"} == {"cell"}
    assert torch.allclose(replay(traced, (x,)), model(x), atol=1e-6)
