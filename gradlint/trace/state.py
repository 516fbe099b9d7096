"""Leave no trace of tracing: random number generators, the model's state and torch's globals as they were."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

__all__ = ["SEED", "is_lazy", "preserved", "seeded", "uncompiled"]

SEED = 0
_CHEAP = 50_000_000
_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python; restore all three at the end, and the default dtype."""
    python, numpy, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
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
            torch.set_default_dtype(dtype)


def is_lazy(model: nn.Module) -> bool:
    """Some parameters get their shape from the first input."""
    return any(isinstance(p, UninitializedParameter) for p in model.parameters())


@contextmanager
def preserved(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Restore ``model`` at the end: training flags, buffers, parameters and their gradients, attributes, hooks.

    Attributes are restored shallowly: a list that forward appends to keeps what was appended.

    Args:
        parameters: also restore the values of parameters that were written in place.
    """
    if is_lazy(model):  # there is nothing yet that could be restored
        yield
        return
    modules = list(model.modules())
    before = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in _DICTS if name in vars(module)})
        for module in modules
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    weights = list(model.parameters())
    held = [(p, p.data, p.grad, p.requires_grad, p._version) for p in weights]
    # Forward seldom writes parameters (weight clipping): their values are kept only for models where that is cheap.
    cheap = parameters and sum(p.numel() for p in weights) <= _CHEAP
    values = [p.detach().clone() if cheap else None for p in weights]
    try:
        yield
    finally:
        for module, attributes, tables in before:
            vars(module).clear()
            vars(module).update(attributes)
            for name, table in tables.items():
                vars(module)[name].clear()
                vars(module)[name].update(table)
        with torch.no_grad():
            for (parameter, data, grad, requires_grad, version), value in zip(held, values, strict=True):
                parameter.data = data
                parameter.grad = grad
                parameter.requires_grad_(requires_grad)
                if value is not None and parameter._version != version:
                    parameter.copy_(value)
            for buffer, kept in buffers:
                buffer.copy_(kept)


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
