"""Tensors inside arbitrary arguments and results."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

__all__ = ["first_floating", "map_tensors", "tensors_in"]

_DEPTH = 6


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[torch.Tensor]:
    """The tensors in nested containers, dataclasses and plain objects, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth == 0 or value is None or isinstance(value, str | int | float | type | nn.Module):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step), depth - 1)
    elif isinstance(value, SimpleNamespace):
        yield from tensors_in(vars(value), depth - 1)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), depth - 1)


def first_floating(value: Any) -> torch.Tensor | None:
    """The first floating-point tensor in ``value``."""
    return next((t for t in tensors_in(value) if t.is_floating_point()), None)


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with each tensor in its containers and dataclasses replaced; other objects are kept as they are."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, function) for v in value))
    if type(value) in (list, tuple):
        return type(value)(map_tensors(v, function) for v in value)
    if isinstance(value, dict):
        copied = copy.copy(value)
        for key, item in value.items():
            copied[key] = map_tensors(item, function)
        return copied
    if isinstance(value, SimpleNamespace) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        changed = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(changed, name, map_tensors(item, function))
        return changed
    return value
