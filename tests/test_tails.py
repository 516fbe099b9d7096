"""Functions of sums, masks and slices of tensors that are far from Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.trace import InputSpec
from gradlint.verification import compare, measure

SHAPE = (8, 16, 24)


class Decays(nn.Module):
    """A head's state decays by ``exp(Δ·A)`` a step, Δ > 0 from the input and A < 0 known: a state-space model's mask."""

    def __init__(self, weigh: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.steps, self.values, self.last = nn.Linear(24, 8), nn.Linear(24, 8 * 16), nn.Linear(8 * 16, 16)
        self.rates = nn.Parameter(torch.log(torch.arange(1, 9).float()))
        self.weigh = weigh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decay = (-torch.exp(self.rates) * F.softplus(self.steps(x) + 0.5)).transpose(1, 2)
        weights = self.weigh(decay)
        values = self.values(x).unflatten(-1, (8, 16)).transpose(1, 2)
        mixed = weights @ values if weights.dim() == 4 else weights.unsqueeze(-1) * values
        return self.last(mixed.transpose(1, 2).flatten(2))


def between(decay: torch.Tensor) -> torch.Tensor:
    """``exp Σ_{s<k≤l}`` for every two positions, as Mamba 2 does it (Dao & Gu 2024, listing 1)."""
    n = decay.shape[-1]
    terms = decay[..., None].expand(*decay.shape, n).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(-1), 0)
    return torch.exp(terms.cumsum(-2).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf))


class Windowed(nn.Module):
    """Scores with infinities written into a slice of them, and a mask that takes its type from them."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.last = nn.Linear(24, 12), nn.Linear(12, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.scores(x) * 3
        hidden = (torch.arange(12) % 4 == 1).type_as(scores) * -1e4
        scores = scores + hidden
        corner = scores[:, :4, :4]
        corner[:] = torch.full_like(corner, -torch.inf).where(torch.ones(4, 4, dtype=torch.bool).tril(-1), corner)
        return self.last(F.softmax(scores, -1).masked_fill(torch.zeros(8, 16, 1, dtype=torch.bool), 0.0))


class Minimum(nn.Module):
    """The least of a tensor with infinities, which has no moments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(24, 12), nn.Linear(12, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(12)
        bias[::3] = torch.inf
        return self.last(torch.exp(-torch.square(self.first(x) + bias)))


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "running": (lambda: Decays(lambda decay: torch.exp(decay.cumsum(-1))), True),
    "rest": (lambda: Decays(lambda decay: torch.exp((c := decay.cumsum(-1))[..., -1:] - c)), True),
    "between": (lambda: Decays(between), True),
    "windowed": (Windowed, False),
    "infinite": (Minimum, True),
}


@pytest.mark.parametrize("name", MODELS)
def test_predicted_as_measured(name: str) -> None:
    torch.manual_seed(0)
    build, sampled = MODELS[name]
    analysis = gradlint.analyze(build, (torch.randn(SHAPE),))
    assert analysis.coverage.opaque == {}
    assert bool(analysis.coverage.sampled) == sampled
    found = compare(analysis, measure(build, [InputSpec("x", SHAPE, "float32")], 40))
    assert not found.missing
    assert found.gradient.quantile(0.5) < 0.1, found.gradient.worst(3)
    assert found.gradient.quantile(1) < 0.35, found.gradient.worst(3)


def test_a_gaussian_is_not_sampled() -> None:
    """``exp`` of a linear map lives on its tail, and is what the grid says."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(24, 32), nn.Linear(32, 16)
            nn.init.normal_(self.first.weight, std=2 / math.sqrt(24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.exp(self.first(x)[:, 1:]))

    assert gradlint.analyze(Wide, (torch.randn(SHAPE),)).coverage.sampled == {}
