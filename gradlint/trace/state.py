"""Leave no trace of tracing: random number generators, the model's state and torch's globals as they were."""

from __future__ import annotations

import random
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedParameter

from gradlint.trace.private import unoptimised, unscripted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

__all__ = ["SEED", "drawn_outside", "eager", "is_lazy", "preserved", "seeded", "uncompiled"]

SEED = 0
_CHEAP = 50_000_000
_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python; restore all three at the end, and the default dtype and device."""
    python, numpy, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    device = torch.get_default_device()
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
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def drawn_outside() -> Iterator[list[str]]:
    """At the end of the block the list names the generators other than torch's that were drawn from in it."""
    found: list[str] = []
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    yield found
    if random.getstate() != python:
        found.append("random")
    now: Any = np.random.get_state(legacy=False)
    before: Any = numpy
    if now["state"]["pos"] != before["state"]["pos"] or not np.array_equal(now["state"]["key"], before["state"]["key"]):
        found.append("numpy.random")


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
    flags = [(module, module.training) for module in model.modules()]
    modules = [module for module, _ in flags if not isinstance(module, torch.jit.ScriptModule)]
    before = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in _DICTS if name in vars(module)})
        for module in modules
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    weights = list(model.parameters())
    held = [(p, p.data, p.grad, p.requires_grad) for p in weights]
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
        for module, training in flags:
            module.training = training
        with torch.no_grad():
            for (parameter, data, grad, requires_grad), value in zip(held, values, strict=True):
                parameter.data = data
                parameter.grad = grad
                parameter.requires_grad_(requires_grad)
                # The version counter would not tell: writes to `.data` are not counted.
                if value is not None and not torch.equal(parameter, value):
                    parameter.copy_(value)
            for buffer, kept in buffers:
                buffer.copy_(kept)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Make ``torch.compile`` and ``torch.jit`` return what they are given: what is compiled can hardly be recorded."""
    compile_ = torch.compile

    def identity(model: Callable[..., Any] | None = None, **_: Any) -> Any:
        return (lambda inner: inner) if model is None else model

    torch.compile = identity
    try:
        with unscripted():
            yield
    finally:
        torch.compile = compile_


@contextmanager
def eager() -> Iterator[None]:
    """Run what ``torch.compile`` has compiled as the Python that it was, and scripts without an autograd of their own."""
    with ExitStack() as stack:
        stack.enter_context(unoptimised())
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and to ask would import it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
