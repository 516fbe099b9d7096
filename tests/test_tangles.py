"""Functions that act on every entry alone and meet one tensor on two ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradlint
from gradlint.tangles import Tangles
from gradlint.trace import InputSpec, trace
from gradlint.verification import compare, measure

SHAPE = (8, 12, 24)


class Two(nn.Module):
    """A function of two linear maps, entry by entry, in front of a third."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(32, 16)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(2 * self.first(x), self.second(x)))


class Averages(nn.Module):
    """An average of the past with exponential weights, kept in range by a running maximum (Peng et al. 2023, RWKV)."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.last = nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(32, 16)
        self.decay = nn.Parameter(torch.linspace(-3, 1, 32))
        nn.init.normal_(self.keys.weight, std=0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys, values, decay = self.keys(x), self.values(x), -torch.exp(self.decay)
        top, out = torch.full_like(keys[:, 0], -1e38), []
        above = below = torch.zeros_like(top)
        for t in range(x.shape[1]):
            most = torch.maximum(top + decay, keys[:, t])
            old, new = torch.exp(top + decay - most), torch.exp(keys[:, t] - most)
            above, below, top = old * above + new * values[:, t], old * below + new, most
            out.append(above / below)
        return self.last(torch.stack(out, 1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax-of-two": lambda: Two(lambda a, b: torch.exp(a - torch.maximum(a, b))),
    "average": lambda: Two(lambda a, b: (a * a.exp() + b * b.exp()) / (a.exp() + b.exp())),
    "length": lambda: Two(lambda a, b: a / torch.sqrt(a.square() + b.square() + 1e-3)),
    "bent": lambda: Two(lambda a, b: torch.tanh(a * torch.sigmoid(b) + a)),
    "running": Averages,
}


@pytest.mark.parametrize("name", MODELS)
def test_predicted_as_measured(name: str) -> None:
    torch.manual_seed(0)
    analysis = gradlint.analyze(MODELS[name], (torch.randn(SHAPE),))
    assert analysis.coverage.sampled
    assert analysis.coverage.opaque == {}
    found = compare(analysis, measure(MODELS[name], [InputSpec("x", SHAPE, "float32")], 40))
    assert not found.missing
    assert found.gradient.quantile(0.5) < 0.1, found.gradient.worst(3)
    assert found.gradient.quantile(1) < 0.35, found.gradient.worst(3)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * torch.sigmoid(b),
        lambda a, b: torch.tanh(a + b) * b,
        lambda a, b: torch.tanh(a + 2 * (a - b)),
        lambda a, b: a / (1 + a.abs()) + b,
        lambda a, b: (1 - torch.sigmoid(a)) * b + torch.sigmoid(a) * torch.tanh(b),
    ],
)
def test_nothing_is_drawn_without_need(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Independent tensors, sums, functions of one tensor, and what only meets in a sum have formulas."""
    assert not Tangles(trace(Two(function), (torch.randn(SHAPE),)).graph).members
