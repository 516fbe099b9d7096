"""The tensors of a real run: drawn anew for each seed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradlint.errors import InputError
from gradlint.trace.arguments import Arguments, is_number
from gradlint.trace.graph import InputSpec
from gradlint.trace.tree import map_tensors

__all__ = ["Inputs", "bounded", "draw"]

Inputs = Sequence[InputSpec] | Arguments
"""Descriptions, placed by the names of forward's arguments; or the very arguments of the trace, whose tensors are redrawn."""


def draw(
    model: nn.Module, inputs: Inputs, dtype: torch.dtype, *, grads: bool = False
) -> tuple[tuple[Any, ...], Mapping[str, Any], dict[str, Tensor]]:
    """Positional arguments, keyword arguments and, with ``grads``, the floating-point leaves that get gradients, by name.

    Floating-point tensors are N(0, 1) in ``dtype``, integers uniform over their range, booleans fair coins. Integers and
    booleans that the trace was given keep their values: masks and lengths mean something.
    """
    leaves: dict[str, Tensor] = {}

    def one(spec: InputSpec) -> Tensor:
        kind: torch.dtype = getattr(torch, spec.dtype)
        if kind.is_complex:
            return torch.randn(spec.shape, dtype=kind)
        if not kind.is_floating_point:
            return torch.randint(2 if kind == torch.bool else spec.high or 2, spec.shape).to(kind)
        tensor = torch.randn(spec.shape, dtype=dtype)
        if not grads:
            return tensor
        leaves[spec.name] = tensor.requires_grad_()
        return tensor.clone()  # a leaf cannot be written in place

    if not isinstance(inputs, Arguments):
        return *_placed(model, inputs, [one(spec) for spec in inputs]), leaves
    fresh = {}
    tensors = Arguments.tensors_of(inputs.args, inputs.kwargs)
    for tensor, spec, drawn in zip(tensors, inputs.specs, inputs.drawn, strict=True):
        keep = not drawn and (is_number(tensor) or not (tensor.is_floating_point() or tensor.is_complex()))
        fresh[id(tensor)] = tensor.clone() if keep else one(spec)
    args, kwargs = map_tensors((inputs.args, dict(inputs.kwargs)), lambda t: fresh[id(t)])
    return args, kwargs, leaves


def bounded(build: Callable[[], nn.Module], inputs: Inputs) -> Inputs:
    """Give integers without a bound the size of the table they index; 2 when they index none.

    Raises:
        InputError: forward raised.
    """
    if isinstance(inputs, Arguments) or all(spec.high is not None or "int" not in spec.dtype for spec in inputs):
        return inputs
    model = build()
    tensors = [torch.zeros(spec.shape, dtype=_plain(getattr(torch, spec.dtype))) for spec in inputs]
    args, kwargs = _placed(model, inputs, tensors)
    with torch.no_grad(), _Indexed(tensors) as indexed:
        try:
            model(*args, **kwargs)
        except Exception as error:  # the user's forward may raise anything
            raise InputError(f"forward raised {type(error).__name__}: {error}") from error
    return tuple(
        dataclasses.replace(spec, high=indexed.sizes.get(place, 2)) if spec.high is None and "int" in spec.dtype else spec
        for place, spec in enumerate(inputs)
    )


def _plain(kind: torch.dtype) -> torch.dtype:
    return torch.float32 if kind.is_floating_point else kind


def _placed(
    model: nn.Module, inputs: Sequence[InputSpec], tensors: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional as long as names are in forward's order or unknown to it; then by keyword."""
    names = list(inspect.signature(model.forward).parameters)
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for place, (spec, tensor) in enumerate(zip(inputs, tensors, strict=True)):
        in_order = place < len(names) and names[place] == spec.name
        if kwargs or (spec.name in names and not in_order):
            kwargs[spec.name] = tensor
        else:
            args.append(tensor)
    return tuple(args), kwargs


class _Indexed(TorchFunctionMode):
    """Which table does an integer input index? Found by the identity of its storage."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.sizes: dict[int, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func in (torch.embedding, functional.embedding):
            table, index = args[:2] if func is torch.embedding else args[1::-1]
            for place, tensor in enumerate(self.inputs):
                if tensor.data_ptr() == index.data_ptr():
                    self.sizes[place] = min(table.shape[0], self.sizes.get(place, table.shape[0]))
        return func(*args, **(kwargs or {}))
