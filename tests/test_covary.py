"""Sums of tensors that are not independent, against real seeds: copies of a layer, reused weights, functions of one tensor."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.trace import parse_input, recording, trace
from gradlint.verification import compare, measure

SEEDS = 16


def errors(build: Callable[[], nn.Module], *inputs: str) -> tuple[float, float]:
    """Largest error of a gradient and of an output, in bits, beyond three standard errors of the measurement."""
    measured = measure(build, [parse_input(text) for text in inputs], SEEDS)
    found = compare(gradlint.analyze(build, list(measured.inputs)), measured)
    assert not found.missing
    assert not found.zeros
    gradient = max(abs(e.bits) - 3 * e.noise for e in found.gradient.entries)
    return gradient, max(abs(e.bits) for e in found.forward.entries)


def fan_in(inputs: int, outputs: int, gain: float = 1.0, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=gain / inputs**0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


# ---- one weight at every step -----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """``x + α f(x)`` with one f, ``depth`` times."""

    def __init__(self, branch: nn.Module, alpha: float, depth: int) -> None:
        super().__init__()
        self.start, self.branch, self.alpha, self.depth = nn.Identity(), branch, alpha, depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        for _ in range(self.depth):
            x = x + self.alpha * self.branch(x)
        return x


def relu_branch() -> nn.Module:
    return nn.Sequential(fan_in(96, 96, 2**0.5), nn.ReLU(), fan_in(96, 96))


def tanh_branch() -> nn.Module:
    return nn.Sequential(nn.Tanh(), fan_in(96, 96))


@pytest.mark.parametrize(
    ("branch", "alpha", "depth"),
    [
        (lambda: fan_in(96, 96, bias=False), 0.1, 24),
        (relu_branch, 0.1, 24),
        (relu_branch, 0.3, 12),
        (tanh_branch, 0.3, 12),
    ],
    ids=["linear", "relu", "relu, strong", "activation first"],
)
def test_a_reused_residual_block_grows_coherently(branch: Any, alpha: float, depth: int) -> None:
    gradient, forward = errors(lambda: Tied(branch(), alpha, depth), "x:32,96")
    assert gradient < 0.08
    assert forward < 0.08


def test_a_linear_loop_by_hand() -> None:
    analysis = gradlint.analyze(lambda: Tied(fan_in(256, 256, bias=False), 0.2, 10), (torch.randn(8, 256),))
    # J = I + 0.2 G with one G: Σ_j C(10, j)² 0.2^2j, where independent steps would give 1.04^10
    squared = sum(math.comb(10, j) ** 2 * 0.2 ** (2 * j) for j in range(11))
    grad = analysis.modules["start"].grad_rms
    assert grad is not None
    assert grad**2 == pytest.approx(squared, rel=1e-3)


# ---- copies of one layer ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width: int, *, pre: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.pre = pre

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pre:
            return x + self.down(F.gelu(self.up(self.norm(x))))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Stack(nn.Module):
    """Blocks that are copies of the first, or the first block again and again."""

    def __init__(self, block: nn.Module, depth: int, width: int, *, shared: bool = False, head: nn.Module | None = None) -> None:
        super().__init__()
        self.start = nn.Identity()
        self.blocks = nn.ModuleList(block if shared else copy.deepcopy(block) for _ in range(depth))
        self.head = nn.Linear(width, 16) if head is None else head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("pre", [True, False], ids=["norm first", "norm last"])
@pytest.mark.parametrize("shared", [True, False], ids=["one block", "copies"])
def test_copies_of_a_block_act_as_one(pre: bool, shared: bool) -> None:
    gradient, forward = errors(lambda: Stack(Block(96, pre=pre), 8, 96, shared=shared), "x:32,96")
    assert gradient < 0.08
    assert forward < 0.05


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_encoder_is_made_of_copies(norm_first: bool) -> None:
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
        encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        return nn.Sequential(nn.Identity(), encoder, nn.Linear(64, 16))

    gradient, forward = errors(build, "input:16,10,64")
    assert gradient < 0.1
    assert forward < 0.08


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_decoder_is_made_of_copies(norm_first: bool) -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
            self.start, self.memory = nn.Identity(), nn.Identity()
            self.decoder, self.head = nn.TransformerDecoder(layer, 4), nn.Linear(64, 16)

        def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            return self.head(self.decoder(self.start(x), self.memory(memory)))

    gradient, forward = errors(Decoder, "x:16,10,64", "memory:16,8,64")
    assert gradient < 0.12
    assert forward < 0.08


def test_copies_of_a_convolution() -> None:
    def build() -> nn.Module:
        branch = nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        return Stack(Tied(branch, 1.0, 1), 6, 16, head=nn.Conv2d(16, 4, 1))

    gradient, forward = errors(build, "x:8,16,8,8")
    assert gradient < 0.15
    assert forward < 0.1


def test_layers_drawn_again_after_they_were_copied_are_independent() -> None:
    def build(*, copied: bool) -> nn.Module:
        model = Stack(Block(64, pre=True), 8, 64)
        if not copied:
            for p in model.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=p.shape[1] ** -0.5 / 3**0.5)
        return model

    apart, together = (gradlint.analyze(lambda c=c: build(copied=c), (torch.randn(32, 64),)).modules for c in (False, True))
    first, second = apart["blocks.7"].rms, together["blocks.7"].rms
    assert first is not None
    assert second is not None
    assert second > 1.5 * first


def test_copies_are_known_by_their_values() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(8, 8)
        return nn.Sequential(layer, copy.deepcopy(layer), nn.Linear(8, 8))

    with recording() as laws:
        model = build()
    found = {name: p.drawn_with for name, p in trace(model, (torch.randn(2, 8),), laws=laws).parameters.items()}
    assert found == {
        "0.weight": "0.weight",
        "0.bias": "0.bias",
        "1.weight": "0.weight",
        "1.bias": "0.bias",
        "2.weight": "2.weight",
        "2.bias": "2.bias",
    }


# ---- recurrence written by hand ---------------------------------------------------------------------------------------


class Loop(nn.Module):
    """A recurrent network stepped by hand; a leak adds a diagonal path."""

    def __init__(self, *, every_step: bool, leak: float = 1.0) -> None:
        super().__init__()
        self.start = nn.Identity()
        self.inp, self.rec, self.out = nn.Linear(32, 96), fan_in(96, 96), nn.Linear(96, 10)
        self.every_step, self.leak = every_step, leak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        h = x.new_zeros(x.size(0), 96)
        outs = []
        for t in range(x.size(1)):
            new = torch.tanh(self.inp(x[:, t]) + self.rec(h))
            h = new if self.leak == 1.0 else (1 - self.leak) * h + self.leak * new
            outs.append(self.out(h))
        return torch.stack(outs, 1) if self.every_step else outs[-1]


@pytest.mark.parametrize("every_step", [True, False], ids=["every step", "last step"])
@pytest.mark.parametrize("leak", [1.0, 0.2])
def test_a_recurrent_loop(every_step: bool, leak: float) -> None:
    gradient, forward = errors(lambda: Loop(every_step=every_step, leak=leak), "x:16,20,32")
    assert gradient < 0.08
    assert forward < 0.08


class Cell(nn.Module):
    """A cell of torch, stepped by hand."""

    def __init__(self, cell: type[nn.Module], *, every_step: bool) -> None:
        super().__init__()
        self.start, self.cell, self.out, self.every_step = nn.Identity(), cell(24, 64), nn.Linear(64, 10), every_step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        h = x.new_zeros(x.size(0), 64)
        state: Any = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        outs = []
        for t in range(x.size(1)):
            state = self.cell(x[:, t], state)
            outs.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(outs, 1) if self.every_step else outs[-1]


@pytest.mark.parametrize("every_step", [True, False], ids=["every step", "last step"])
@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_stepped_by_hand(cell: Any, every_step: bool) -> None:
    gradient, forward = errors(lambda: Cell(cell, every_step=every_step), "x:16,16,24")
    assert gradient < 0.1
    assert forward < 0.1


def test_most_pairs_of_a_long_loop_are_not_worked_out() -> None:
    from gradlint.covary.repeats import _worked_out

    steps = 200
    worked_out = sum(_worked_out(i, d)[-1] == i for d in range(1, steps) for i in range(1, steps - d + 1))
    assert worked_out < 10 * steps  # of 19900
    gradient, forward = errors(lambda: Tied(tanh_branch(), 0.1, 40), "x:16,96")
    assert gradient < 0.1
    assert forward < 0.1


# ---- functions of one tensor that meet --------------------------------------------------------------------------------


class Siamese(nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.start, self.met, self.sign = nn.Identity(), nn.Identity(), sign
        self.tower = nn.Sequential(fan_in(64, 96, 2**0.5), nn.ReLU(), fan_in(96, 96, 2**0.5), nn.ReLU(), fan_in(96, 96))
        self.head = fan_in(96, 8)

    def forward(self, common: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        common = self.start(common)
        return self.head(self.met(self.tower(common + first) + self.sign * self.tower(common + second)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_towers_with_equal_weights(sign: float) -> None:
    gradient, forward = errors(lambda: Siamese(sign), "common:32,64", "first:32,64", "second:32,64")
    assert gradient < 0.08
    assert forward < 0.08


def test_a_product_of_towers_with_equal_weights() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = nn.Sequential(fan_in(64, 96, 2**0.5), nn.Tanh(), fan_in(96, 96))
            self.met, self.head = nn.Identity(), fan_in(96, 8)

        def forward(self, common: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.head(self.met(self.tower(common + first) * self.tower(common + second)))

    gradient, forward = errors(Product, "common:32,64", "first:32,64", "second:32,64")
    assert gradient < 0.08
    assert forward < 0.05


class WithMean(nn.Module):
    def __init__(self, sign: float, dim: int, *, keepdim: bool = True) -> None:
        super().__init__()
        self.first, self.met, self.head = fan_in(32, 64, 1.5), nn.Identity(), fan_in(64, 8)
        self.sign, self.dim, self.keepdim = sign, dim, keepdim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        mean = h.mean(self.dim, keepdim=True) if self.keepdim else h.mean(self.dim).unsqueeze(self.dim)
        return self.head(self.met(h + self.sign * mean))


@pytest.mark.parametrize(("sign", "dim", "keepdim"), [(-1.0, 1, True), (-1.0, -1, True), (1.0, 1, True), (1.0, 1, False)])
def test_a_tensor_and_its_mean(sign: float, dim: int, keepdim: bool) -> None:
    gradient, forward = errors(lambda: WithMean(sign, dim, keepdim=keepdim), "x:16,12,32")
    assert gradient < 0.08
    assert forward < 0.1


def test_a_tensor_and_a_function_of_its_norm() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.met, self.head = fan_in(64, 64), nn.LayerNorm(64), nn.Identity(), fan_in(64, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.head(self.met(x + torch.relu(self.norm(x))))

    gradient, forward = errors(Skip, "x:32,64")
    assert gradient < 0.08
    assert forward < 0.08


def test_a_norm_written_by_hand() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(fan_in(64, 64, 2**0.5) for _ in range(4))
            self.met, self.head = nn.Identity(), fan_in(64, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
                x = x - x.mean(-1, keepdim=True)
                x = self.met(torch.relu(x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() + 0.5))
            return self.head(x)

    gradient, forward = errors(Normed, "x:32,64")
    assert gradient < 0.08
    assert forward < 0.05


# ---- nothing in common ------------------------------------------------------------------------------------------------


def test_independent_layers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlint import covary

    def build() -> nn.Module:
        blocks = [Block(32, pre=True) for _ in range(6)]
        return nn.Sequential(*blocks, nn.Linear(32, 4))

    before = gradlint.analyze(build, (torch.randn(8, 32),))
    monkeypatch.setattr(covary.Covariances, "entered", lambda self, node, value: value)
    monkeypatch.setattr(covary.Covariances, "met", lambda self, node, grad: grad)
    monkeypatch.setattr(covary.Covariances, "sent", lambda *_: None)
    after = gradlint.analyze(build, (torch.randn(8, 32),))
    assert {n: p.grad_rms for n, p in before.parameters.items()} == {n: p.grad_rms for n, p in after.parameters.items()}
    assert [n.rms for n in before.nodes] == [n.rms for n in after.nodes]


def test_rules_are_for_transfer_functions_that_exist() -> None:
    from gradlint.covary import moves, twins
    from gradlint.ops import TABLE

    known = {op.name for op in TABLE.values()}
    assert twins._MULTILINEAR | twins._SAMPLES_FIRST | moves.NORMS | moves._SAME - {"identity"} <= known


class Mixed(nn.Module):
    """Two steps of a sequence mixed by shares whose values are known, as an RWKV block does it."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.linspace(0.0, 1.0, 64))
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.cat([x[:, :1], x[:, :-1]], 1)
        for layer in (self.first, self.second):
            x = x + layer(x * self.share + before * (1 - self.share))
        return x


def test_functions_of_a_tensor_whose_values_are_known_are_no_curves() -> None:
    analysis = gradlint.analyze(Mixed, ["4,6,64"])
    assert not [note for note in analysis.flowed.notes if "independent" in note]
