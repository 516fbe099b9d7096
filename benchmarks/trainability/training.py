"""Train a configuration for real, with three optimisers, and say how it went.

Everything is capped by steps, never by time, so that a label is the same on a slow machine. A run is

- *trained* when the mean loss of 20 steps in a row falls to half the loss of the best constant answer within 300 steps,
- *diverged* when it was not trained and a loss was not finite, or ten times above both its first value and the constant answer's,
- *stuck* otherwise. A run whose loss is not 3 % below the constant answer's after 120 steps is stopped there.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.trainability.networks import build
from benchmarks.trainability.tasks import BATCH, Task, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from benchmarks.trainability.configurations import Configuration

STEPS, WINDOW, LOOK = 300, 20, 120
TRAINED, PROGRESS, BLOWN = 0.5, 0.97, 10.0
RATES = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3}
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=RATES["sgd"], fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=RATES["momentum"], momentum=0.9, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=RATES["adam"], fused=True),
}


@dataclass(frozen=True)
class Outcome:
    """What a run did: losses over the best constant answer's."""

    label: str
    steps: int
    final: float
    peak: float


@dataclass(frozen=True)
class Checks:
    """What a person would look at before training: one real forward and backward pass on one batch.

    Args:
        loss: at initialisation, over the best constant answer's.
        gain: log2 of the gradient's norm at the first layer's input over its norm at the output.
        ratio: log2 of the largest over the smallest gradient norm of a weight (two or more axes).
        norm: log2 of the norm of the gradient of all parameters.
    """

    loss: float
    gain: float
    ratio: float
    norm: float


def label(c: Configuration) -> dict[str, Any]:
    """Configuration, simple checks and outcomes, ready for JSON."""
    task = task_of(c)
    torch.manual_seed(c.seed)
    model = build(c)
    found = checks(copy.deepcopy(model), task, c)
    outcomes = {name: train(copy.deepcopy(model), task, make, c.seed) for name, make in OPTIMISERS.items()}
    return {
        "configuration": c.to_dict(),
        "checks": {k: rounded(v) for k, v in asdict(found).items()},
        "outcomes": {name: {k: rounded(v) for k, v in asdict(outcome).items()} for name, outcome in outcomes.items()},
    }


def rounded(value: Any) -> Any:
    """Four digits; what is not finite as JSON can say it."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def batches(task: Task, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled epochs without end; the last, incomplete batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(task.x), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield task.x[chosen], task.y[chosen]


def train(model: nn.Module, task: Task, make: Callable[[Any], torch.optim.Optimizer], seed: int) -> Outcome:
    """One run."""
    model.train()
    optimiser = make(model.parameters())
    losses: list[float] = []
    for x, y in batches(task, seed):
        loss = task.loss(model(x), y)
        losses.append(loss.item() / task.constant)
        if not math.isfinite(losses[-1]):
            return Outcome("diverged", len(losses), math.inf, math.inf)
        recent = sum(losses[-WINDOW:]) / WINDOW
        if len(losses) >= WINDOW and recent <= TRAINED:
            return Outcome("trained", len(losses), recent, max(losses))
        if len(losses) == STEPS or (len(losses) == LOOK and recent > PROGRESS):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    blown = max(losses) > BLOWN * max(losses[0], 1.0)
    return Outcome("diverged" if blown else "stuck", len(losses), recent, max(losses))


def checks(model: nn.Module, task: Task, c: Configuration) -> Checks:
    """One backward pass on the first batch."""
    x, y = next(batches(task, c.seed))
    seen: list[torch.Tensor] = []
    if x.is_floating_point():
        seen.append(x.requires_grad_())
    else:
        model.embedding.register_forward_hook(lambda _module, _args, output: seen.append(output))
    output = model(x)
    loss = task.loss(output, y)
    inputs = [seen[0], output, *model.parameters()]
    at_input, at_output, *gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    norms = [0.0 if g is None else float(g.norm()) for g in gradients]
    weights = [n for n, p in zip(norms, model.parameters(), strict=True) if p.dim() > 1 and n > 0]
    return Checks(
        loss.item() / task.constant,
        log2(float(at_input.norm())) - log2(float(at_output.norm())),
        log2(max(weights)) - log2(min(weights)) if weights else 0.0,
        log2(math.sqrt(sum(n * n for n in norms))),
    )


def log2(x: float) -> float:
    return math.log2(x) if 0 < x < math.inf else math.inf if x > 0 else -math.inf if x == 0 else math.nan
