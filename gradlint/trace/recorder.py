"""Record every outermost torch call of a forward pass, run on real tensors, into an ``fx.Graph``."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from gradlint.trace.graph import Step, annotate, step
from gradlint.trace.mutation import Memory, same_memory, setitem
from gradlint.trace.names import CONSTANT_FILLS, ESCAPES, SHAPE_ONLY, Call, name_of, normalise, writes_first
from gradlint.trace.private import is_functorch_wrapped, version
from gradlint.trace.source import locate, transparent
from gradlint.trace.tree import first_floating, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Recorder"]

_TENSOR_PROPERTIES = frozenset({"T.get", "H.get", "mT.get", "mH.get", "data.get", "real.get", "imag.get"})
_FACTS = frozenset(
    "size dim numel nelement ndimension stride storage_offset is_contiguous is_floating_point is_complex is_signed "
    "element_size get_device type_as_str data_ptr untyped_storage storage has_names __len__ __hash__ __repr__ __format__ "
    "_is_view is_inference is_leaf retain_grad register_hook backward is_tensor is_same_size result_type "
    "register_post_accumulate_grad_hook __reduce_ex__ is_shared is_pinned is_set_to".split()
)
_UNTOUCHED = frozenset({"requires_grad_", "share_memory_", "rename_", "_backward_hooks"})
_RESHAPED = frozenset("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ as_strided_ resize_ resize_as_".split())
_CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})


class Recorder(TorchFunctionMode):
    """The graph in the making.

    Args:
        model: parameters and buffers are known by their names in it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.assumptions: list[str] = []
        self.module = ""  # path of the module whose forward runs
        self.grad_mode: bool | None = None  # overrides torch's inside a reentrant checkpoint
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._buffers = {id(b): name for name, b in model.named_buffers()}
        self._inputs: dict[int, tuple[torch.Tensor, int | None, fx.Node]] = {}
        self._constants: dict[tuple[int, int | None], tuple[torch.Tensor, fx.Node]] = {}
        self._memory = Memory(self._emit, self._constant)
        self._busy = False

    # --- what surrounds the calls -------------------------------------------------------------------------------------

    def input(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Add a placeholder for a tensor of the model's inputs."""
        node = self.graph.create_node("placeholder", name, (), {}, name=name)
        self._annotate(node, tensor)
        if tensor.is_floating_point() or tensor.is_complex():
            self._memory.bind(tensor, node)
        else:
            self._inputs[id(tensor)] = tensor, version(tensor), node
        return node

    def node(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made the tensor's present value; a ``get_attr`` for a parameter or a constant."""
        if id(tensor) in self._parameters and not self._memory.has(tensor):
            node = self.graph.create_node("get_attr", self._parameters[id(tensor)])
            self._annotate(node, tensor, grad=tensor.requires_grad)
            self._memory.bind(tensor, node)
        given = self._inputs.get(id(tensor))
        if given is not None and given[1] == version(tensor):
            return given[2]
        return self._memory.read(tensor) or self._constant(tensor)

    def live(self, tensor: torch.Tensor) -> bool:
        """The tensor's value depends on a floating-point input or a parameter."""
        return id(tensor) in self._parameters or self._memory.knows(tensor)

    def finish(self, result: Any) -> fx.Node | None:
        """Add the output node; returns the node of the first floating-point output that depends on anything."""
        outputs = list(tensors_in(result))
        nodes = [self.node(t) for t in outputs]
        end = self.graph.output(nodes[0] if isinstance(result, torch.Tensor) and nodes else tuple(nodes))
        annotate(end, Step(None, None, "", None))
        first = first_floating(result)
        return self.node(first) if first is not None and self.live(first) else None

    def prune(self, keep: Iterable[str]) -> None:
        """Drop what neither the output nor a node in ``keep`` depends on."""
        kept = set(keep)
        for node in reversed(list(self.graph.nodes)):
            if node.op not in ("placeholder", "output") and not node.users and node.name not in kept:
                self.graph.erase_node(node)

    # --- one call -----------------------------------------------------------------------------------------------------

    @transparent
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._busy:
            return func(*args, **kwargs)
        name = name_of(func)
        if name in _FACTS or (name.endswith(".get") and name not in _TENSOR_PROPERTIES):
            return func(*args, **kwargs)
        tensors = list(tensors_in((args, kwargs)))
        if not any(map(self.live, tensors)) or any(map(is_functorch_wrapped, tensors)):
            return func(*args, **kwargs)
        if name == "data.set":
            func(*args, **kwargs)
            self._memory.bind(args[0], self.node(args[1]))
            return None
        if name == "__setitem__":
            return self._set_item(func, *args)
        if writes_first(name) and isinstance(written := args[0] if args else kwargs.get("input"), torch.Tensor):
            return self._in_place(func, name, written, args, kwargs)
        if isinstance(out := kwargs.pop("out", None), torch.Tensor):
            return self._in_place(func, "out", out, args, kwargs)
        return self._out_of_place(func, name, args, kwargs if out is None else {**kwargs, "out": out}, tensors)

    @transparent
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` without recording what happens in it."""
        before, self._busy = self._busy, True
        try:
            return function(*args, **kwargs)
        finally:
            self._busy = before

    @property
    def busy(self) -> bool:
        """Inside a call that is one node."""
        return self._busy

    @transparent
    def opaque(self, op: str, target: Any, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Run ``function`` as one node, whatever it does."""
        call = self.run(self._mapped, Call(op, target, tuple(args), kwargs))
        versions = self.run(lambda: [(t, version(t)) for t in tensors_in((args, kwargs))])
        result = self.run(function, *args, **kwargs)
        self.run(self._record, call, result, versions)
        return result

    @transparent
    def _out_of_place(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[torch.Tensor],
    ) -> Any:
        if name in SHAPE_ONLY:
            return self.run(func, *args, **kwargs)
        call = normalise(func, args, {k: v for k, v in kwargs.items() if k != "out"})
        if name in _CONCATENATIONS:
            call = _without_empty(call)
        call = self._mapped(call)
        versions = [(t, version(t)) for t in tensors]
        result = self.run(func, *args, **kwargs)
        if next(tensors_in(result), None) is None:
            if name in ESCAPES:
                self._assume(name)
            return result
        if name in _CONCATENATIONS and len(parts := call.args[0]) == 1 and step(parts[0]).shape == tuple(result.shape):
            self._memory.bind(result, parts[0])
            return result
        self._record(call, result, versions)
        return result

    def _record(self, call: Call, result: Any, versions: list[tuple[torch.Tensor, int | None]]) -> None:
        """Add the node of a call that has been run, and of the tensors in its result."""
        if isinstance(result, torch.Tensor):
            for tensor, old in versions:
                if tensor is result:
                    # The argument itself came back: written (inplace=True), or nothing was done (contiguous).
                    if version(tensor) != old:
                        self._memory.write(tensor, self._create(call, tensor), None)
                    return
        self._bind(self._create(call, result), result)

    def _bind(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self._memory.bind(result, node)
            return
        items = result.items() if isinstance(result, dict) else enumerate(result)
        for key, item in items:
            if isinstance(item, torch.Tensor | tuple | list | dict) and next(tensors_in(item), None) is not None:
                part = self._create(Call("call_function", operator.getitem, (node, key), {}), item)
                self._bind(part, item)

    # --- writes -------------------------------------------------------------------------------------------------------

    @transparent
    def _in_place(
        self, func: Callable[..., Any], name: str, written: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name in _UNTOUCHED:
            return func(*args, **kwargs)
        before = self._before(written)
        call = self._mapped(normalise(func, args, kwargs))
        if name == "out":
            result = self.run(func, *args, **kwargs, out=written)
        else:
            result = self.run(func, *args, **kwargs)
        if written.numel() > 0:
            self._after_write(name, call, written, before, args, kwargs)
        return result

    def _before(self, written: torch.Tensor) -> torch.Tensor | None:
        """The value of a constant that is about to be written."""
        if self.live(written):
            self.node(written)
            return None
        return self._memory.root_of(written).detach().clone()

    def _after_write(
        self, name: str, call: Call, written: torch.Tensor, before: torch.Tensor | None, args: Any, kwargs: Any
    ) -> None:
        if name == "detach_" or name in _RESHAPED:
            self._memory.bind(written, self._create(call, written))
            return
        source = args[1] if len(args) > 1 else kwargs.get("src", kwargs.get("value"))
        if name in ("copy_", "fill_") and isinstance(source, torch.Tensor):
            node = self._coerced(call.args[1] if len(call.args) > 1 else self.node(source), source, written)
        elif name in CONSTANT_FILLS:
            node = self._constant(written, filled=True)
        else:
            node = self._create(call, written)
            others = [t for t in tensors_in((args[1:], kwargs)) if t.dim() > 0 and t.is_floating_point()]
            if name != "out" and any(t.dtype != written.dtype for t in others):
                node = self._emit("call_method", "to", (node, written.dtype), written)
        self._memory.write(written, node, before)

    @transparent
    def _set_item(self, func: Callable[..., Any], written: torch.Tensor, index: Any, value: Any) -> None:
        before = self._before(written)
        node, index_node, value_node = (self._argument(x) for x in (written, index, value))
        self.run(func, written, index, value)
        if written.numel() == 0:
            return
        if _is_basic(index):
            part = written[index]
            # x[i] += y ends with writing to x[i] what is there already.
            if part.numel() > 0 and not (isinstance(value, torch.Tensor) and same_memory(part, value)):
                self._set_part(part, value, value_node, before)
            return
        self._set_chosen(written, node, index, index_node, value, value_node, before)

    def _set_part(self, part: torch.Tensor, value: Any, node: Any, before: torch.Tensor | None) -> None:
        if isinstance(value, torch.Tensor):
            self._memory.write(part, self._coerced(node, value, part), before)
        else:
            self._memory.write(part, self._constant(part, filled=True), before)

    def _set_chosen(
        self, written: torch.Tensor, node: Any, index: Any, at: Any, value: Any, new: Any, before: torch.Tensor | None
    ) -> None:
        scalar = not isinstance(value, torch.Tensor) or value.dim() == 0
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.dim() == written.dim() and scalar:
            made = self._emit("call_method", "masked_fill", (node, at, new), written)
        elif isinstance(value, torch.Tensor) and all(isinstance(i, torch.Tensor) for i in _as_tuple(index)):
            if value.dtype != written.dtype:
                new = self._emit("call_method", "to", (new, written.dtype), value.detach().to(written.dtype))
            made = self._emit("call_function", torch.index_put, (node, _as_tuple(at), new), written)
        else:
            made = self._emit("call_function", setitem, (node, at, new), written)
        self._memory.write(written, made, before)

    def _coerced(self, node: fx.Node, source: torch.Tensor, target: torch.Tensor) -> fx.Node:
        """``node`` in the shape and dtype of what it is copied into."""
        if source.dtype != target.dtype:
            node = self._emit("call_method", "to", (node, target.dtype), source.detach().to(target.dtype))
        while source.dim() > target.dim():  # x[0] = y[None]
            source = source.detach()[0]
            node = self._emit("call_function", operator.getitem, (node, 0), source.to(target.dtype))
        if source.shape != target.shape:
            node = self._emit("call_method", "expand", (node, *target.shape), target)
        return node

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _mapped(self, call: Call) -> Call:
        kwargs = {key: self._argument(value) for key, value in call.kwargs.items()}
        return Call(call.op, call.target, tuple(self._argument(a) for a in call.args), kwargs)

    def _argument(self, value: Any) -> Any:
        """The argument with nodes for its tensors."""
        if isinstance(value, torch.Tensor):
            return self.node(value)
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, PackedSequence):
            parts = tuple(self._argument(v) for v in value)
            return self._create(Call("call_function", PackedSequence, parts, {}), None)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._argument(v) for v in value))
        if isinstance(value, tuple | list):
            return type(value)(self._argument(v) for v in value) if type(value) in (tuple, list) else value
        if type(value) is dict:
            return {key: self._argument(v) for key, v in value.items()}
        if isinstance(value, slice):
            return slice(*(int(v) if isinstance(v, torch.Tensor) else v for v in (value.start, value.stop, value.step)))
        return value

    def _create(self, call: Call, result: Any) -> fx.Node:
        name = getattr(getattr(call.target, "__self__", None), "__name__", None) if call.op == "call_function" else None
        is_apply = getattr(call.target, "__name__", "") == "apply"
        node = self.graph.create_node(
            call.op, call.target, call.args, dict(call.kwargs), name=name if is_apply and name else None
        )
        self._annotate(node, result, grad=call.target != "detach" and self._grad())
        return node

    def _emit(self, op: str, target: Any, args: tuple[Any, ...], like: torch.Tensor) -> fx.Node:
        return self._create(Call(op, target, args, {}), like)

    def _grad(self) -> bool:
        return torch.is_grad_enabled() if self.grad_mode is None else self.grad_mode

    def _annotate(self, node: fx.Node, result: Any, *, grad: bool = True, value: torch.Tensor | None = None) -> None:
        shape = dtype = None
        if isinstance(result, torch.Tensor):
            shape, dtype = tuple(result.shape), str(result.dtype).removeprefix("torch.")
            if value is None and not (result.is_floating_point() or result.is_complex()):
                value = result.detach().clone()
        annotate(node, Step(shape, dtype, self.module, locate(), grad, value))

    def _constant(self, tensor: torch.Tensor, *, filled: bool = False) -> fx.Node:
        key = id(tensor), version(tensor)
        if key[1] is not None and key in self._constants:
            return self._constants[key][1]
        if tensor.requires_grad and tensor.grad_fn is not None and not filled:
            self._note("a tensor that needs a gradient was computed where torch calls cannot be recorded")
        target = self._buffers.pop(id(tensor), None) or f"_const_{len(self._constants)}"
        node = self.graph.create_node("get_attr", target, name=target.replace(".", "_"))
        self._annotate(node, tensor, grad=False, value=tensor.detach().clone())
        self._constants[key] = tensor, node
        return node

    def _assume(self, name: str) -> None:
        self._note(
            f"{name.strip('_')}() read a value that depends on weights or inputs; only this run's outcome is followed"
        )

    def _note(self, text: str) -> None:
        location = locate()
        note = text if location is None else f"{location}: {text}"
        if note not in self.assumptions:
            self.assumptions.append(note)


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_basic(index: Any) -> bool:
    """Indexing with ``index`` makes a view."""
    return all(
        i is None or i is Ellipsis or isinstance(i, slice) or (isinstance(i, int) and not isinstance(i, bool))
        for i in _as_tuple(index)
    )


def _without_empty(call: Call) -> Call:
    """``torch.cat`` of a legacy empty tensor (an empty key cache) without it."""
    if not call.args or not isinstance(call.args[0], tuple | list):
        return call
    parts = [t for t in call.args[0] if not (isinstance(t, torch.Tensor) and t.dim() == 1 and t.numel() == 0)]
    return Call(call.op, call.target, (parts or list(call.args[0]), *call.args[1:]), call.kwargs)
