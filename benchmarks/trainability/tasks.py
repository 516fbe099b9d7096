"""The three tasks, whole training sets in memory: images, regression, a symbol to remember."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits, make_friedman1
from torch.nn import functional as F

from benchmarks.trainability.networks import NOISE, SYMBOLS, TOKENS

if TYPE_CHECKING:
    from benchmarks.trainability.configurations import Configuration

BATCH = 32
SEQUENCES = 2048


@dataclass(frozen=True)
class Task:
    """Inputs, targets, and the loss of the best constant answer."""

    x: torch.Tensor
    y: torch.Tensor
    constant: float

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(output.squeeze(1), y) if y.is_floating_point() else F.cross_entropy(output, y)


def task_of(c: Configuration) -> Task:
    """The task of a configuration, its inputs in the shape that the network takes."""
    if c.task == "regression":
        return regression()
    if c.task == "sequence":
        return sequence(c.depth if c.family in ("rnn", "lstm", "gru") else TOKENS)
    task = digits()
    shape = {"mlp": (64,), "residual mlp": (64,), "cnn": (1, 8, 8), "residual cnn": (1, 8, 8)}.get(c.family, (8, 8))
    return Task(task.x.view(-1, *shape), task.y, task.constant)


@functools.cache
def digits() -> Task:
    """1,797 handwritten digits of 8 × 8 pixels (UCI, as scikit-learn brings them), standardised as a whole."""
    x, y = load_digits(return_X_y=True)
    pixels = torch.tensor(x, dtype=torch.float32)
    return Task((pixels - pixels.mean()) / pixels.std(), torch.tensor(y), math.log(10))


@functools.cache
def regression() -> Task:
    """Friedman 1991: five of ten uniform inputs matter, through a sine, a square, two lines; all standardised."""
    x, y = make_friedman1(2048, n_features=10, noise=0.5, random_state=0)
    inputs, target = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return Task((inputs - inputs.mean(0)) / inputs.std(0), (target - target.mean()) / target.std(), 1.0)


@functools.cache
def sequence(steps: int) -> Task:
    """Which of four symbols stood first? Two others follow it as noise."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randint(SYMBOLS, SYMBOLS + NOISE, (SEQUENCES, steps), generator=generator)
    x[:, 0] = torch.randint(0, SYMBOLS, (SEQUENCES,), generator=generator)
    return Task(x, x[:, 0].clone(), math.log(SYMBOLS))
