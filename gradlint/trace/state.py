"""Leave no trace of tracing: random number generators and the model's state as they were."""

from __future__ import annotations

import copy
import random
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradlint.trace.private import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SEED", "is_lazy", "preserved", "seeded", "uncompiled"]

SEED = 0
_CHEAP = 50_000_000
_CONTAINERS = (dict, list, set, deque)


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python; restore all three at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # A CPU generator only: torch.manual_seed would also seed, and so initialise, accelerators.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def is_lazy(model: nn.Module) -> bool:
    """Some parameters get their shape from the first input."""
    return any(isinstance(p, UninitializedParameter) for p in model.parameters())


@contextmanager
def preserved(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Restore ``model`` at the end: training flags, buffers, parameters and their gradients, attributes, hooks.

    Of the attributes that are lists, dicts, sets or tensors the contents are restored, too, but not what is inside those.

    Args:
        parameters: also restore the values of parameters that were written in place.
    """
    if is_lazy(model):  # there is nothing yet that could be restored
        yield
        return
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    containers = [_Contents(value) for _, table in attributes for value in table.values() if isinstance(value, _CONTAINERS)]
    states = [value for _, table in attributes for value in table.values() if isinstance(value, torch.Tensor)]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    held = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    tensors = [_Written(t) for t in (*model.buffers(), *states, *grads)]
    # Forward seldom writes parameters (weight clipping): their values are kept only for models where that is cheap.
    if parameters and sum(p.numel() for p in model.parameters()) <= _CHEAP:
        tensors += [_Written(p) for p in model.parameters()]
    try:
        yield
    finally:
        for module, table in attributes:
            vars(module).clear()
            vars(module).update(table)
        for contents in containers:
            contents.restore()
        for parameter, data, grad, requires_grad in held:
            parameter.data = data
            parameter.grad = grad
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for tensor in tensors:
                tensor.restore()


class _Written:
    """A tensor and its values, which are put back if they were written."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = tensor, version(tensor)
        self._values = tensor.detach().clone()

    def restore(self) -> None:
        # Batch normalisation writes its statistics without counting that as a version.
        if not isinstance(self._tensor, nn.Parameter) or version(self._tensor) != self._version:
            self._tensor.detach().copy_(self._values)


class _Contents:
    """A container and what was in it."""

    def __init__(self, container: Any) -> None:
        self._container, self._items = container, copy.copy(container)

    def restore(self) -> None:
        self._container.clear()
        getattr(self._container, "extend" if isinstance(self._container, list | deque) else "update")(self._items)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Make ``torch.compile`` return what it is given: compiled code cannot be recorded and takes seconds to make."""
    compile_ = torch.compile

    def identity(model: Callable[..., Any] | None = None, **_: Any) -> Any:
        return (lambda inner: inner) if model is None else model

    torch.compile = identity
    try:
        yield
    finally:
        torch.compile = compile_
