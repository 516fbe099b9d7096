"""Memory that is written in place, in a graph where every value is written once.

Tensors that share storage are views of one *root*. A write to any of them makes a new node for it and a new node for the
root (``select_scatter``, ``slice_scatter``, ``reshape`` … of the new part into the old whole); the others are stale and are
derived anew from the root's node when they are next read. Views are told apart by geometry (size, stride, offset), so it
does not matter how they were made.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from gradlint.trace.private import storage_key, view_base

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import fx

__all__ = ["Emit", "Memory", "same_memory", "setitem", "view_scatter"]


class Emit(Protocol):
    """Adds a call to the graph; ``like`` has the shape and dtype of the result."""

    def __call__(self, op: str, target: Any, args: tuple[Any, ...], like: torch.Tensor) -> fx.Node:
        """Add it."""
        ...


def view_scatter(base: torch.Tensor, part: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    """A copy of contiguous ``base`` in which the view of that geometry has the values of ``part``."""
    out = base.clone(memory_format=torch.contiguous_format)
    out.as_strided(tuple(size), tuple(stride), offset).copy_(part)
    return out


def setitem(base: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """A copy of ``base`` in which ``base[index]`` is ``value``."""
    out = base.clone()
    out[index] = value
    return out


@dataclass
class _Entry:
    tensor: torch.Tensor  # kept alive: identities are keys
    node: fx.Node
    epoch: int


@dataclass
class _Storage:
    """What is known of one storage: the tensors seen on it, and after a write the root and its newest node."""

    tensors: list[torch.Tensor] = field(default_factory=list)
    root: torch.Tensor | None = None
    node: fx.Node | None = None
    epoch: int = 0


class Memory:
    """Which node has the present value of a tensor.

    Args:
        emit: adds a call to the graph.
        constant: the ``get_attr`` node of a real value.
    """

    def __init__(self, emit: Emit, constant: Callable[[torch.Tensor], fx.Node]) -> None:
        self._emit = emit
        self._constant = constant
        self._entries: dict[int, _Entry] = {}
        self._storages: dict[int, _Storage] = {}

    def knows(self, tensor: torch.Tensor) -> bool:
        """A node was recorded for the tensor, or for other tensors in the same memory."""
        return id(tensor) in self._entries or self._storages.get(storage_key(tensor) or 0) is not None

    def has(self, tensor: torch.Tensor) -> bool:
        """This very tensor (not only its memory) has a node."""
        return id(tensor) in self._entries

    def bind(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """``tensor`` is what ``node`` made."""
        key = storage_key(tensor)
        epoch = 0
        if key is not None:
            storage = self._storages.setdefault(key, _Storage())
            if id(tensor) not in self._entries:
                storage.tensors.append(tensor)
            epoch = storage.epoch
        self._entries[id(tensor)] = _Entry(tensor, node, epoch)

    def rename(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """``tensor`` itself has changed its shape (``unsqueeze_``); its memory has not been written."""
        self.bind(tensor, node)

    def read(self, tensor: torch.Tensor) -> fx.Node | None:
        """The node of the tensor's present value; None if nothing is known of its memory."""
        entry = self._entries.get(id(tensor))
        storage = self._storages.get(storage_key(tensor) or 0)
        if entry is not None and (storage is None or entry.epoch == storage.epoch):
            return entry.node
        if storage is None:
            return None
        root, node = self._root(storage, tensor)
        if node is None:
            return None
        found = self._derive(root, node, tensor)
        self.bind(tensor, found)
        return found

    def root_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor that a write to ``tensor`` also changes: the largest known in its memory."""
        storage = self._storages.get(storage_key(tensor) or 0)
        return self._root(storage, tensor)[0] if storage is not None else self._base(tensor)

    def write(self, tensor: torch.Tensor, node: fx.Node, before: torch.Tensor | None) -> None:
        """``tensor`` was overwritten with the value of ``node``.

        Args:
            before: value of :meth:`root_of` before the write, where that was a constant; else None.
        """
        key = storage_key(tensor)
        if key is None:
            self._entries[id(tensor)] = _Entry(tensor, node, 0)
            return
        storage = self._storages.setdefault(key, _Storage())
        root, old = self._root(storage, tensor)
        if root is tensor or _same(root, tensor):
            new = node
        else:
            if old is None:
                old = self._constant(root if before is None else before)
            new = self._scatter(root, old, tensor, node)
        storage.root, storage.node = root, new
        storage.epoch += 1
        self.bind(root, new)
        self.bind(tensor, node)

    def _base(self, tensor: torch.Tensor) -> torch.Tensor:
        base = view_base(tensor)
        return tensor if base is None else base

    def _root(self, storage: _Storage, tensor: torch.Tensor) -> tuple[torch.Tensor, fx.Node | None]:
        if storage.root is not None:
            return storage.root, storage.node
        base = self._base(tensor)
        if storage.tensors:
            largest = max(storage.tensors, key=lambda t: t.numel())
            if id(base) in self._entries or base.numel() <= largest.numel():
                base = largest
        entry = self._entries.get(id(base))
        return base, None if entry is None else entry.node

    def _derive(self, root: torch.Tensor, node: fx.Node, view: torch.Tensor) -> fx.Node:
        if _same(root, view):
            return node
        index = basic_index(root, view)
        if index is not None:
            return self._emit("call_function", operator.getitem, (node, index), view)
        if order := _permutation(root, view):
            return self._emit("call_method", "permute", (node, *order), view)
        if _flat_alike(root, view):
            return self._emit("call_method", "reshape", (node, *view.shape), view)
        offset = view.storage_offset() - root.storage_offset()
        return self._emit("call_function", torch.as_strided, (node, tuple(view.shape), view.stride(), offset), view)

    def _scatter(self, root: torch.Tensor, old: fx.Node, view: torch.Tensor, part: fx.Node) -> fx.Node:
        index = basic_index(root, view)
        if index is not None:
            return self._scatter_at(root.detach(), old, index, part)
        if order := _permutation(root, view):
            inverse = [order.index(axis) for axis in range(len(order))]
            return self._emit("call_method", "permute", (part, *inverse), root)
        if _flat_alike(root, view):
            return self._emit("call_method", "reshape", (part, *root.shape), root)
        offset = view.storage_offset() - root.storage_offset()
        args = (old, part, tuple(view.shape), view.stride(), offset)
        return self._emit("call_function", view_scatter, args, root)

    def _scatter_at(self, whole: torch.Tensor, old: fx.Node, index: tuple[int | slice, ...], part: fx.Node) -> fx.Node:
        """Emit ``whole`` with ``part`` at ``index``, one axis after the other."""
        axis = next(
            (
                axis
                for axis, at in enumerate(index)
                if isinstance(at, int) or len(range(whole.shape[axis])[at]) < whole.shape[axis]
            ),
            None,
        )
        if axis is None:
            return part
        at = index[axis]
        rest = index[axis + 1 :]
        inner = whole[(slice(None),) * axis + (at,)]
        inner_index = (slice(None),) * (axis if isinstance(at, int) else axis + 1) + rest
        if any(isinstance(i, int) or i != slice(None) for i in rest):
            choice = (slice(None),) * axis + (at,)
            inner_old = self._emit("call_function", operator.getitem, (old, choice), inner)
            part = self._scatter_at(inner, inner_old, inner_index, part)
        if isinstance(at, int):
            return self._emit("call_function", torch.select_scatter, (old, part, axis, at), whole)
        place = (old, part, axis, at.start, at.stop, at.step)
        return self._emit("call_function", torch.slice_scatter, place, whole)


def same_memory(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Both are the same entries of the same storage."""
    return storage_key(x) == storage_key(y) is not None and _same(x, y)


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    strides = tuple(0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tuple(tensor.shape), strides, tensor.storage_offset(), tensor.dtype


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return _geometry(x) == _geometry(y)


def _flat_alike(x: torch.Tensor, y: torch.Tensor) -> bool:
    return (
        x.is_contiguous()
        and y.is_contiguous()
        and x.numel() == y.numel()
        and x.storage_offset() == y.storage_offset()
        and x.dtype == y.dtype
    )


def _permutation(root: torch.Tensor, view: torch.Tensor) -> tuple[int, ...] | None:
    if root.dim() != view.dim() or root.dim() > 6 or root.storage_offset() != view.storage_offset():
        return None
    for order in itertools.permutations(range(root.dim())):
        if _same(root.detach().permute(order), view):
            return order
    return None


def basic_index(root: torch.Tensor, view: torch.Tensor) -> tuple[int | slice, ...] | None:
    """Integers and slices such that ``root[index]`` is the memory that ``view`` is; None if there are none."""
    if root.dtype != view.dtype or view.dim() > root.dim() or root.numel() == 0 or view.numel() == 0:
        return None
    delta = view.storage_offset() - root.storage_offset()
    starts = [0] * root.dim()
    strides = root.stride()
    for axis in sorted(range(root.dim()), key=lambda d: strides[d], reverse=True):
        stride = strides[axis]
        if root.shape[axis] > 1 and stride > 0:
            starts[axis] = min(delta // stride, root.shape[axis] - 1)
            delta -= starts[axis] * stride
    if delta != 0 or any(start < 0 for start in starts):
        return None
    kept = root.detach()
    # Axes of size 1 are ambiguous: try each way of dropping the axes that the view no longer has.
    for dropped in itertools.combinations(range(root.dim()), root.dim() - view.dim()):
        index: list[int | slice] = []
        sizes = iter(zip(view.shape, view.stride(), strict=True))
        for axis in range(root.dim()):
            if axis in dropped:
                index.append(starts[axis])
                continue
            size, stride = next(sizes)
            step = stride // strides[axis] if size > 1 and strides[axis] > 0 else 1
            start, stop = starts[axis], starts[axis] + (size - 1) * step + 1
            if step < 1 or stop > root.shape[axis]:
                break
            index.append(slice(None) if size == root.shape[axis] else slice(start, stop, step))
        else:
            found = tuple(index)
            if _same(kept[found], view):
                return found
    return None
