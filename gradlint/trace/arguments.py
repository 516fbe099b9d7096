"""Arguments of a forward: given, or described by specs and drawn."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradlint.errors import InputError
from gradlint.trace.graph import InputSpec
from gradlint.trace.guess import vocabulary
from gradlint.trace.state import seeded
from gradlint.trace.tree import tensors_in

__all__ = ["HINT", "Arguments", "described", "drawn", "parse_input", "positional", "signature_of"]

_DTYPES = {
    **{name: name for name in "float16 bfloat16 float32 float64 complex64 int8 int16 int32 int64 uint8 bool".split()},
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int64",
}
HINT = "describe the inputs, for example --input 2,3,224,224 or --input ids:int64:2,128"


@dataclass(frozen=True)
class Arguments:
    """What ``forward`` is called with; ``specs`` describes each tensor in it, in order, ``drawn``: it was drawn from that."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    specs: tuple[InputSpec, ...]
    drawn: tuple[bool, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.specs))

    @staticmethod
    def tensors_of(args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """The tensors in arguments, in the order of :attr:`specs`."""
        seen: set[int] = set()
        for tensor in tensors_in((args, kwargs)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def parse_input(text: str) -> InputSpec:
    """Read ``[name:][dtype:]shape``, such as ``2,3,224,224``, ``ids:int64:2,128`` or ``ids:int64<1000:2,128``.

    Without a dtype it is float32; ``<n`` is the exclusive upper bound of integers. An empty name is the next argument.

    Raises:
        InputError: the text is not of that form.
    """
    *head, shape = (part.strip() for part in text.split(":"))
    dtype, high = "float32", None
    if head and (found := re.fullmatch(r"(\w+)(?:<(\d+))?", head[-1])) and found[1] in _DTYPES:
        dtype, high = _DTYPES[found[1]], int(found[2]) if found[2] else None
        head.pop()
    sizes = [size for size in re.split(r"[,x\s]+", shape.strip("()[]")) if size]
    name = head[0] if head else ""
    if len(head) > 1 or not all(size.isdigit() for size in sizes) or (name and not name.isidentifier()):
        raise InputError(f"cannot read the input {text!r}", hint=HINT)
    return InputSpec(name, tuple(map(int, sizes)), dtype, high)


def described(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], specs: Sequence[InputSpec | None] = ()
) -> Arguments:
    """Arguments with a spec for each tensor: the one it was drawn from, else one read off it."""
    named = [*zip(positional(model, len(args)), args, strict=True), *kwargs.items()]
    drawn_from = iter(specs)
    found: list[InputSpec] = []
    drawn: list[bool] = []
    seen: set[int] = set()
    for name, value in named:
        tensors = tensors_in(value)
        for index, tensor in enumerate(tensors):
            spec = next(drawn_from, None)
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            label = name if len(tensors) == 1 else f"{name}_{index}"
            drawn.append(spec is not None)
            found.append(_spec_of(label, tensor) if spec is None else replace(spec, name=label))
    return Arguments(args, dict(kwargs), tuple(found), tuple(drawn))


def _spec_of(name: str, tensor: torch.Tensor) -> InputSpec:
    integral = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    high = int(tensor.max()) + 1 if integral and tensor.numel() else None
    return InputSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), high)


def positional(model: nn.Module, n: int) -> list[str]:
    """The names of the first n positional arguments of forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in signature_of(model) if p.kind in kinds][:n]
    return names + [f"input_{i}" for i in range(len(names), n)]


def signature_of(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of forward; none where it has no signature."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def drawn(model: nn.Module, args: Any, kwargs: Any) -> Arguments:
    """Draw the tensors that specs describe."""
    high = vocabulary(model)
    with seeded():
        real_args, real_kwargs = _realised((args, kwargs), high)
    return described(model, real_args, real_kwargs, _specs_in((args, kwargs), high))


def _realised(value: Any, high: int) -> Any:
    if isinstance(value, InputSpec):
        return _draw(_bounded(value, high))
    if isinstance(value, dict):
        return {key: _realised(item, high) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_realised(item, high) for item in value)
    return value


def _specs_in(value: Any, high: int) -> list[InputSpec | None]:
    """For each tensor in ``value``, in order, the spec it is drawn from; None for real tensors."""
    if isinstance(value, InputSpec):
        return [_bounded(value, high)]
    if isinstance(value, dict):
        return [spec for item in value.values() for spec in _specs_in(item, high)]
    if type(value) in (list, tuple):
        return [spec for item in value for spec in _specs_in(item, high)]
    return [None for _ in tensors_in(value)]


def _bounded(spec: InputSpec, high: int) -> InputSpec:
    integral = "int" in spec.dtype
    return replace(spec, high=high) if integral and spec.high is None else spec


def _draw(spec: InputSpec) -> torch.Tensor:
    """A tensor of the described kind: N(0, 1), or integers uniform over their range (booleans: fair coins)."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(spec.shape, dtype=dtype)
    return torch.randint(0, 2 if dtype == torch.bool else spec.high or 2, spec.shape).to(dtype)
