"""The two ways of running a forward to record it: with all values, or without those of large weights.

Small models are *real*: exact. Where weights were never drawn because there are too many of them, the *hybrid* rung runs
without. Each is the other's fallback: what cannot be run without values gets them, if they are not too many; what does not fit
into memory is run without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from gradlint.errors import InputError, TraceError
from gradlint.trace.deferred import LARGE
from gradlint.trace.hollow import Filled, Hollow, UnrunnableError
from gradlint.trace.inits import Laws
from gradlint.trace.private import storage_key

__all__ = ["AFFORDABLE", "Rung", "UnrunnableError", "climbed", "out_of_memory"]

AFFORDABLE = 1 << 28
"""Entries of parameters that may be drawn where a model cannot be run without their values: 1 GiB in single precision."""

_Result = TypeVar("_Result")


class Rung:
    """How forward is run; also the container of the parameters that have no values then.

    Args:
        hollow: those parameters.
        affordable: the model could be run with all values instead.
    """

    def __init__(self, hollow: list[nn.Parameter], laws: Laws, *, affordable: bool) -> None:
        self._hollow, self._laws, self._affordable = hollow, laws, affordable
        self._keys = {storage_key(p) for p in hollow}

    def __contains__(self, tensor: object) -> bool:
        return isinstance(tensor, torch.Tensor) and storage_key(tensor) in self._keys

    @property
    def name(self) -> str:
        """``real`` or ``hybrid``."""
        return "hybrid" if self._hollow else "real"

    def around(self) -> Hollow | Filled:
        """What to run forward in, once."""
        return Hollow(self._hollow, self._laws.fill) if self._hollow else Filled()

    def missed(self, what: str) -> None:
        """A value is missing that matters.

        Raises:
            UnrunnableError: the model can be run with all values.
        """
        if self._affordable:
            raise UnrunnableError(what)


def climbed(model: nn.Module, laws: Laws, attempt: Callable[[Rung], _Result]) -> _Result:
    """What ``attempt`` returns on the first rung that bears it."""
    for module in model.modules():  # masks and tables are known, whatever their size
        for value in (*vars(module).values(), *module.buffers(recurse=False)):
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                laws.fill(value)
    parameters = list(model.parameters())
    waiting = [p for p in parameters if p in laws.deferred]
    real = Rung([], laws, affordable=True)
    if waiting:
        affordable = sum(p.numel() for p in parameters) <= AFFORDABLE
        try:
            return attempt(Rung(waiting, laws, affordable=affordable))
        except (TraceError, InputError):
            if not affordable:
                raise
        laws.realise(model)
        return attempt(real)
    try:
        return attempt(real)
    except TraceError as error:
        large = [p for p in parameters if p.numel() >= LARGE]
        if not large or not out_of_memory(error.__cause__):
            raise
    return attempt(Rung(large, laws, affordable=False))


def out_of_memory(error: BaseException | None) -> bool:
    """What was raised says that there is too little memory; torch has an error of its own for that on accelerators only."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
