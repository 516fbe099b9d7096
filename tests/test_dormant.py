"""Zeros that wake up, and zeros that never do: as real training has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlint
from gradlint.dormant import dormant


def zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Gated(nn.Module):
    """``x + tanh(g)·b(a(x))``: a gate that starts at zero, of a branch that may."""

    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.zeros(1))
        if zero:
            zeroed(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.gate) * self.b(torch.relu(self.a(x)))


class LowRank(nn.Module):
    def __init__(self, down: bool, up: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        for zero, layer in ((down, self.down), (up, self.up)):
            if zero:
                zeroed(layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class Modulated(nn.Module):
    """Blocks whose scales are made of a condition by a layer of zeros, behind them a head of zeros: they wake one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.modulate = nn.ModuleList([zeroed(nn.Linear(4, 8)) for _ in range(3)])
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.head = zeroed(nn.Linear(8, 8))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for modulate, block in zip(self.modulate, self.blocks, strict=True):
            x = x + modulate(c) * torch.tanh(block(x))
        return self.head(x)


MODELS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "a gate": (lambda: Gated(zero=False), [(16, 8)]),
    "a gate of a zero branch": (lambda: Gated(zero=True), [(16, 8)]),
    "one zero factor": (lambda: LowRank(down=False, up=True), [(16, 8)]),
    "the other": (lambda: LowRank(down=True, up=False), [(16, 8)]),
    "two zero factors": (lambda: LowRank(down=True, up=True), [(16, 8)]),
    "a head of zeros": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), zeroed(nn.Linear(8, 3))), [(16, 8)]),
    "all zero": (lambda: nn.Sequential(*[zeroed(nn.Linear(8, 8)), nn.ReLU(), zeroed(nn.Linear(8, 3))]), [(16, 8)]),
    "all zero, sigmoid": (lambda: nn.Sequential(zeroed(nn.Linear(8, 8)), nn.Sigmoid(), zeroed(nn.Linear(8, 3))), [(16, 8)]),
    "modulated": (Modulated, [(16, 8), (16, 4)]),
    "no zeros": (lambda: nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), [(16, 8)]),
}


def moved(build: Callable[[], nn.Module], shapes: list[tuple[int, ...]]) -> set[str]:
    """Parameters that get a gradient in the first steps of real training."""
    torch.manual_seed(0)
    model, found = build().double(), set[str]()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(6):
        out = model(*(torch.randn(shape, dtype=torch.float64) for shape in shapes))
        optimiser.zero_grad()
        (out - torch.randn_like(out)).square().mean().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                found.add(name)
        optimiser.step()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_is_dead_never_trains(name: str) -> None:
    build, shapes = MODELS[name]
    real = moved(build, shapes)
    found = dormant(gradlint.analyze(build, tuple(torch.randn(shape) for shape in shapes)).flowed)
    names = [n for n, _ in build().named_parameters()]
    assert set(found.dead) == {n for n in names if n not in real}
    assert set(found.zeros) <= set(found.dead)


def test_a_frozen_zero_never_wakes() -> None:
    def build() -> nn.Module:
        model = Gated(zero=False)
        model.gate.requires_grad_(False)
        return model

    found = dormant(gradlint.analyze(build, (torch.randn(4, 8),)).flowed)
    assert set(found.dead) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_a_bias_before_a_norm_is_not_dormant() -> None:
    """Its gradient is zero by symmetry, which is another finding (GL302)."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    assert dormant(gradlint.analyze(build, (torch.randn(16, 8),)).flowed).dead == ()


def test_what_leads_to_another_output_is_not_judged() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = nn.Linear(8, 8), nn.Linear(8, 3), zeroed(nn.Linear(8, 1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.body(x))
            return self.policy(h), self.value(h)

    assert dormant(gradlint.analyze(TwoHeads, (torch.randn(16, 8),)).flowed).dead == ()


def test_zeros_by_symmetry_are_no_matter_of_zeros() -> None:
    """Attention over one position has nothing to choose: queries and keys never move, and no zero is to blame."""

    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        zeroed(layer.linear2)
        return layer

    assert dormant(gradlint.analyze(build, (torch.randn(16, 1, 8),)).flowed).dead == ()
