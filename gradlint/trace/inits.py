"""The law recorder: which distribution each parameter was drawn from, by watching what writes it.

Below ``torch.nn.init`` and below ``tensor.normal_()`` there are aten operators; a dispatch mode sees each of them. For every
storage the recorder keeps :class:`~gradlint.trace.tags.Regions`: the laws of its stretches, updated under affine operators
and copies. What has no closed form is measured on the real values.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.moments import Moments
from gradlint.trace.law import Law
from gradlint.trace.private import DispatchMode, StorageWeakRef, hold, operator_name, storage_key
from gradlint.trace.source import Construction, locate, owned, transparent
from gradlint.trace.state import SEED, seeded, uncompiled
from gradlint.trace.tags import Regions, Tag, erfinv_of_uniform, mixture, truncated_normal
from gradlint.trace.tree import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from gradlint.findings import Location

__all__ = ["Laws", "recording"]

_INIT_FILE = os.path.abspath(nn.init.__file__)
_COPIES = frozenset({"clone", "_to_copy", "contiguous", "copy_", "lift_fresh_copy", "detach_copy", "alias_copy"})


class Laws:
    """What construction told: the laws of parameters and the lines of modules. Made by :func:`recording`."""

    def __init__(self) -> None:
        self.construction = Construction()
        self._storages: dict[int, tuple[StorageWeakRef, Regions]] = {}

    def law(self, parameter: torch.Tensor) -> Law:
        """The law of a parameter; measured on its values where no initialiser was seen."""
        regions = self.regions(parameter)
        span = _span(parameter)
        shape = tuple(parameter.shape)
        if regions is None or span is None or parameter.numel() == 0:
            return _measured(parameter)
        tag = regions.common(*span)
        if tag is not None and tag.kind in ("normal", "uniform", "constant", "orthogonal"):
            moments = Moments.iid(shape, tag.mean, tag.std**2)
            return Law(tag.kind, tag.mean, tag.std, moments, tag.location, tag.label)
        if tag is not None:
            return replace(_measured(parameter, tag.kind), location=tag.location, label=tag.label)
        parts = [(n, part) for n, part in regions.between(*span) if part is not None]
        last = regions.scattered or (parts[-1][1] if parts else None)
        if last is None:
            return _measured(parameter)
        known = sum(n for n, _ in parts) == parameter.numel()
        measured = replace(_measured(parameter, "mixed"), location=last.location, label=last.label)
        if known and regions.scattered is None:
            mean, std = mixture(parts)
            return replace(measured, mean=mean, std=std, label="")
        return measured

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what is written within the block."""
        with self.construction.watching(), _Watcher(self):
            yield

    def regions(self, tensor: torch.Tensor) -> Regions | None:
        """What is known of the tensor's storage."""
        key = storage_key(tensor)
        found = self._storages.get(key) if key is not None else None
        return None if found is None else found[1]

    def common(self, tensor: torch.Tensor) -> Tag | None:
        """The one law of all entries of ``tensor``, if there is one."""
        regions, span = self.regions(tensor), _span(tensor)
        if regions is None:
            return None
        if span is None:  # strided view: the law of the whole storage, if that is one
            itemsize = max(tensor.element_size(), 1)
            span = (0, tensor.untyped_storage().nbytes() // itemsize)
        return regions.common(*span)

    def write(self, tensor: torch.Tensor, tag: Tag | None) -> None:
        """``tensor`` was overwritten with draws from ``tag``."""
        key = storage_key(tensor)
        if key is None or tensor.numel() == 0:
            return
        ref, regions = self._storages.get(key) or (hold(tensor), Regions())
        span = _span(tensor)
        if span is not None:
            regions = regions.write(*span, tag)
        elif not (tag is not None and (old := self.common(tensor)) is not None and old.same_law(tag)):
            regions = replace(regions, scattered=tag or Tag("values", 0.0, 0.0))
        self._storages[key] = ref, regions


def _span(tensor: torch.Tensor) -> tuple[int, int] | None:
    """The stretch of storage that a tensor is; None if it has gaps."""
    start, n = int(tensor.storage_offset()), tensor.numel()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (start, start + n) if extent == n or n == 0 else None


def _measured(parameter: torch.Tensor, kind: str = "values") -> Law:
    values = parameter.detach().to(torch.float64).cpu().numpy()
    if values.size == 0:
        return Law("constant", 0.0, 0.0, Moments.iid(tuple(parameter.shape), 0.0, 0.0))
    if kind == "values" and (values == values.flat[0]).all():
        value = float(values.flat[0])
        return Law("constant", value, 0.0, Moments.iid(values.shape, value, 0.0))
    return Law(kind, float(values.mean()), float(values.std()), Moments.of_array(values))


class _Watcher(DispatchMode):
    def __init__(self, laws: Laws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._laws = laws

    @transparent
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = operator_name(func)
        written = kwargs.get("out") if "out" in kwargs else args[0] if name.endswith("_") and args else None
        if isinstance(written, torch.Tensor):
            self._laws.write(written, self._signed(self._law(name, args, kwargs, written), written))
        elif not (written is None and self._is_view(args, result)):
            self._created(name, args, kwargs, result)
        return result

    def _is_view(self, args: Any, result: Any) -> bool:
        first = next(tensors_in(result), None)
        if first is None:
            return True
        key = storage_key(first)
        return any(storage_key(t) == key for t in tensors_in(args))

    def _created(self, name: str, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        for position, tensor in enumerate(tensors_in(result)):
            if name == "linalg_qr":
                tag = self._orthonormal(args[0], tensor) if position == 0 else None
            else:
                tag = self._law(name, args, kwargs, tensor)
            self._laws.write(tensor, self._signed(tag, tensor))

    def _orthonormal(self, source: torch.Tensor, q: torch.Tensor) -> Tag | None:
        drawn = self._laws.common(source)
        if drawn is None or drawn.kind != "normal" or drawn.mean != 0.0:
            return None
        return Tag("orthogonal", 0.0, 1 / math.sqrt(max(q.shape[-2:])))

    def _law(self, name: str, args: Any, kwargs: Mapping[str, Any], result: torch.Tensor) -> Tag | None:
        """The law after an operator, before it is known whose line and which initialiser it was."""
        name = name.rstrip("_") if name != "copy_" else name
        numbers = [float(a) for a in args if isinstance(a, int | float)]
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        old = None if source is None else self._laws.common(source)
        match name:
            case "zero" | "zeros" | "zeros_like" | "new_zeros" | "zeros_out":
                return Tag.constant(0.0)
            case "ones" | "ones_like" | "new_ones":
                return Tag.constant(1.0)
            case "full" | "full_like" | "new_full" | "fill" | "scalar_tensor":
                value = _number(args[0] if name == "scalar_tensor" else args[-1] if len(args) > 1 else None)
                return None if value is None or not result.is_floating_point() else Tag.constant(value)
            case "rand" | "rand_like":
                return Tag.uniform(0.0, 1.0)
            case "randn" | "randn_like":
                return Tag.normal(0.0, 1.0)
            case "normal":
                if any(isinstance(a, torch.Tensor) for a in (args if source is not result else args[1:])):
                    return None
                mean, std = (*numbers, *((0.0, 1.0)[len(numbers) :]))[:2]
                return Tag.normal(float(kwargs.get("mean", mean)), float(kwargs.get("std", std)))
            case "uniform":
                low, high = (*numbers, *((0.0, 1.0)[len(numbers) :]))[:2]
                return Tag.uniform(float(kwargs.get("from", low)), float(kwargs.get("to", high)))
            case "eye":
                return Tag("identity", 1 / result.shape[-1], 0.0)
            case "copy_":
                return self._laws.common(args[1]) if isinstance(args[1], torch.Tensor) else None
            case _ if name in _COPIES:
                return old
            case "neg":
                return None if old is None else old.affine(-1.0)
            case "mul" | "div" | "add" | "sub" | "rsub":
                return self._affine(name, args, kwargs)
            case "erfinv" if old is not None and old.kind == "uniform" and -1 <= old.low < old.high <= 1:
                return erfinv_of_uniform(old.low, old.high)
            case "clamp" if old is not None:
                return _clamped(old, args, kwargs)
            case _:
                return None

    def _affine(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> Tag | None:
        x, other = args[0], args[1] if len(args) > 1 else None
        if not isinstance(x, torch.Tensor):
            x, other = other, x
        value = _number(other)
        if value is None and name in ("mul", "add") and _number(x) is not None:
            x, value = other, _number(x)
        if not isinstance(x, torch.Tensor):
            return None
        tag = self._laws.common(x)
        if tag is None:
            return None
        if value is None:
            # Orthogonal columns times signs (what nn.init.orthogonal_ does) are as orthogonal as before.
            rotated = name == "mul" and tag.kind == "orthogonal"
            return tag if rotated and isinstance(other, torch.Tensor) and _are_signs(other) else None
        alpha = float(kwargs.get("alpha", 1))
        match name:
            case "mul":
                return tag.affine(value)
            case "div" if value != 0.0 and kwargs.get("rounding_mode") is None:
                return tag.affine(1 / value)
            case "add":
                return tag.affine(1.0, alpha * value)
            case "sub":
                return tag.affine(1.0, -alpha * value)
            case "rsub":
                return tag.affine(-alpha, value)
        return None

    def _signed(self, tag: Tag | None, written: torch.Tensor) -> Tag | None:
        """``tag`` with the user's line and the initialiser's name; laws that an initialiser states win."""
        frame = _init_frame()
        label = ""
        if frame is not None:
            tag = _stated(frame, written) or tag
            label = _label(frame)
        return None if tag is None else replace(tag, location=locate() or tag.location, label=label)


def _are_signs(values: torch.Tensor) -> bool:
    return bool((values.abs() == 1).all())


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        return float(value.detach()) if value.dim() == 0 and not value.is_complex() else None
    return float(value) if isinstance(value, int | float) else None


def _clamped(tag: Tag, args: Any, kwargs: Mapping[str, Any]) -> Tag | None:
    low, high = (_number(x) for x in (*args[1:3], *(None,) * (3 - len(args[:3]))))
    low = low if low is not None else _number(kwargs.get("min"))
    high = high if high is not None else _number(kwargs.get("max"))
    slack = 1e-6 * (tag.std + abs(tag.mean))
    inside = (low is None or low <= tag.low + slack) and (high is None or high >= tag.high - slack)
    return replace(tag, label="") if inside else None


def _init_frame() -> FrameType | None:
    """The frame of the public ``torch.nn.init`` function that is running, if one is."""
    frame: FrameType | None = sys._getframe(1)
    found = None
    for _ in range(16):
        if frame is None:
            break
        code = frame.f_code
        if os.path.abspath(code.co_filename) == _INIT_FILE:
            if not code.co_name.startswith("_") and code.co_name.endswith("_"):
                found = frame
        elif found is not None:
            break
        frame = frame.f_back
    return found


@cache
def _defaults(name: str) -> dict[str, Any]:
    function = getattr(nn.init, name, None)
    if function is None:
        return {}
    # Wrapped by libraries while they initialise (transformers): the signature may be of the wrapper.
    return {p.name: p.default for p in inspect.signature(inspect.unwrap(function)).parameters.values()}


def _label(frame: FrameType) -> str:
    code = frame.f_code
    arguments = []
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        value = frame.f_locals.get(name)
        if name in ("tensor", "generator") or _defaults(code.co_name).get(name, inspect.Parameter.empty) == value:
            continue
        arguments.append(f"{name}={value:.4g}" if isinstance(value, int | float) else f"{name}={value}")
    return f"{code.co_name}({', '.join(arguments)})" if arguments else code.co_name


def _stated(frame: FrameType, written: torch.Tensor) -> Tag | None:
    """The law that an initialiser made of several writes ends with."""
    known = frame.f_locals
    tensor = known.get("tensor")
    if not isinstance(tensor, torch.Tensor) or storage_key(tensor) != storage_key(written):
        return None
    match frame.f_code.co_name:
        case "trunc_normal_":
            return truncated_normal(*(float(known[name]) for name in ("mean", "std", "a", "b")))
        case "orthogonal_":
            rows = tensor.shape[0]
            size = max(rows, tensor.numel() // max(rows, 1), 1)
            return Tag("orthogonal", 0.0, float(known["gain"]) / math.sqrt(size))
        case "eye_" | "dirac_":
            return Tag("identity", 0.0, 0.0, fixed=True)
    return None


@contextmanager
def recording(file: str | None = None, seed: int = SEED) -> Iterator[Laws]:
    """Watch how models are constructed within the block, with seeded random numbers (restored at the end).

    ``torch.compile`` returns its argument within the block.

    Args:
        file: counts as the user's source even if it is installed in ``site-packages``.
    """
    laws = Laws()
    with seeded(seed), uncompiled(), owned(file), laws.watching():
        yield laws
