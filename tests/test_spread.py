"""The spread of gradients over draws of the weights, beside real networks over many seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradlint
from gradlint.trace import parse_input

SEEDS = 100


def stack(width, depth, activation=nn.ReLU, norm=None, gain="relu"):
    def build():
        layers = []
        for _ in range(depth):
            layers += [nn.Linear(width, width), *([norm(width)] if norm else []), activation()]
        return he(nn.Sequential(*layers, nn.Linear(width, width)), gain)

    return build


def he(model, gain="relu"):
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity=gain)
            nn.init.zeros_(layer.bias)
    return model


def convolutions(channels, depth):
    def build():
        layers = [nn.Conv2d(3, channels, 3), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(channels, channels, 3), nn.ReLU()]
        return he(nn.Sequential(*layers))

    return build


class Residual(nn.Module):
    def __init__(self, width, depth, scale, norm=False):
        super().__init__()
        first = [nn.LayerNorm(width)] if norm else []
        self.branches = nn.ModuleList(
            nn.Sequential(*first, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.scale = scale
        he(self)

    def forward(self, x):
        for branch in self.branches:
            x = x + self.scale * branch(x)
        return x


def measured(build, text):
    """log2 of the rms of each parameter's gradient, one row per seed."""
    rows = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = build().double()
        out = model(torch.randn(parse_input(text).shape, dtype=torch.float64))
        cotangent = torch.randn_like(out)
        out.backward(cotangent * math.sqrt(out.numel()) / cotangent.norm())
        rows.append([float(p.grad.square().mean().log2()) / 2 for p in model.parameters()])
    return np.array(rows)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (stack(16, 16), "4,16"),
        (stack(16, 20, nn.Identity, gain="linear"), "1,16"),
        (stack(16, 20, nn.Tanh, gain="tanh"), "8,16"),
        (stack(48, 30), "4,48"),
        (stack(16, 12, norm=nn.LayerNorm), "4,16"),
        (stack(32, 6, norm=nn.BatchNorm1d), "16,32"),
        (lambda: Residual(16, 12, 0.5), "4,16"),
        (lambda: Residual(32, 12, 1.0, norm=True), "4,32"),
        (convolutions(12, 5), "2,3,14,14"),
    ],
    ids=["relu", "linear", "tanh", "relu-deep", "layernorm", "batchnorm", "residual", "residual-norm", "conv"],
)
def test_log_variance_median_and_interval_are_those_of_real_draws(build, text):
    analysis = gradlint.analyze(build, [text])
    real = measured(build, text)
    ratios, errors, inside = [], [], []
    for column, (name, facts) in zip(real.T, analysis.parameters.items(), strict=True):
        if column.std() < 0.02:  # the last bias, or one in front of a norm, of which rounding is left
            continue
        if facts.grad_rms < 1e-9:
            continue
        spread = analysis.spreads.parameters[name].spread
        typical, (low, high) = analysis.grad_typical(name)
        assert typical == pytest.approx(facts.grad_rms * 2**spread.typical)
        ratios.append((spread.bits / column.std()) ** 2)
        errors.append(math.log2(typical) - np.median(column))
        inside.append(np.mean((column >= math.log2(low)) & (column <= math.log2(high))))
    assert 0.78 < np.median(ratios) < 1.28
    assert abs(np.median(errors)) < 0.3
    assert 0.7 < np.mean(inside) < 0.9


def test_relu_layers_add_what_hanin_and_nica_prove():
    """Of the squared norm of x behind L layers of width n: 5 L/n (arXiv:1812.05994, theorem 1), for one sample."""
    width, depth = 256, 16
    analysis = gradlint.analyze(stack(width, depth), [f"1,{width}"])
    last = analysis.flowed.traced.modules[str(2 * depth - 1)].output
    first = analysis.flowed.traced.modules["1"].output
    variance = [float(np.var(analysis.spreads.forward[node].log)) for node in (first, last)]
    assert variance[1] - variance[0] == pytest.approx(5 * (depth - 1) / width, rel=0.05)


def test_square_orthogonal_matrices_leave_nothing_to_chance():
    def build():
        model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(20)))
        for layer in model:
            nn.init.orthogonal_(layer.weight)
        return model

    analysis = gradlint.analyze(build, ["1,16"])
    assert max(scale.spread.bits for scale in analysis.spreads.backward.values()) < 1e-6


def test_what_passes_a_recurrent_module_has_no_interval():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.rnn, self.out = nn.Linear(8, 8), nn.RNN(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.out(self.rnn(self.inp(x))[0])

    found = gradlint.analyze(Net, ["5,2,8"])
    known = {name for name in found.parameters if found.grad_typical(name) is not None}
    assert known == {"out.bias"}


def test_the_report_tells_the_typical_gain_and_the_interval():
    target = gradlint.lint(stack(12, 24), ["1,12"]).targets[0]
    low, high = target.gain_interval_log2
    assert low < target.gain_typical_log2 < high
    assert target.gain_typical_log2 < target.gain_log2 - 1
    found = target.to_dict()["parameters"][0]
    assert found["grad_interval"][0] < found["grad_typical"] < found["grad_interval"][1]
    assert found["grad_typical"] < found["grad_rms"]


def test_a_mean_that_is_the_work_of_rare_draws_is_judged_by_the_median():
    """Weights that keep the mean square keep no typical gradient where layers are narrow."""
    build = stack(4, 100, nn.Identity, gain="linear")
    finding = next(f for f in gradlint.lint(build, ["1,4"]).findings if f.code == "GL102")
    assert finding.evidence["log2"] == pytest.approx(0.0, abs=0.5)
    assert finding.evidence["log2_typical"] < -11
    assert "typical draw" in finding.message
    real = measured(build, "1,4")[:, 0]
    assert np.median(real) < -8  # x and g meet in the first weight


def test_weights_that_are_given_are_not_drawn():
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(12)])
    assert gradlint.analyze(model, ["8,16"]).grad_typical("0.weight") is None


def test_a_gradient_that_has_met_a_mask_meets_it_again_without_chance() -> None:
    """Rectified again and again: the first mask is a matter of luck, the others are the first."""

    def build(count: int) -> nn.Module:
        layer = nn.Linear(8, 8, bias=False)
        return nn.Sequential(layer, *[nn.ReLU() for _ in range(count)])

    once, often = (gradlint.analyze(lambda n=n: build(n), (torch.randn(4, 8),)) for n in (1, 30))
    first, last = (a.spreads.backward[a.nodes[0].name].spread for a in (once, often))
    assert last.bits == pytest.approx(first.bits, abs=0.05)
    assert last.typical == pytest.approx(first.typical, abs=0.05)
