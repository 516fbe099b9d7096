"""A configuration as an ordinary ``nn.Module``, initialised when it is constructed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.trainability.configurations import Configuration

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
}
SYMBOLS, NOISE = 4, 2  # of the sequence task: those to remember, and those that follow
TOKENS = 8  # of a transformer


def build(c: Configuration) -> nn.Module:
    """The network of a configuration, with fresh weights."""
    if c.family in ("rnn", "lstm", "gru"):
        return Recurrent(c)
    if c.family == "transformer":
        return Transformer(c)
    return Convolutional(c) if "cnn" in c.family else Perceptron(c)


def initialise(layer: nn.Module, c: Configuration) -> None:
    """Weights and biases of one linear or convolutional layer as the configuration says."""
    weight = layer.weight
    fan_in = weight[0].numel()
    if c.initialiser == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    elif c.initialiser == "xavier":
        nn.init.xavier_uniform_(weight)
    elif c.initialiser == "normal":
        nn.init.normal_(weight, std=c.gain / math.sqrt(fan_in))
    elif c.initialiser == "uniform":
        bound = c.gain * math.sqrt(3 / fan_in)
        nn.init.uniform_(weight, -bound, bound)
    elif c.initialiser == "orthogonal":
        nn.init.orthogonal_(weight, gain=c.gain)
    if c.initialiser != "default" and layer.bias is not None:
        nn.init.normal_(layer.bias, std=c.bias) if c.bias else nn.init.zeros_(layer.bias)


def head(width: int, outputs: int, c: Configuration) -> nn.Linear:
    layer = nn.Linear(width, outputs)
    if c.head != 1.0:
        nn.init.normal_(layer.weight, std=c.head / math.sqrt(3 * width)) if c.head else nn.init.zeros_(layer.weight)
    return layer


def linear(inputs: int, outputs: int, c: Configuration) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    initialise(layer, c)
    return layer


def conv(inputs: int, outputs: int, c: Configuration, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    initialise(layer, c)
    return layer


def outputs_of(c: Configuration) -> int:
    return {"digits": 10, "regression": 1, "sequence": SYMBOLS}[c.task]


class Branch(nn.Module):
    """``x + scale·f(x)`` with a norm before, behind, or nowhere."""

    def __init__(self, body: nn.Module, norm: nn.Module | None, c: Configuration) -> None:
        super().__init__()
        self.body, self.place = body, c.place
        self.norm = norm if norm is not None else nn.Identity()
        self.scale = nn.Parameter(torch.full((1,), c.scale)) if c.learned else c.scale
        self.alpha = (2 * c.depth) ** 0.25 if c.place == "deepnorm" else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.place == "pre":
            return x + self.scale * self.body(self.norm(x))
        if self.place == "deepnorm":
            return self.norm(self.alpha * x + self.body(x))
        return self.norm(x + self.scale * self.body(x))


class Perceptron(nn.Module):
    def __init__(self, c: Configuration) -> None:
        super().__init__()
        inputs = 64 if c.task == "digits" else 10
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.first = linear(inputs, c.width, c)
        self.act = ACTIVATIONS[c.activation]()
        blocks: list[nn.Module] = []
        for _ in range(c.depth):
            norm = norms[c.norm](c.width) if c.norm != "none" else None
            if c.family == "mlp":
                blocks += [linear(c.width, c.width, c), *([norm] if norm is not None else []), ACTIVATIONS[c.activation]()]
            else:
                body = nn.Sequential(linear(c.width, c.width, c), ACTIVATIONS[c.activation](), linear(c.width, c.width, c))
                blocks.append(Branch(body, norm, c))
        self.blocks = nn.Sequential(*blocks)
        self.head = head(c.width, outputs_of(c), c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.act(self.first(x))))


class Convolutional(nn.Module):
    def __init__(self, c: Configuration) -> None:
        super().__init__()
        norms = {"batch": nn.BatchNorm2d, "layer": lambda width: nn.GroupNorm(1, width)}
        self.first = conv(1, c.width, c, stride=2)
        self.act = ACTIVATIONS[c.activation]()
        blocks: list[nn.Module] = []
        for _ in range(c.depth):
            norm = norms[c.norm](c.width) if c.norm != "none" else None
            if c.family == "cnn":
                blocks += [conv(c.width, c.width, c), *([norm] if norm is not None else []), ACTIVATIONS[c.activation]()]
            else:
                body = nn.Sequential(conv(c.width, c.width, c), ACTIVATIONS[c.activation](), conv(c.width, c.width, c))
                blocks.append(Branch(body, norm, c))
        self.blocks = nn.Sequential(*blocks)
        self.head = head(c.width * 16, outputs_of(c), c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.act(self.first(x))).flatten(1))


class Unrolled(nn.Module):
    """An Elman cell with its loop in Python."""

    def __init__(self, inputs: int, c: Configuration) -> None:
        super().__init__()
        self.ih = nn.Linear(inputs, c.width)
        self.hh = nn.Linear(c.width, c.width)
        self.act = ACTIVATIONS[c.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], self.hh.in_features)
        for t in range(x.shape[1]):
            h = self.act(self.ih(x[:, t]) + self.hh(h))
        return h


class Recurrent(nn.Module):
    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS + NOISE, 8) if c.task == "sequence" else nn.Identity()
        self.unrolled = c.unrolled
        self.cell: nn.Module
        if c.unrolled:
            self.cell = Unrolled(8, c)
        elif c.family == "rnn":
            self.cell = nn.RNN(8, c.width, nonlinearity=c.activation, batch_first=True)
        else:
            self.cell = {"lstm": nn.LSTM, "gru": nn.GRU}[c.family](8, c.width, batch_first=True)
        self.reset(c)
        self.head = head(c.width, outputs_of(c), c)

    def reset(self, c: Configuration) -> None:
        """Recurrent weights of the wanted spectral radius, gates of the wanted bias."""
        weights = [self.cell.hh.weight] if isinstance(self.cell, Unrolled) else [self.cell.weight_hh_l0]
        for weight in weights:
            if c.radius and c.initialiser in ("orthogonal", "xavier"):
                for start in range(0, weight.shape[0], c.width):
                    nn.init.orthogonal_(weight[start : start + c.width], gain=c.radius)
            elif c.radius:
                nn.init.normal_(weight, std=c.radius / math.sqrt(c.width))
        if c.forget:  # PyTorch's order of gates: LSTM i, f, g, o; GRU r, z, n
            with torch.no_grad():
                self.cell.bias_ih_l0[c.width : 2 * c.width].fill_(c.forget)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        if self.unrolled:
            return self.head(self.cell(x))
        out, _ = self.cell(x)
        return self.head(out[:, -1])


class Attention(nn.Module):
    def __init__(self, c: Configuration, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(c.width, 3 * c.width, c)
        self.out = linear(c.width, c.width, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):
    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, c.width) if c.task == "digits" else nn.Embedding(SYMBOLS + NOISE, c.width)
        self.positions = nn.Parameter(torch.randn(TOKENS, c.width))
        blocks: list[nn.Module] = []
        for _ in range(c.depth):
            feed = nn.Sequential(linear(c.width, 2 * c.width, c), ACTIVATIONS[c.activation](), linear(2 * c.width, c.width, c))
            norms = [nn.LayerNorm(c.width) if c.place != "none" else None for _ in range(2)]
            blocks += [Branch(Attention(c), norms[0], c), Branch(feed, norms[1], c)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(c.width) if c.place == "pre" else nn.Identity()
        self.head = head(c.width, outputs_of(c), c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x) + self.positions)).mean(1))
