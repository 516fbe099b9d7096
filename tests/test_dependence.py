"""Gradients that depend on the tensor they belong to: what a weight's gradient has in common with the weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.trace import InputSpec
from gradlint.verification import compare, measure


class Pooled(nn.Module):
    """The mean over tokens of an activation: its gradient is the same for all tokens, but for the slope."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor], *, deep: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 128), nn.Linear(128, 16)
        self.middle = nn.Linear(128, 128) if deep else nn.Identity()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.activation(self.first(x))).mean(1))


class PooledMaps(nn.Module):
    """The same of a convolution and the mean over positions."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(16, 64, kernel, padding=kernel // 2), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


class Loss(nn.Module):
    """A loss of a linear layer: one cotangent for all samples."""

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.loss = nn.Linear(24, 10), loss

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.loss(self.first(x), torch.zeros(x.shape[0], 10, dtype=x.dtype))


TOKENS, MAPS, ROWS = (8, 196, 64), (8, 16, 16, 16), (64, 24)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "gelu": (lambda: Pooled(F.gelu, deep=False), TOKENS, "first.weight"),
    "relu": (lambda: Pooled(torch.relu, deep=False), TOKENS, "first.weight"),
    "relu, a layer further": (lambda: Pooled(torch.relu, deep=True), TOKENS, "first.weight"),
    "pointwise convolution": (lambda: PooledMaps(1), MAPS, "first.weight"),
    "convolution": (lambda: PooledMaps(3), MAPS, "first.weight"),
    "squares": (lambda: Loss(F.mse_loss), ROWS, "first.weight"),
    "absolute values": (lambda: Loss(F.l1_loss), ROWS, "first.weight"),
    "logits": (lambda: Loss(F.binary_cross_entropy_with_logits), ROWS, "first.weight"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_sees_itself_in_its_gradient(name: str) -> None:
    build, shape, parameter = MODELS[name]
    torch.manual_seed(0)
    analysis = gradlint.analyze(build, (torch.randn(shape),))
    found = compare(analysis, measure(build, [InputSpec("x", shape, "float32")], 48))
    entry = next(e for e in found.gradient.entries if e.name == parameter)
    assert abs(entry.bits) < 0.15 + 2 * entry.noise, entry


class Autoencoder(nn.Module):
    """A variational one: the gradient of the code leans on the code, the noise in it on the noise (Kingma & Welling 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(60, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 60))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.encode(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return F.mse_loss(self.decode(code), x, reduction="sum") / len(x)


class Temperature(nn.Module):
    """Cosines over a temperature that is learned (Radford et al. 2021): it meets every logit with the logit's own gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(40, 64), nn.Linear(30, 64)
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: torch.Tensor, y: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        a, b = F.normalize(self.left(x), dim=-1), F.normalize(self.right(y), dim=-1)
        return F.cross_entropy(self.scale.exp() * a @ b.T, label)


WHOLE: dict[str, tuple[Callable[[], nn.Module], list[InputSpec]]] = {
    "reconstruction": (Autoencoder, [InputSpec("x", (32, 60), "float32")]),
    "temperature": (
        Temperature,
        [InputSpec("x", (32, 40), "float32"), InputSpec("y", (32, 30), "float32"), InputSpec("label", (32,), "int64", high=32)],
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_made_an_output_meets_it_in_the_gradient_of_a_loss(name: str) -> None:
    build, inputs = WHOLE[name]
    found = compare(gradlint.analyze(build, inputs), measure(build, inputs, 12))
    assert not found.zeros
    for entry in found.gradient.entries:
        assert abs(entry.bits) < 0.35 + 2 * entry.noise, entry
