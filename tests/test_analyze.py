"""``gradlint.analyze``: facts that a user can check by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.paths import find_paths


def linear(n: int, m: int, std: float, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(n, m, bias=bias)
    nn.init.normal_(layer.weight, std=std)
    return layer


def test_a_linear_layer_is_its_formula() -> None:
    # y = W x, 32 samples, fan-in 100, fan-out 50, s = 0.2
    facts = gradlint.analyze(lambda: nn.Sequential(linear(100, 50, 0.2)), ["32,100"])
    assert facts.modules["0"].rms == pytest.approx(0.2 * math.sqrt(100))  # √(n s²)
    assert facts.parameters["0.weight"].grad_rms == pytest.approx(math.sqrt(32))  # Σ over samples of g x
    assert facts.nodes[0].grad_rms == pytest.approx(0.2 * math.sqrt(50))  # √(m s²)


def test_two_analyses_give_the_same_numbers_and_touch_nothing() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first, second = (gradlint.lint(model, (torch.zeros(8, 16),)).to_dict() for _ in range(2))
    assert first == second
    assert torch.equal(rng, torch.get_rng_state())
    assert not model.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("std", [1e-4, 1e-8, 1e-12])
def test_a_norm_of_next_to_nothing_divides_by_its_epsilon(std: float) -> None:
    facts = gradlint.analyze(lambda: nn.Sequential(linear(64, 32, std / 8), nn.BatchNorm1d(32)), ["64,64"])
    assert facts.modules["1"].rms == pytest.approx(std / math.sqrt(std**2 + 1e-5), rel=0.02)
    assert facts.modules["0"].grad_rms == pytest.approx(1e-5**-0.5, rel=0.02)


def test_a_bias_in_front_of_a_norm_is_dead() -> None:
    facts = gradlint.analyze(lambda: nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU()), ["32,16"]).parameters
    assert facts["0.bias"].grad_rms < 1e-3 * facts["0.weight"].grad_rms


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(8, 8)
        self.idle = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logcumsumexp(self.used(x), 1)


def test_an_unused_parameter_has_no_gradient_and_an_unknown_op_is_sampled_and_counted() -> None:
    facts = gradlint.analyze(Unused, ["4,8"])
    assert facts.parameters["idle.weight"].grad_rms == 0.0
    assert facts.parameters["used.weight"].grad_rms > 0.0
    assert facts.coverage.sampled == {"logcumsumexp": 1}
    assert facts.coverage.opaque == {}


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


class GELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


class Kink(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(x)


@pytest.mark.parametrize(("cone", "function"), [(Swish, F.silu), (GELU, F.gelu), (Kink, lambda x: x + torch.relu(x))])
def test_a_hand_written_activation_is_one_function(cone: type[nn.Module], function: object) -> None:
    facts = gradlint.analyze(lambda: nn.Sequential(linear(64, 64, 0.125), cone()), ["8,64"])
    z = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = function(z)  # type: ignore[operator]
    (slope,) = torch.autograd.grad(y.sum(), z)
    assert facts.modules["1"].rms == pytest.approx(float(y.detach().square().mean().sqrt()), rel=0.01)
    assert facts.modules["0"].grad_rms == pytest.approx(float(slope.square().mean().sqrt()), rel=0.01)


def test_segments_multiply_to_the_end_to_end_gain() -> None:
    layers = [m for _ in range(10) for m in (linear(64, 64, 0.2), nn.Tanh())]
    paths = find_paths(gradlint.analyze(lambda: nn.Sequential(*layers), ["8,64"]))
    assert paths.log2 == pytest.approx(sum(s.log2 for s in paths.segments))
    assert {s.cause for s in paths.segments} == {"weights", "activation"}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([linear(64, 64, 0.125) for _ in range(8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_residual_sum_of_unit_branches_gains_half_a_bit() -> None:
    # E g² doubles per block: the skip passes it whole, the branch of gain one adds as much
    paths = find_paths(gradlint.analyze(Residual, ["8,64"]))
    assert [s.cause for s in paths.segments] == ["residual"] * 8
    assert [s.log2 for s in paths.segments] == pytest.approx([0.5] * 8)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.rec = linear(16, 64, 0.1), linear(64, 64, 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 64)
        for t in range(x.shape[1]):
            h = torch.tanh(self.inp(x[:, t]) + self.rec(h))
        return h


def test_a_hand_written_loop_is_found_and_a_stack_is_not_one() -> None:
    (loop,) = find_paths(gradlint.analyze(Loop, ["4,12,16"])).recurrences
    assert loop.parameters == ("rec.weight",)
    assert loop.steps == 12
    assert find_paths(gradlint.analyze(Residual, ["8,64"])).recurrences == ()


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(32, 32)
        self.rnn = nn.GRU(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.rnn(x.unsqueeze(0), torch.tanh(self.start(x)).unsqueeze(0))[0]
        return out


def test_the_initial_state_of_a_recurrent_layer_gets_its_gradient() -> None:
    # one step, update gate near 1/2: the start state is passed on by about a half
    facts = gradlint.analyze(Decoder, ["2,32"])
    assert 0.4 < facts.parameters["start.weight"].grad_rms < 0.8


def test_a_partial_is_named_after_its_function():
    from functools import partial

    from torch import nn

    report = gradlint.lint(partial(partial(nn.Linear, bias=True), 3, 3))
    assert [target.name for target in report.targets] == ["Linear"]
