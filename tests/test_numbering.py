"""Two calls of one function on the same tensor are one value: where that is so, and what a norm makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.numbering import first_of_value
from gradlint.trace import trace

Function = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.drop, self.function = nn.Dropout(0.1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.function(self, self.first(x)))
        return out


def _written(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    before = F.relu(y)
    y.mul_(2.0)
    return before + F.relu(y)


def _unrecorded(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        still = F.relu(y)
    return still + F.relu(y)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda net, y: F.relu(y) + F.relu(y), 1),
        (lambda net, y: F.relu(net.layer(y)) + F.relu(net.layer(y)), 2),
        (lambda net, y: F.relu(y) + F.relu(net.first.weight @ net.first.weight.T @ y.T).T, 0),
        (lambda net, y: F.leaky_relu(y, 0.1) + F.leaky_relu(y, 0.2), 0),
        (lambda net, y: net.drop(y) + net.drop(y), 0),
        (lambda net, y: F.relu(net.drop(y)) + F.relu(net.drop(y)), 0),
        (_written, 0),
        (_unrecorded, 0),
    ],
    ids=["same", "same of same", "other operand", "other number", "dropout", "behind dropout", "in place", "without gradient"],
)
def test_equal_calls_on_equal_tensors_are_one_value(function: Function, count: int) -> None:
    graph = trace(Net(function), (torch.randn(8, 32),)).graph
    assert len(first_of_value(graph)) == count


def _rms(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return F.relu(y) * torch.rsqrt(F.relu(y).pow(2).mean(-1, keepdim=True) + 1e-6)


def _rms_of_layer(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return net.layer(y) * torch.rsqrt(net.layer(y).pow(2).mean(-1, keepdim=True) + 1e-6)


def _norm_of_layer(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return (net.layer(y) - net.layer(y).mean(-1, keepdim=True)) / (net.layer(y).std(-1, keepdim=True) + 1e-6)


def _dropped(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return net.drop(y) * torch.rsqrt(net.drop(y).pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("function", [_rms, _rms_of_layer, _norm_of_layer])
def test_a_statistic_may_be_of_a_second_call(function: Function) -> None:
    found = gradlint.verify(lambda: Net(function), (torch.randn(64, 32),), seeds=6).comparison
    assert not found.missing
    assert not found.zeros
    assert all(abs(e.bits) < 0.15 + 2 * e.noise for e in found.gradient.entries), found.gradient.worst(4)


def test_two_masks_are_two_values() -> None:
    """The scale is not taken out where the statistic saw another mask: the layer before feels it."""
    found = gradlint.verify(lambda: Net(_dropped), (torch.randn(64, 32),), seeds=6).comparison
    parameters = [e for e in found.gradient.entries if e.kind == "parameter"]
    assert all(abs(e.bits) < 0.15 + 2 * e.noise for e in parameters), parameters
