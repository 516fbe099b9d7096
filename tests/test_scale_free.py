"""What stands in front of a norm does not feel its own scale: the weights of a BatchNorm before a depthwise convolution."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from torch import nn

import gradlint
from gradlint.verification import compare, measure


def separable(activation: Callable[[], nn.Module], eps: float = 1e-5) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1, bias=False),
            nn.BatchNorm2d(48),
            activation(),
            nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False),
            nn.BatchNorm2d(48, eps=eps),
            activation(),
            nn.Conv2d(48, 24, 1),
        )

    return build


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.Hardswish])
def test_the_scale_of_a_depthwise_branch_is_felt_only_through_its_activation(activation: Callable[[], nn.Module]) -> None:
    build = separable(activation, eps=1e-2)
    analysis = gradlint.analyze(build, ["4,3,12,12"])
    real = measure(build, analysis.flowed.traced.inputs, seeds=8)
    predicted, measured = analysis.parameters["1.weight"].grad_rms, real.parameters["1.weight"].grad_rms
    assert predicted is not None
    assert measured is not None
    assert abs(math.log2(predicted / measured)) < 0.5
    assert compare(analysis, real).gradient.p95 < 0.5


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.Hardswish])
def test_nor_does_it_feel_what_its_slope_owes_to_its_value(activation: Callable[[], nn.Module]) -> None:
    """``Σ g φ'`` of a bias: the part of φ' that is linear in φ meets ``Σ g φ``, which is next to nothing."""
    build = separable(activation)
    analysis = gradlint.analyze(build, ["16,3,12,12"])
    real = measure(build, analysis.flowed.traced.inputs, seeds=8)
    predicted, measured = analysis.parameters["1.bias"].grad_rms, real.parameters["1.bias"].grad_rms
    assert predicted is not None
    assert measured is not None
    assert abs(math.log2(predicted / measured)) < 0.25


def test_with_a_tiny_eps_it_is_next_to_nothing() -> None:
    analysis = gradlint.analyze(separable(nn.ReLU, eps=1e-12), ["4,3,12,12"])
    weight, bias = analysis.parameters["1.weight"].grad_rms, analysis.parameters["1.bias"].grad_rms
    assert weight is not None
    assert bias is not None
    assert weight < 1e-6 * bias
