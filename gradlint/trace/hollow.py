"""Operators on tensors without values: the shapes of their results are computed, their numbers are not.

The hybrid rung of tracing. Large weights, and what is computed from them, are *hollow*: ordinary CPU tensors on memory that
nothing is written to (:mod:`gradlint.trace.reserve`), so views, strides, in-place writes and autograd are torch's own.
Inputs, small parameters and every integer or boolean tensor are real. Where integers come of hollow numbers (``argmax``,
``topk``, ``x > 0``) the operator runs on seeded normal stand-ins; a hollow number that leaves torch is taken to be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from gradlint.errors import TraceError
from gradlint.trace.names import RESHAPES
from gradlint.trace.private import DispatchMode, StorageWeakRef, hold, is_view_operator, operator_name, storage_key
from gradlint.trace.reserve import Reserve
from gradlint.trace.source import transparent
from gradlint.trace.tree import map_tensors, tensors_in

__all__ = ["Filled", "Hollow", "UnrunnableError"]

_SMALL = 1 << 12  # entries up to which memory is simply allocated
_MOST = 1 << 25  # entries of all stand-ins of one call


class UnrunnableError(TraceError):
    """An operator can neither be run without values nor on stand-ins."""


class Filled(AbstractContextManager[None]):
    """Every tensor has values: in place of a :class:`Hollow`."""

    def __exit__(self, *_: object) -> None:
        return None

    def __contains__(self, _: torch.Tensor) -> bool:
        return False

    def __bool__(self) -> bool:
        return False


class Hollow(DispatchMode):
    """Runs what it is entered around without the values of some tensors.

    Args:
        tensors: are hollow from the beginning.
        fill: gives a tensor that waits for its values these values.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], fill: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[int, StorageWeakRef] = {}
        self._fill = fill
        self._reserve = Reserve()
        self._calls = 0
        self._shapes: dict[Any, Any] = {}
        for tensor in tensors:
            self._mark(tensor)

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return storage_key(tensor) in self._storages

    def __bool__(self) -> bool:
        return bool(self._storages)

    @transparent
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if not any(t in self for t in tensors):
            for tensor in tensors:
                self._fill(tensor)
            return func(*args, **kwargs)
        name = operator_name(func)
        if is_view_operator(func) or name in RESHAPES or name == "detach_":
            return func(*args, **kwargs)
        if name == "_local_scalar_dense":
            return 1.0 if args[0].is_floating_point() else complex(1.0)
        written = kwargs["out"] if isinstance(kwargs.get("out"), torch.Tensor) else args[0] if name.endswith("_") else None
        if written is None:
            return self._computed(func, args, kwargs)
        if not isinstance(written, torch.Tensor):  # lists of them
            for tensor in tensors_in(written):
                self._mark(tensor)
        elif written.is_floating_point() or written.is_complex():
            self._mark(written)
        else:
            self._on_stand_ins(func, args, kwargs)
        return written

    def _computed(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What an operator returns, in new memory."""
        try:
            shapes = self._shaped(func, args, kwargs)
        except (NotImplementedError, RuntimeError, IndexError, TypeError, ValueError) as error:
            return self._without_shapes(func, args, kwargs, error)
        if all(t.is_floating_point() or t.is_complex() for t in tensors_in(shapes)):
            return map_tensors(shapes, self._blank)
        return self._on_stand_ins(func, args, kwargs)

    def _shaped(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What ``func`` returns, without values; layers that are alike ask for the same."""
        key = (func, geometry(args), geometry(kwargs))
        try:
            known = self._shapes.get(key)
        except TypeError:  # an argument that is no key
            return _on_meta(func, args, kwargs)
        if known is None:
            known = self._shapes[key] = _on_meta(func, args, kwargs)
        return known

    def _without_shapes(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], error: Exception) -> Any:
        """What an operator returns whose result's shape depends on values, or is known for other dtypes only."""
        try:
            return self._on_stand_ins(func, args, kwargs)
        except UnrunnableError:
            wide = next(t.dtype for t in tensors_in((args, kwargs)) if t in self)
            try:  # grouped matrix products know their shapes in half precision only
                shapes = _on_meta(func, args, kwargs, torch.bfloat16)
            except (NotImplementedError, RuntimeError, IndexError, TypeError, ValueError):
                raise error from None
            return map_tensors(shapes, lambda t: self._blank(t, wide if t.dtype == torch.bfloat16 else t.dtype))

    def _on_stand_ins(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Run an operator on numbers that are made up; what is real of its result are integers and booleans."""
        self._calls += 1
        if sum(t.numel() for t in tensors_in((args, kwargs)) if t in self) > _MOST:
            raise UnrunnableError(f"{operator_name(func)} is too large to be run")
        try:
            made = self._run(func, args, kwargs, torch.randn)
        except (RuntimeError, IndexError, ValueError):
            made = self._run(func, args, kwargs, torch.rand)  # probabilities must not be negative
        return map_tensors(made, lambda t: self._blank(t) if t.is_floating_point() or t.is_complex() else t)

    def _run(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], draw: Callable[..., torch.Tensor]) -> Any:
        generator = torch.Generator().manual_seed(self._calls)

        def stand_in(t: torch.Tensor) -> torch.Tensor:
            return draw(t.shape, generator=generator, dtype=t.dtype) if t in self else t

        filled: Any = map_tensors((tuple(args), dict(kwargs)), stand_in)
        return func(*filled[0], **filled[1])

    def _blank(self, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A hollow tensor of that geometry in CPU memory."""
        dtype = dtype or like.dtype
        made = None if like.numel() <= _SMALL else self._reserve.tensor(like.shape, dtype, like.stride())
        tensor = torch.empty_strided(like.shape, like.stride(), dtype=dtype).zero_() if made is None else made[0]
        self._mark(tensor)
        return tensor

    def _mark(self, tensor: torch.Tensor) -> None:
        key = storage_key(tensor)
        if key is not None and key not in self._storages:
            self._storages[key] = hold(tensor)


def geometry(value: Any) -> Any:
    """All that the shape of a result can depend on."""
    if isinstance(value, torch.Tensor):
        return torch.Tensor, value.shape, value.stride(), value.dtype, value.requires_grad
    if isinstance(value, list | tuple):
        return tuple(map(geometry, value))
    if isinstance(value, Mapping):
        return tuple((key, geometry(item)) for key, item in value.items())
    return type(value), value


def _on_meta(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], dtype: torch.dtype | None = None) -> Any:
    """What ``func`` returns, without values; as if floating-point tensors were of ``dtype``."""

    def twin(t: torch.Tensor) -> torch.Tensor:
        other = dtype if dtype is not None and t.is_floating_point() else t.dtype
        return torch.empty_strided(t.shape, t.stride(), dtype=other, device="meta")

    twins: Any = map_tensors((tuple(args), dict(kwargs)), twin)
    meta = torch.device("meta")
    named = {
        key: meta if key == "device" and value is not None else value for key, value in twins[1].items() if key != "generator"
    }
    return func(*twins[0], **named)
