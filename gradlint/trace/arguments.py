"""Arguments of a forward: given, or described by specs and drawn."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradlint.errors import InputError
from gradlint.trace.graph import InputSpec
from gradlint.trace.leaves import Key, Leaf, Values, leaves, made
from gradlint.trace.state import seeded
from gradlint.trace.tree import tensors_in

__all__ = ["HINT", "Arguments", "described", "drawn", "is_number", "parse_input", "positional", "signature_of", "spread"]

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
    """What ``forward`` is called with.

    Args:
        specs: describes each tensor in it, in order.
        drawn: for each, whether it was drawn from its spec.
        origin: ``given``, ``guessed``, or the name of the model's attribute that has them.
        autocast: the device types whose autocast is on around the call, each with its dtype.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    specs: tuple[InputSpec, ...]
    drawn: tuple[bool, ...]
    origin: str = "given"
    autocast: tuple[tuple[str, torch.dtype], ...] = ()

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """The contexts that forward is called in."""
        with ExitStack() as stack:
            for device, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype))
            yield

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

    Without a dtype it is float32; ``<n`` is the exclusive upper bound of integers. An empty name is the next argument;
    ``batch.image`` is a field of an argument, ``state.0`` an item of one.

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
    if len(head) > 1 or not all(size.isdigit() for size in sizes) or (name and not _is_path(name)):
        raise InputError(f"cannot read the input {text!r}", hint=HINT)
    return InputSpec(name, tuple(map(int, sizes)), dtype, high)


def is_number(tensor: torch.Tensor) -> bool:
    """A tensor without axes, given as an argument, is a count or a scale that means something, and no data: it is a constant."""
    return tensor.dim() == 0 and tensor.is_floating_point()


def _is_path(name: str) -> bool:
    first, *rest = name.split(".")
    return first.isidentifier() and all(part.isidentifier() or part.isdigit() for part in rest)


def described(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], random: Mapping[int, Leaf] | None = None
) -> Arguments:
    """Arguments with a spec for each tensor.

    Args:
        random: for tensors that were drawn, by identity, what from; the others are described by their values.
    """
    named = {**dict(zip(positional(model, len(args)), args, strict=True)), **kwargs}
    found: dict[int, InputSpec] = {}
    for key, tensor in _named(named):
        if id(tensor) not in found:
            leaf, name = (random or {}).get(id(tensor)), ".".join(map(str, key))
            found[id(tensor)] = _spec_of(name, tensor) if leaf is None else leaf.spec(name)
    return Arguments(args, dict(kwargs), tuple(found.values()), tuple(i in (random or {}) for i in found))


def _named(value: Any, key: Key = ()) -> Iterator[tuple[Key, torch.Tensor]]:
    """The tensors in arguments in the order of :func:`tensors_in`, and where each is."""
    if isinstance(value, torch.Tensor):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _named(item, (*key, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _named(item, (*key, index))
    else:
        for index, tensor in enumerate(tensors := tensors_in(value)):
            yield (*key, index) if len(tensors) > 1 else key, tensor


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


def drawn(model: nn.Module, values: Values, origin: str) -> Arguments:
    """Make the tensors that leaves describe."""
    tensors: dict[Key, torch.Tensor] = {}
    with seeded():
        args, kwargs = spread(model, made(values, tensors))
    random = {id(tensors[key]): leaf for key, leaf in leaves(values) if leaf.fill is None}
    return replace(described(model, args, kwargs, random), origin=origin)


def spread(model: nn.Module, values: Values) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments. Leading ones by position: that suits positional-only ones and ``*args``, too."""
    named = [p.name for p in signature_of(model) if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    names = positional(model, len(values)) if named else []
    lead = list(itertools.takewhile(values.__contains__, names))
    return tuple(values[n] for n in lead), {n: v for n, v in values.items() if n not in lead}
