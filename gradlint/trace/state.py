"""Leave no trace of tracing: random number generators and the model's state as they were."""

from __future__ import annotations

import copy
import gc
import random
import sys
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradlint.trace.private import unoptimised, unscripted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

__all__ = ["SEED", "drawn_outside", "eager", "is_lazy", "preserved", "seeded", "settled", "uncompiled"]

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


@contextmanager
def settled() -> Iterator[None]:
    """Within it the collector of garbage looks only at what is made within it: a process that has imported torch holds much."""
    if gc.get_freeze_count():  # somebody else did that
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def is_lazy(model: nn.Module) -> bool:
    """Some parameters get their shape from the first input."""
    return any(isinstance(p, UninitializedParameter) for p in model.parameters())


@contextmanager
def preserved(model: nn.Module, *, parameters: bool = True, blank: Container[torch.Tensor] = ()) -> Iterator[None]:
    """Restore ``model`` at the end: training flags, buffers, parameters and their gradients, attributes, hooks.

    Of the attributes that are lists, dicts, sets or tensors the contents are restored, too, but not what is inside those.

    Args:
        parameters: also restore the values of parameters that were written in place.
        blank: tensors that have no values.
    """
    if is_lazy(model):  # there is nothing yet that could be restored
        yield
        return
    flags = [(module, module.training) for module in model.modules()]
    modules = [module for module, _ in flags if not isinstance(module, torch.jit.ScriptModule)]
    attributes = [(module, dict(vars(module))) for module in modules]
    containers = [_Contents(value) for _, table in attributes for value in table.values() if isinstance(value, _CONTAINERS)]
    states = [value for _, table in attributes for value in table.values() if isinstance(value, torch.Tensor)]
    weights = list(model.parameters())
    held = [(p, p.data, p.grad, p.requires_grad) for p in weights]
    tensors = [_Written(t) for t in (*model.buffers(), *states, *(p.grad for p in weights if p.grad is not None))]
    # Forward seldom writes parameters (weight clipping): their values are kept only for models where that is cheap.
    if parameters and sum(p.numel() for p in weights) <= _CHEAP:
        tensors += [_Written(p) for p in weights if p not in blank]
    try:
        yield
    finally:
        for module, table in attributes:
            vars(module).clear()
            vars(module).update(table)
        for contents in containers:
            contents.restore()
        for module, training in flags:
            module.training = training
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
        self._tensor, self._values = tensor, tensor.detach().clone()

    def restore(self) -> None:
        # The version counter would not tell: neither writes to `.data` nor statistics of batch normalisation are counted.
        if not torch.equal(self._tensor, self._values):
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
