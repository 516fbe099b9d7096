"""Tensors inside arbitrary arguments and results."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

__all__ = ["first_floating", "map_tensors", "tensors_in"]

_DEPTH = 6
_LEAVES = (str, int, float, type, torch.dtype, torch.device, torch.layout, torch.memory_format, nn.Module)


def tensors_in(value: Any, depth: int = _DEPTH) -> list[torch.Tensor]:
    """The tensors in nested containers, dataclasses and plain objects, in order."""
    found: list[torch.Tensor] = []
    _collect(value, depth, found)
    return found


def _collect(value: Any, depth: int, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif depth == 0 or value is None or isinstance(value, _LEAVES):
        return
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _collect(item, depth - 1, found)
    elif isinstance(value, dict) or isinstance(value, Mapping):  # noqa: SIM101  (asking an abstract class is slow)
        for item in value.values():
            _collect(item, depth - 1, found)
    elif isinstance(value, slice):
        _collect((value.start, value.stop, value.step), depth - 1, found)
    elif isinstance(value, SimpleNamespace):
        _collect(vars(value), depth - 1, found)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name, None), depth - 1, found)


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
