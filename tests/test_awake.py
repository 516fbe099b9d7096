"""Gradients that zeros hold back at first are judged as they are once the zeros have moved."""

import math

import pytest
import torch
from torch import nn

import gradlint
from gradlint.rule import Context

WIDTH = 64


def tower(std, heads, depth=20):
    """Layers in front of zero-initialised ones."""

    def build():
        layers = []
        for _ in range(depth):
            layer = nn.Linear(WIDTH, WIDTH)
            nn.init.normal_(layer.weight, std=std / WIDTH**0.5)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        for _ in range(heads):
            layers.append(nn.Linear(WIDTH, WIDTH, bias=False))
            nn.init.zeros_(layers[-1].weight)
        return nn.Sequential(*layers)

    return build


def judged(build):
    return Context(gradlint.analyze(build, [f"4,{WIDTH}"]), "model")


def codes(build):
    return {f.code for f in gradlint.lint(build, [f"4,{WIDTH}"]).findings}


@pytest.mark.parametrize(("std", "code"), [(2.4, "GL101"), (0.7, "GL102")])
def test_what_lies_behind_a_zero_head_is_judged_when_it_has_moved(std, code):
    context = judged(tower(std, 1))
    assert context.paths.log2 is None
    assert context.awake.paths.log2 == pytest.approx(judged(tower(std, 0)).paths.log2, abs=0.1)
    assert code in codes(tower(std, 1))
    assert not {"GL101", "GL102"} & codes(tower(2**0.5, 1))


def test_a_head_that_moved_a_little_passes_that_gradient():
    """The gain behind it does not depend on how far it moved."""
    squares = []
    for seed in range(24):
        torch.manual_seed(seed)
        model = tower(1.0, 1)()
        nn.init.normal_(model[-1].weight, std=1e-3 / WIDTH**0.5)
        x = torch.randn(8, WIDTH, requires_grad=True)
        y = model(x)
        (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
        squares.append(float((gradient / 1e-3).square().mean()))
    measured = math.log2(sum(squares) / len(squares)) / 2
    assert judged(tower(1.0, 1)).awake.paths.log2 == pytest.approx(measured, abs=0.5)


def test_two_zeros_in_series_never_wake():
    context = judged(tower(1.0, 2))
    assert context.awake.paths.log2 is None


def test_a_model_that_is_awake_is_itself():
    context = judged(tower(1.0, 0))
    assert context.awake is context
