"""What has no moments of its own is sampled with what it is made of: complex tensors, weights made of weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gradlint
from gradlint.trace import InputSpec
from gradlint.verification import compare, measure


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(24, 32), nn.Linear(32, 16), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


class Rotary(nn.Module):
    """Positions as complex rotations, the way the first LLaMA did it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(24, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(x.shape[1], dtype=x.dtype), 1e4 ** (-torch.arange(16, dtype=x.dtype) / 16))
        turned = torch.view_as_complex(self.first(x).unflatten(-1, (16, 2))) * torch.polar(torch.ones_like(angles), angles)
        return self.last(torch.view_as_real(turned).flatten(-2))


class Spectral(nn.Module):
    """A learned filter in the frequency domain (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(24, 32), nn.Linear(32, 16)
        self.filter = nn.Parameter(0.3 * torch.randn(17, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(self.first(x), dim=-1) * torch.view_as_complex(self.filter)
        return self.last(torch.fft.irfft(spectrum, n=32, dim=-1))


class Skew(nn.Module):
    """The exponential of a skew-symmetric matrix is orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(24, 32), nn.Linear(32, 16)
        self.weight = nn.Parameter(0.1 * torch.randn(32, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) @ torch.linalg.matrix_exp(self.weight - self.weight.T))


def orthogonal(kind: str) -> Callable[[], nn.Module]:
    return lambda: Between(parametrizations.orthogonal(nn.Linear(32, 32), orthogonal_map=kind))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fourier": lambda: Between(lambda x: torch.fft.fft2(x).real),
    "rotary": Rotary,
    "spectral": Spectral,
    "skew": Skew,
    "orthogonal-exp": orthogonal("matrix_exp"),
    "orthogonal-cayley": orthogonal("cayley"),
    "orthogonal-householder": orthogonal("householder"),
}


@pytest.mark.parametrize("name", MODELS)
def test_predicted_as_measured(name: str) -> None:
    torch.manual_seed(0)
    analysis = gradlint.analyze(MODELS[name], (torch.randn(8, 10, 24),))
    assert analysis.coverage.opaque == {}
    assert analysis.coverage.sampled
    found = compare(analysis, measure(MODELS[name], [InputSpec("x", (8, 10, 24), "float32")], 40))
    assert not found.missing
    assert not found.zeros
    assert found.gradient.quantile(1) < 0.2, found.gradient.worst(2)
    assert found.forward.quantile(1) < 0.1, found.forward.worst(2)


def test_what_is_behind_an_unknown_is_unknown() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float64:
                raise RuntimeError("single precision only")
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
            return g

    analysis = gradlint.analyze(lambda: Between(Broken.apply), (torch.randn(4, 24),))
    assert sum(analysis.coverage.opaque.values()) == 2
    assert analysis.modules["last"].rms is None
    assert math.isfinite(analysis.modules["first"].rms or math.nan)
