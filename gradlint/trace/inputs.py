"""The tensors a model is run on: given, described on the command line, or guessed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from gradlint.errors import InputError
from gradlint.trace.graph import InputSpec
from gradlint.trace.guess import candidates, finished_by_example, vocabulary
from gradlint.trace.source import transparent, user_line
from gradlint.trace.state import preserved, seeded
from gradlint.trace.tree import map_tensors, tensors_in

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Arguments", "parse_input", "resolve"]

_TRIES = 160
_DTYPES = {
    **{name: name for name in "float16 bfloat16 float32 float64 complex64 int8 int16 int32 int64 uint8 bool".split()},
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int64",
}
_HINT = "describe the inputs, for example --input 2,3,224,224 or --input ids:int64:2,128"
_FEW = 4  # samples per channel that a batch normalisation needs to be more than a sign


@dataclass(frozen=True)
class Arguments:
    """What ``forward`` is called with; ``specs`` describes each tensor in it, in order."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    specs: tuple[InputSpec, ...]

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
        raise InputError(f"cannot read the input {text!r}", hint=_HINT)
    return InputSpec(name, tuple(map(int, sizes)), dtype, high)


def resolve(model: nn.Module, inputs: Any) -> Arguments:
    """The arguments to run ``model`` on; see :func:`gradlint.trace.trace` for what ``inputs`` may be.

    Raises:
        InputError: nothing was found that the model accepts, or ``inputs`` is of no such form.
    """
    if inputs is None:
        return _guess(model, [])
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        return _given(model, (), inputs)
    if isinstance(inputs, list) and all(isinstance(item, InputSpec | str) for item in inputs):
        return _guess(model, [parse_input(item) if isinstance(item, str) else item for item in inputs])
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return _given(model, tuple(inputs), {})
    raise InputError(f"inputs must be a tuple, a dict, a tensor or None, not {type(inputs).__name__}")


def _given(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    named = [*zip(_positional(model, len(args)), args, strict=True), *kwargs.items()]
    specs: list[InputSpec] = []
    seen: set[int] = set()
    for name, value in named:
        tensors = [t for t in Arguments.tensors_of(value, None) if id(t) not in seen]
        for index, tensor in enumerate(tensors):
            seen.add(id(tensor))
            specs.append(_described(name if len(tensors) == 1 else f"{name}_{index}", tensor))
    return Arguments(args, dict(kwargs), tuple(specs))


def _described(name: str, tensor: torch.Tensor) -> InputSpec:
    integral = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    high = int(tensor.max()) + 1 if integral and tensor.numel() else None
    return InputSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), high)


def _positional(model: nn.Module, n: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in _signature(model) if p.kind in kinds][:n]
    return names + [f"input_{i}" for i in range(len(names), n)]


def _signature(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _required(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments that need a value: those without a default, at least the first one."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in _signature(model) if p.kind not in variadic]
    return [p for p in named if p.default is inspect.Parameter.empty] or named[:1]


def _guess(model: nn.Module, overrides: list[InputSpec]) -> Arguments:
    example = finished_by_example(model) if not overrides else None
    if example is not None:
        args, kwargs = example
        real = _given(model, *(map_tensors(part, lambda t: t) for part in (args, kwargs)))
        if _holds_specs((args, kwargs)):
            real = _drawn(model, args, kwargs)
        return _accepted(model, [real])
    fixed, extra = _placed(model, overrides)
    choices: list[tuple[str, list[Any]]] = []
    for parameter in _required(model):
        if parameter.name not in fixed:
            choices.append((parameter.name, candidates(model, parameter)))
    if not choices and not fixed and not extra and not _signature(model):
        choices = [("", [()])]
    tries = []
    for batch in (2, 4):
        for picked in _in_order([c for _, c in choices]):
            named = {name: _with_batch(v, batch) for (name, _), v in zip(choices, picked, strict=True)}
            tries.append((batch, {**named, **fixed}))
    return _accepted(model, [_bound(model, values, extra) for batch, values in tries if batch == 2], tries, extra)
