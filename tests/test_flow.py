"""What an analysis says of a whole model: zero gradients, sums over uses, coverage; and that it leaves no trace."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint


def normal(fan_in: int, fan_out: int, std: float, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out, bias=bias)
    nn.init.normal_(layer.weight, std=std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def rms(x: torch.Tensor | None) -> float:
    assert x is not None
    return float(x.detach().square().mean().sqrt())


# ---- numbers by hand --------------------------------------------------------------------------------------------------


def test_two_linear_layers_by_hand() -> None:
    analysis = gradlint.analyze(
        lambda: nn.Sequential(normal(64, 96, 0.25, bias=True), normal(96, 48, 0.5)), (torch.randn(40, 64),)
    )
    hidden = math.sqrt(64) * 0.25  # √fan_in · std
    back = math.sqrt(48) * 0.5  # √fan_out · std
    first, last = analysis.modules["0"], analysis.modules["1"]
    assert (first.rms, first.grad_rms) == pytest.approx((hidden, back))
    assert (last.rms, last.grad_rms) == pytest.approx((math.sqrt(96) * 0.5 * hidden, 1.0))
    gradients = {name: p.grad_rms for name, p in analysis.parameters.items()}
    assert gradients == pytest.approx(
        {
            "0.weight": math.sqrt(40) * back,  # a sum over 40 samples
            "0.bias": math.sqrt(40) * back,
            "1.weight": math.sqrt(40) * hidden,
        }
    )
    assert analysis.nodes[0].grad_rms == pytest.approx(math.sqrt(96) * 0.25 * back)


def test_parameters_carry_their_facts() -> None:
    analysis = gradlint.analyze(lambda: nn.Sequential(normal(64, 96, 0.25, bias=True)), (torch.randn(4, 64),))
    weight, bias = analysis.parameters["0.weight"], analysis.parameters["0.bias"]
    assert (weight.name, weight.shape, weight.rms) == ("0.weight", (96, 64), pytest.approx(0.25))
    assert "normal" in weight.init
    assert (bias.shape, bias.rms) == ((96,), 0.0)


def test_a_model_with_values_is_judged_by_them() -> None:
    layer = normal(64, 32, 1.0)
    with torch.no_grad():
        layer.weight.mul_(3 / rms(layer.weight))
    analysis = gradlint.analyze(layer, (torch.randn(16, 64),))
    assert analysis.parameters["weight"].rms == pytest.approx(3.0)
    assert analysis.modules[""].rms == pytest.approx(8 * 3.0, rel=0.01)


# ---- gradients that are zero ------------------------------------------------------------------------------------------


def test_a_bias_before_batch_norm_is_dead() -> None:
    analysis = gradlint.analyze(
        lambda: nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8)), (torch.randn(64, 32),)
    )
    gradients = {name: p.grad_rms for name, p in analysis.parameters.items()}
    assert gradients["0.bias"] < 1e-6 * gradients["0.weight"]
    assert all(g > 0.1 for name, g in gradients.items() if name != "0.bias")


@pytest.mark.parametrize("fused", [True, False])
def test_a_bias_of_the_keys_is_dead(fused: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.q(x), self.k(x), self.v(x)
            if fused:
                return F.scaled_dot_product_attention(q, k, v)
            return (q @ k.transpose(1, 2) / 8).softmax(-1) @ v

    analysis = gradlint.analyze(Attention, (torch.randn(4, 12, 64),))
    gradients = {name: p.grad_rms for name, p in analysis.parameters.items()}
    assert gradients["k.bias"] < 1e-6 * gradients["k.weight"]  # a softmax does not feel what is added to every score
    assert all(g > 0.1 for name, g in gradients.items() if name != "k.bias")


def test_an_unused_parameter_has_no_gradient() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    analysis = gradlint.analyze(Spare, (torch.randn(8, 16),))
    assert list(analysis.parameters) == ["used.weight", "used.bias", "spare.weight", "spare.bias"]
    assert [p.grad_rms == 0.0 for p in analysis.parameters.values()] == [False, False, True, True]
    assert "spare" not in analysis.modules  # never called


def test_a_frozen_parameter_has_no_gradient() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
        model[0].weight.requires_grad_(False)
        return model

    gradients = {name: p.grad_rms for name, p in gradlint.analyze(build, (torch.randn(8, 16),)).parameters.items()}
    assert gradients["0.weight"] == 0.0
    assert gradients["0.bias"] > 0.0


def test_no_gradient_flows_past_detach() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).detach())

    gradients = {name: p.grad_rms for name, p in gradlint.analyze(Cut, (torch.randn(8, 16),)).parameters.items()}
    assert gradients["first.weight"] == gradients["first.bias"] == 0.0
    assert gradients["last.weight"] > 0.0


# ---- gradients that meet ----------------------------------------------------------------------------------------------


class Pair(nn.Module):
    """Two layers of one shape, one weight or two."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.a, self.b = normal(64, 64, 0.2), normal(64, 64, 0.2)
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def test_the_uses_of_a_tied_weight_add_up() -> None:
    x = torch.randn(32, 64)
    apart = gradlint.analyze(lambda: Pair(tied=False), (x,)).parameters
    tied = gradlint.analyze(lambda: Pair(tied=True), (x,)).parameters
    assert list(tied) == ["a.weight"]
    assert tied["a.weight"].grad_rms ** 2 == pytest.approx(sum(p.grad_rms**2 for p in apart.values()), rel=1e-6)


def test_the_consumers_of_a_tensor_add_up() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = normal(64, 64, 0.3), normal(64, 64, 0.4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    source = gradlint.analyze(Fork, (torch.randn(8, 64),)).nodes[0]
    assert source.grad_rms == pytest.approx(math.sqrt(64) * 0.5)  # 0.3² + 0.4² = 0.5²


def test_only_the_first_output_has_a_cotangent() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    parameters = gradlint.analyze(Heads, (torch.randn(8, 16),)).parameters
    assert parameters["a.bias"].grad_rms == pytest.approx(math.sqrt(8))
    assert parameters["b.bias"].grad_rms == 0.0


def test_integers_carry_no_gradient() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.table(ids)

    analysis = gradlint.analyze(Words, (torch.randint(20, (4, 10)),))
    assert analysis.nodes[0].grad_rms in (None, 0.0)
    # 40 positions fall on 20 rows: two cotangents add up in each on average
    assert analysis.parameters["table.weight"].grad_rms == pytest.approx(math.sqrt(2), rel=0.02)


# ---- what no formula covers -------------------------------------------------------------------------------------------


class TwiceForwardThriceBack(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(_: Any, g: torch.Tensor) -> torch.Tensor:
        return 3 * g


class Behind(nn.Module):
    """A linear layer and one op behind it."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.layer = normal(32, 32, 0.2)
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(self.layer(x))


def logcumsumexp(x: torch.Tensor) -> torch.Tensor:
    return torch.logcumsumexp(x, 1)


def renorm(x: torch.Tensor) -> torch.Tensor:
    return torch.renorm(x, 2, 0, 1.0)


def custom(x: torch.Tensor) -> torch.Tensor:
    return TwiceForwardThriceBack.apply(x)


@pytest.mark.parametrize(("op", "name"), [(logcumsumexp, "logcumsumexp"), (renorm, "renorm"), (custom, "TwiceForwardThriceBack")])
def test_an_op_without_a_formula_is_sampled_and_counted(op: Any, name: str) -> None:
    analysis = gradlint.analyze(lambda: Behind(op), (torch.randn(64, 32),))
    assert analysis.coverage.sampled == {name: 1}
    assert analysis.coverage.opaque == {}
    assert (analysis.coverage.known, analysis.coverage.total) == (1, 2)
    torch.manual_seed(0)
    hidden = 0.2 * math.sqrt(32) * torch.randn(20_000, 32)
    hidden.requires_grad_(True)
    y = op(hidden)
    y.backward(torch.randn_like(y))
    assert analysis.modules[""].rms == pytest.approx(rms(y), rel=0.05)
    assert analysis.modules["layer"].grad_rms == pytest.approx(rms(hidden.grad), rel=0.05)


def test_a_custom_function_is_believed_both_ways() -> None:
    analysis = gradlint.analyze(lambda: Behind(custom), (torch.randn(64, 32),))
    layer, whole = analysis.modules["layer"], analysis.modules[""]
    assert layer.rms is not None
    assert whole.rms == pytest.approx(2 * layer.rms, rel=0.02)
    assert layer.grad_rms == pytest.approx(3.0, rel=0.02)


bound_before = TwiceForwardThriceBack.apply  # the usual way to name a custom function


def test_a_custom_function_bound_before_is_believed_too() -> None:
    facts = gradlint.analyze(lambda: Behind(bound_before), (torch.randn(64, 32),))
    assert facts.coverage.sampled == {"TwiceForwardThriceBack": 1}
    assert facts.modules["layer"].grad_rms == pytest.approx(3.0, rel=0.02)
    assert float(bound_before(torch.ones(1))) == 2.0  # and works as before


def test_a_fully_covered_model_says_so() -> None:
    coverage = gradlint.analyze(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (torch.randn(4, 8),)).coverage
    assert (coverage.known, dict(coverage.sampled), dict(coverage.opaque)) == (2, {}, {})
    assert str(coverage) == "covered 2 of 2 ops"


# ---- the analysis leaves no trace -------------------------------------------------------------------------------------


def everyday() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def numbers(analysis: gradlint.Analysis) -> list[Any]:
    return [
        [(p.rms, p.grad_rms) for p in analysis.parameters.values()],
        [(m.rms, m.grad_rms) for m in analysis.modules.values()],
        [(n.rms, n.grad_rms) for n in analysis.nodes],
    ]


@pytest.mark.parametrize("build", [everyday, lambda: Behind(logcumsumexp)], ids=["by formula", "sampled"])
def test_two_analyses_give_identical_numbers(build: Any) -> None:
    shape = (4, 3, 8, 8) if build is everyday else (4, 32)
    torch.manual_seed(1)
    first = gradlint.analyze(build, (torch.randn(shape),))
    torch.manual_seed(2)
    second = gradlint.analyze(build, (torch.randn(shape),))
    assert numbers(first) == numbers(second)


def test_a_real_model_gives_identical_numbers() -> None:
    model, x = everyday(), torch.randn(4, 3, 8, 8)
    assert numbers(gradlint.analyze(model, (x,))) == numbers(gradlint.analyze(model, (x,)))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = everyday().train(training)
    model[5].weight.grad = torch.ones(5, 8 * 36)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 3, 8, 8)
    given = x.clone()
    gradlint.analyze(model, (x,))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)  # running statistics too
    assert all(module.training is training for module in model.modules())
    assert torch.equal(model[5].weight.grad, torch.ones(5, 8 * 36))
    assert model[0].weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, given)
    assert x.grad is None


@pytest.mark.parametrize("whole", [True, False], ids=["module", "factory"])
def test_random_states_are_left_as_they_were(whole: bool) -> None:
    model = everyday() if whole else everyday
    x = torch.randn(4, 3, 8, 8)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the generator that user code draws from
    random.seed(3)
    states = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    gradlint.analyze(model, (x,))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
