"""Arguments before they are made: trees whose leaves say what a tensor should be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradlint.trace.graph import InputSpec

__all__ = ["Batch", "Key", "Leaf", "Record", "Values", "at", "leaves", "made", "put"]

Key = tuple[str | int, ...]
"""Where a leaf is: the argument's name, then the keys and positions within it."""

Values = Mapping[str, Any]
"""An argument's name to its tree: a leaf, a tuple, list or :class:`Batch` of trees, or a plain value."""


@dataclass(frozen=True)
class Leaf:
    """A tensor to be made.

    Args:
        high: exclusive upper bound of integers.
        fill: every entry is this; None draws them: N(0, 1), or uniform over the range of integers, or fair coins.
    """

    shape: tuple[int, ...]
    dtype: str
    high: int | None = None
    fill: float | None = None

    @property
    def kind(self) -> str:
        """``float`` (or complex), ``int`` or ``bool``."""
        return "bool" if self.dtype == "bool" else "int" if "int" in self.dtype else "float"

    @staticmethod
    def of(spec: InputSpec) -> Leaf:
        """What a spec describes."""
        return Leaf(spec.shape, spec.dtype, spec.high)

    def spec(self, name: str) -> InputSpec:
        """Its description."""
        return InputSpec(name, self.shape, self.dtype, self.high)

    def draw(self) -> torch.Tensor:
        """The tensor."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        if self.fill is not None:
            return torch.full(self.shape, self.fill).to(dtype)
        if self.kind == "float":
            return torch.randn(self.shape, dtype=dtype)
        return torch.randint(0, 2 if self.kind == "bool" else max(self.high or 2, 1), self.shape).to(dtype)

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Batch(dict[str, Any]):
    """What a data loader hands over: fields by key or as attributes, moved to a device as a whole."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def to(self, *_: Any, **__: Any) -> Batch:
        """Itself: there is one device."""
        return self


class Record(Batch):
    """One whose fields were asked for as attributes; nothing but a misspelt name of a tensor's asks for only one."""


def leaves(values: Any, key: Key = ()) -> Iterator[tuple[Key, Leaf]]:
    """Every leaf and where it is, in order."""
    if isinstance(values, Leaf):
        yield key, values
    elif isinstance(values, Mapping):
        for name, item in values.items():
            yield from leaves(item, (*key, name))
    elif isinstance(values, tuple | list):
        for index, item in enumerate(values):
            yield from leaves(item, (*key, index))


def at(values: Any, key: Key) -> Any:
    """The tree at ``key``."""
    for part in key:
        values = values[part]
    return values


def put(values: Any, key: Key, tree: Any) -> Any:
    """``values`` with ``tree`` at ``key``."""
    if not key:
        return tree
    if isinstance(values, Mapping):
        return type(values)({**values, key[0]: put(values.get(key[0]), key[1:], tree)})  # type: ignore[call-arg]
    changed = list(values)
    changed[int(key[0])] = put(changed[int(key[0])], key[1:], tree)
    return type(values)(changed)


def made(values: Any, tensors: dict[Key, torch.Tensor], key: Key = ()) -> Any:
    """``values`` with tensors for leaves; each tensor is also put into ``tensors``."""
    if isinstance(values, Leaf):
        tensors[key] = values.draw()
        return tensors[key]
    if isinstance(values, torch.Tensor):
        return values.detach().clone()
    if isinstance(values, Mapping):
        fields = {name: made(item, tensors, (*key, name)) for name, item in values.items()}
        return type(values)(fields) if isinstance(values, Batch) else fields
    if type(values) in (tuple, list):
        return type(values)(made(item, tensors, (*key, index)) for index, item in enumerate(values))
    return values
