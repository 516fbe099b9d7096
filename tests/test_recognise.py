"""What is one function of one tensor is evaluated as one, however it is written; against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint

Function = Callable[[torch.Tensor], torch.Tensor]


class Applied(nn.Module):
    """A function as a model."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def swish_by_exp(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_by_pow(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def gelu_by_erf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def mish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tanh(F.softplus(x))


def skip_relu(x: torch.Tensor) -> torch.Tensor:
    return x + torch.relu(x)


def relu_twice(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.relu(x))


def relu_pair(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) - torch.relu(-x)


def leaky_by_clamp(x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x, min=0) + 0.1 * torch.clamp(x, max=0)


def tanh_residue(x: torch.Tensor) -> torch.Tensor:
    return x - torch.tanh(x)


def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def bell(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + x * x)


def sigmoid_slope(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def in_place(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y.mul_(torch.sigmoid(y))
    return y


def half_of_twice(x: torch.Tensor) -> torch.Tensor:
    return (x + x) / 2


def relu_by_mask(x: torch.Tensor) -> torch.Tensor:
    return x * (x > 0)


def relu_by_cast(x: torch.Tensor) -> torch.Tensor:
    return x * (x > 0).float()


def leaky_by_where(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def relu_by_zeros(x: torch.Tensor) -> torch.Tensor:
    return x.where(x > 0, torch.zeros_like(x))


def band(x: torch.Tensor) -> torch.Tensor:
    return x.masked_fill((x < -0.5) | ~(x <= 1.0), 0.3)


def nothing_masked(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x).masked_fill(torch.zeros(x.shape, dtype=torch.bool), -1e9)


def relu_by_assignment(x: torch.Tensor) -> torch.Tensor:
    y = x * 1.0
    y[y < 0] = 0.0
    return y


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x + (torch.round(x) - x).detach()


def rounded_by_data(x: torch.Tensor) -> torch.Tensor:
    return x + torch.round(x).data - x.data


def signed(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        jump = torch.sign(x) - torch.tanh(x)
    return torch.tanh(x) + jump


CONES = [
    relu_by_mask, relu_by_cast, leaky_by_where, relu_by_zeros, band, nothing_masked, relu_by_assignment, rounded,
    rounded_by_data, signed,
    swish, swish_by_exp, gelu_by_tanh, gelu_by_pow, gelu_by_erf, mish, skip_relu, relu_twice, relu_pair, leaky_by_clamp,
    tanh_residue, square, bell, sigmoid_slope, in_place, half_of_twice,
]  # fmt: skip


def rms(x: torch.Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def bits(predicted: float | None, measured: float) -> float:
    assert predicted is not None
    return math.log2(predicted / measured)


def measured(function: Function) -> tuple[float, float]:
    """Rms of the output and of the input's gradient."""
    generator = torch.Generator().manual_seed(0)
    x, cot = torch.randn(2, 1_000_000, generator=generator)
    x.requires_grad_(True)
    y = function(x)
    y.backward(cot)
    assert x.grad is not None
    return rms(y), rms(x.grad)


@pytest.mark.parametrize("function", CONES, ids=lambda f: f.__name__)
def test_one_function_of_one_tensor(function: Function) -> None:
    analysis = gradlint.analyze(Applied(function), (torch.randn(16, 32),))
    source, *_, result = analysis.nodes
    forward, gradient = measured(function)
    assert abs(bits(result.rms, forward)) < 0.05
    assert abs(bits(source.grad_rms, gradient)) < 0.05
    assert analysis.coverage.known == analysis.coverage.total


def test_the_inside_of_a_function_has_numbers_too() -> None:
    analysis = gradlint.analyze(Applied(swish), (torch.randn(16, 32),))
    gate = next(node for node in analysis.nodes if node.op == "sigmoid")
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert abs(bits(gate.rms, rms(torch.sigmoid(z)))) < 0.05
    assert gate.grad_rms == pytest.approx(1.0, rel=1e-3)  # ∂(x·s)/∂s = x


def test_branches_that_cancel_are_zero() -> None:
    analysis = gradlint.analyze(Applied(lambda x: x - x), (torch.randn(16, 32),))
    assert analysis.nodes[-1].rms == 0.0
    assert analysis.nodes[0].grad_rms == 0.0


def test_independent_branches_are_not_one_function() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.gate = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.value(x) * torch.sigmoid(self.gate(x))

    analysis = gradlint.analyze(Gated, (torch.randn(16, 64),))
    by_op = {node.op: node for node in analysis.nodes}
    value, gate = analysis.modules["value"].rms, by_op["sigmoid"].rms
    assert value is not None
    assert gate is not None
    assert analysis.nodes[-1].rms == pytest.approx(value * gate)


# ---- an activation before a maximum -----------------------------------------------------------------------------------


def convolved(activation: type[nn.Module], *, pooled_first: bool = False) -> nn.Module:
    tail = [nn.MaxPool2d(2), activation()] if pooled_first else [activation(), nn.MaxPool2d(2)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), *tail)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.LeakyReLU])
def test_an_activation_and_a_maximum_are_one_op(activation: type[nn.Module]) -> None:
    analysis = gradlint.analyze(lambda: convolved(activation), (torch.randn(8, 3, 18, 18),))
    torch.manual_seed(0)
    squares = torch.zeros(3)
    for _ in range(20):
        model = convolved(activation)
        x = torch.randn(8, 3, 18, 18, requires_grad=True)
        y = model(x)
        y.backward(torch.randn_like(y))
        assert x.grad is not None
        weight = model[0].weight.grad  # type: ignore[index,union-attr]
        squares += torch.tensor([rms(t) ** 2 for t in (y, x.grad, weight)]) / 20
    forward, gradient, weight_gradient = squares.sqrt().tolist()
    assert abs(bits(analysis.nodes[-1].rms, forward)) < 0.05
    assert abs(bits(analysis.nodes[0].grad_rms, gradient)) < 0.05
    assert abs(bits(analysis.parameters["0.weight"].grad_rms, weight_gradient)) < 0.07


def test_relu_commutes_with_a_maximum() -> None:
    before = gradlint.analyze(lambda: convolved(nn.ReLU), (torch.randn(8, 3, 18, 18),))
    after = gradlint.analyze(lambda: convolved(nn.ReLU, pooled_first=True), (torch.randn(8, 3, 18, 18),))
    assert abs(bits(before.nodes[-1].rms, after.nodes[-1].rms or 0.0)) < 0.05
    assert abs(bits(before.nodes[0].grad_rms, after.nodes[0].grad_rms or 0.0)) < 0.05


def test_a_squashing_function_is_no_norm() -> None:
    """``x|x|/(1 + |x|²)`` (capsules, Sabour et al. 2017): x over its length where x is large, far smaller where it is not."""

    class Squash(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            square = (x**2).sum(-1, keepdim=True)
            return square / (1 + square) * x / (square.sqrt() + 1e-8)

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    assert gradlint.analyze(Squash(), (torch.randn(8, 32),)).flowed.norms == {}
    assert len(gradlint.analyze(Root(), (torch.randn(8, 32),)).flowed.norms) == 1
