"""Record every outermost torch call of a forward pass, run on real tensors."""

from __future__ import annotations

import operator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from gradlint.trace.aten import translated
from gradlint.trace.cells import CELLS
from gradlint.trace.graph import step
from gradlint.trace.mutation import same_memory, setitem
from gradlint.trace.names import (
    CONCATENATIONS,
    CONSTANT_FILLS,
    ESCAPES,
    FACTS,
    LENDING,
    RESHAPES,
    SHAPE_ONLY,
    TENSOR_PROPERTIES,
    UNTOUCHED,
    Call,
    is_basic_index,
    name_of,
    normalise,
    writes_first,
)
from gradlint.trace.private import is_functorch_wrapped, operator_name, version
from gradlint.trace.source import transparent
from gradlint.trace.tree import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import fx

    from gradlint.trace.nodes import Nodes

__all__ = ["Recorder"]

_Versions = list[tuple[torch.Tensor, int | None]]


class Recorder(TorchFunctionMode):
    """Makes a node of each torch call that depends on a floating-point input or a parameter.

    A mode does not see the calls that its own handler makes: what is inside a recorded call is not recorded.
    """

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self.nodes = nodes
        self._busy = False
        self._handling = False

    @transparent
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(map(is_functorch_wrapped, tensors_in((args, kwargs)))):  # below it are tensors with identities
            return func(*args, **kwargs)
        before, self._handling = self._handling, True
        operator = operator_name(func)
        try:
            return self._handle_operator(func, operator, args, kwargs) if operator else self._handle(func, args, kwargs)
        finally:
            self._handling = before

    @transparent
    def _handle(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        name = name_of(func)
        if self._busy or name in FACTS or (name.endswith(".get") and name not in TENSOR_PROPERTIES):
            return func(*args, **kwargs)
        tensors = tensors_in((args, kwargs))
        if not any(map(self.nodes.live, tensors[:1] if name in LENDING else tensors)):
            if name in ESCAPES and self.nodes.random(tensors[0]):
                self.nodes.by_chance(f"{name.strip('_')}() read a random number")
            return func(*args, **kwargs)
        if name in CELLS:
            with self:  # a mode does not see the calls of its own handler
                return CELLS[name](*args, **kwargs)
        if name == "data.set":
            func(*args, **kwargs)
            self.nodes.memory.bind(args[0], self.nodes.of(args[1]))
            return None
        if name == "__setitem__":
            return self._set_item(func, *args)
        written = args[0] if args else kwargs.get("input")
        if writes_first(name) and isinstance(written, torch.Tensor):
            return self._in_place(func, name, written, args, kwargs)
        if isinstance(kwargs.get("out"), torch.Tensor):
            return self._in_place(func, "out", kwargs["out"], args, kwargs)
        return self._out_of_place(func, name, args, kwargs, tensors)

    @transparent
    def _handle_operator(self, func: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operator that the model's code calls itself, as ``torch.ops.aten.linear``."""
        if self._busy or not any(map(self.nodes.live, tensors_in((args, kwargs)))):
            return func(*args, **kwargs)
        return self.run(self.operator, func, name, args, kwargs)

    def operator(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, and record it as the function that it stands for."""
        call, first_only = translated(func, args, {k: v for k, v in kwargs.items() if k != "out"})
        written = kwargs.get("out") if "out" in kwargs else args[0] if writes_first(name) else None
        if isinstance(written, torch.Tensor):
            self.overwrite(name, call, written, partial(func, *args, **kwargs))
            return written
        call = self.nodes.mapped(call)
        result = func(*args, **kwargs)
        if name in ESCAPES:
            self.escaped(name)
        elif tensors_in(result):
            made = result[0] if first_only and isinstance(result, tuple) else result
            self.bind(self.nodes.create(call, made), made)
        return result

    @property
    def handling(self) -> bool:
        """Inside a call that this mode has seen."""
        return self._handling

    @property
    def busy(self) -> bool:
        """Inside a call that is one node."""
        return self._busy

    @transparent
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` without recording what happens in it."""
        before, self._busy = self._busy, True
        try:
            return function(*args, **kwargs)
        finally:
            self._busy = before

    @transparent
    def opaque(self, op: str, target: Any, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Run ``function`` as one node, whatever it does."""
        call = self.run(self.nodes.mapped, Call(op, target, tuple(args), kwargs))
        versions = self.run(_versions, tensors_in((args, kwargs)))
        result = self.run(function, *args, **kwargs)
        self.run(self._record, call, result, versions)
        return result

    @transparent
    def _out_of_place(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]
    ) -> Any:
        if name in SHAPE_ONLY:
            return self.run(func, *args, **kwargs)
        call = self.nodes.mapped(normalise(func, args, kwargs))
        versions = _versions(tensors)
        result = self.run(func, *args, **kwargs)
        if name in ESCAPES:
            self.escaped(name.strip("_"))
        elif name in CONCATENATIONS and len(parts := call.args[0]) == 1 and step(parts[0]).shape == tuple(result.shape):
            self.nodes.memory.bind(result, parts[0])  # what else there was is an empty key cache
        elif tensors_in(result):
            self._record(call, result, versions)
        return result

    def escaped(self, name: str) -> None:
        """A value that depends on something has left torch through the call of that name."""
        why = "was assumed: weights have no values here" if self.nodes.hollow else "depends on weights or inputs"
        self.nodes.note(f"{name}() read a value that {why}; only this run's outcome is followed")

    def overwrite(self, name: str, call: Call, written: torch.Tensor, run: Callable[[], Any]) -> None:
        """``run``, an operator of that name, leaves in ``written`` what ``call`` returns."""
        before = self._before(written)
        nodes = self.nodes.mapped(call)
        run()
        if written.numel() > 0:
            self.nodes.memory.write(written, self._written(name, nodes, written, call.args, call.kwargs), before)

    def _record(self, call: Call, result: Any, versions: _Versions) -> None:
        """Add the node of a call that has been run, and of the tensors in its result."""
        for tensor, old in versions:
            if tensor is result:
                # The argument itself came back: written (inplace=True), or there was nothing to do (contiguous).
                if version(tensor) != old:
                    self.nodes.memory.write(tensor, self.nodes.create(call, tensor), None)
                return
        self.bind(self.nodes.create(call, result), result)

    def bind(self, node: fx.Node, result: Any) -> None:
        """The tensors in ``result`` are what ``node`` made."""
        if isinstance(result, torch.Tensor):
            self.nodes.memory.bind(result, node)
            return
        for key, item in result.items() if isinstance(result, dict) else enumerate(result):
            if isinstance(item, torch.Tensor | tuple | list | dict) and tensors_in(item):
                part = self.nodes.create(Call("call_function", operator.getitem, (node, key), {}), item)
                self.bind(part, item)

    @transparent
    def _in_place(
        self, func: Callable[..., Any], name: str, written: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name in UNTOUCHED:
            return func(*args, **kwargs)
        before = self._before(written)
        call = self.nodes.mapped(normalise(func, args, kwargs))
        result = self.run(func, *args, **kwargs)
        if written.numel() == 0:
            return result
        if name == "detach_" or name in RESHAPES:  # the tensor is another view; its memory is as it was
            self.nodes.memory.bind(written, self.nodes.create(call, written))
        else:
            self.nodes.memory.write(written, self._written(name, call, written, args, kwargs), before)
        return result

    def _before(self, written: torch.Tensor) -> torch.Tensor | None:
        """The value of a constant that is about to be written."""
        if self.nodes.live(written):
            self.nodes.of(written)
            return None
        return self.nodes.memory.root_of(written).detach().clone()

    def _written(self, name: str, call: Call, written: torch.Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.Node:
        """The node of what an in-place call left in ``written``."""
        source = args[1] if len(args) > 1 else kwargs.get("src", kwargs.get("value"))
        if name in ("copy_", "fill_") and isinstance(source, torch.Tensor):
            node = call.args[1] if len(call.args) > 1 else self.nodes.of(source)
            return self.nodes.coerced(node, source, written)
        if name in CONSTANT_FILLS:
            return self.nodes.constant(written, filled=True)
        node = self.nodes.create(call, written)
        # Out of place the result has the promoted dtype, in place that of what is written.
        others = [t for t in tensors_in((args[1:], kwargs)) if t.dim() > 0 and t.is_floating_point()]
        if name != "out" and any(t.dtype != written.dtype for t in others):
            node = self.nodes.emit("call_method", "to", (node, written.dtype), written)
        return node

    @transparent
    def _set_item(self, func: Callable[..., Any], written: torch.Tensor, index: Any, value: Any) -> None:
        before = self._before(written)
        call = self.nodes.mapped(Call("call_function", setitem, (written, index, value), {}))
        self.run(func, written, index, value)
        if not is_basic_index(index):
            self.nodes.memory.write(written, self._chosen(call, written, index, value), before)
            return
        part = written[index]
        # x[i] += y ends with writing to x[i] what is there already.
        if part.numel() == 0 or (isinstance(value, torch.Tensor) and same_memory(part, value)):
            return
        if isinstance(value, torch.Tensor):
            node = self.nodes.coerced(call.args[2], value, part)
        else:
            node = self.nodes.constant(part, filled=True)
        self.nodes.memory.write(part, node, before)

    def _chosen(self, call: Call, written: torch.Tensor, index: Any, value: Any) -> fx.Node:
        """The node of ``written`` after ``written[index] = value`` for tensors, lists or masks as index."""
        node, at, new = call.args
        scalar = not isinstance(value, torch.Tensor) or value.dim() == 0
        indices = index if isinstance(index, tuple) else (index,)
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.dim() == written.dim() and scalar:
            return self.nodes.emit("call_method", "masked_fill", (node, at, new), written)
        if isinstance(value, torch.Tensor) and all(isinstance(i, torch.Tensor) for i in indices):
            if value.dtype != written.dtype:
                new = self.nodes.emit("call_method", "to", (new, written.dtype), value.detach().to(written.dtype))
            where = at if isinstance(at, tuple) else (at,)
            return self.nodes.emit("call_function", torch.index_put, (node, where, new), written)
        return self.nodes.create(call, written)


def _versions(tensors: Iterable[torch.Tensor]) -> _Versions:
    return [(t, version(t)) for t in tensors]
