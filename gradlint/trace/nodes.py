"""The graph in the making: which node a tensor is, and how a call becomes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.utils.rnn import PackedSequence

from gradlint.trace.graph import Step, annotate, step
from gradlint.trace.hollow import Filled, Hollow
from gradlint.trace.mutation import Memory
from gradlint.trace.names import Call
from gradlint.trace.private import version
from gradlint.trace.source import locate
from gradlint.trace.tree import first_floating, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradlint.trace.inits import Laws
    from gradlint.trace.law import Law

__all__ = ["Nodes"]


class Nodes:
    """An ``fx.Graph`` and the tensors that its nodes stand for.

    Args:
        model: parameters and buffers are known by their names in it.
        laws: watch what makes constants; random ones get their laws from it.
        hollow: tensors without values.
    """

    def __init__(self, model: nn.Module, laws: Laws, hollow: Hollow | Filled | None = None) -> None:
        self.graph = fx.Graph()
        self.notes: list[str] = []
        self.chance = False  # what forward does depends on random numbers
        self.module = ""  # path of the module whose forward runs
        self.grad_mode: bool | None = None  # overrides torch's inside a reentrant checkpoint
        self.memory = Memory(self.emit, self.constant)
        self.laws = laws
        self.hollow = hollow or Filled()
        self.unknown: str | None = None  # a number made of weights alone that has no value
        self._weights_alone: set[fx.Node] = set()
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._buffers = {id(b): name for name, b in model.named_buffers()}
        self._inputs: dict[int, tuple[torch.Tensor, int | None, fx.Node]] = {}
        self._constants: dict[tuple[int, int | None], tuple[torch.Tensor, fx.Node]] = {}

    def live(self, tensor: torch.Tensor) -> bool:
        """The tensor's value depends on a floating-point input or a parameter."""
        return id(tensor) in self._parameters or self.memory.knows(tensor)

    def of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made the tensor's present value; a ``get_attr`` for a parameter or a constant."""
        if id(tensor) in self._parameters and not self.memory.has(tensor):
            node = self.graph.create_node("get_attr", self._parameters[id(tensor)])
            self._annotate(node, tensor, grad=tensor.requires_grad)
            self.memory.bind(tensor, node)
        given = self._inputs.get(id(tensor))
        if given is not None and given[1] == version(tensor):
            return given[2]
        return self.memory.read(tensor) or self.constant(tensor)

    def input(self, name: str, tensor: torch.Tensor, *, known: bool = False) -> fx.Node:
        """Add a placeholder for a tensor of the model's inputs; ``known``: for its values, which are no data."""
        name = name.replace(".", "_")
        node = self.graph.create_node("placeholder", name, (), {}, name=name)
        self._annotate(node, tensor, grad=not known, value=tensor.detach().clone() if known else None)
        if tensor.is_floating_point() or tensor.is_complex():
            self.memory.bind(tensor, node)
        else:
            self._inputs[id(tensor)] = tensor, version(tensor), node
        return node

    def constant(self, tensor: torch.Tensor, *, filled: bool = False) -> fx.Node:
        """A ``get_attr`` node for the tensor's real value.

        Args:
            tensor: what depends on nothing that is recorded.
            filled: it was just overwritten, so that its autograd history is of no account.
        """
        key = id(tensor), version(tensor)
        if key[1] is not None and key in self._constants:
            return self._constants[key][1]
        if tensor.grad_fn is not None and not filled:
            self.note("a tensor that needs a gradient was computed where torch calls cannot be recorded")
        target = self._buffers.pop(id(tensor), None) or f"_const_{len(self._constants)}"
        node = self.graph.create_node("get_attr", target, name=target.replace(".", "_"))
        self._annotate(node, tensor, grad=False, value=tensor.detach().clone(), law=self.laws.drawn(tensor))
        # Without a version counter (inference tensors) each use is a constant of its own.
        self._constants[key if key[1] is not None else (id(tensor), -len(self._constants))] = tensor, node
        return node

    def mapped(self, call: Call) -> Call:
        """The call with nodes for the tensors in its arguments."""
        kwargs = {key: self.argument(value) for key, value in call.kwargs.items()}
        return Call(call.op, call.target, tuple(self.argument(a) for a in call.args), kwargs)

    def argument(self, value: Any) -> Any:
        """One argument with nodes for its tensors."""
        match value:
            case torch.Tensor():
                return self.of(value)
            case torch.Size():
                return tuple(value)
            case PackedSequence():
                parts = tuple(self.argument(v) for v in value)
                return self.create(Call("call_function", PackedSequence, parts, {}), None)
            case tuple() if hasattr(value, "_fields"):
                return type(value)(*(self.argument(v) for v in value))
            case tuple() | list() if type(value) in (tuple, list):
                return type(value)(self.argument(v) for v in value)
            case dict() if type(value) is dict:
                return {key: self.argument(v) for key, v in value.items()}
            case slice():
                ends = (value.start, value.stop, value.step)
                return slice(*(int(v) if isinstance(v, torch.Tensor) else v for v in ends))
        return value

    def create(self, call: Call, result: Any) -> fx.Node:
        """Add a call that made ``result``."""
        name = None
        if getattr(call.target, "__name__", "") == "apply":  # an autograd.Function is known by its class
            name = getattr(getattr(call.target, "__self__", None), "__name__", None)
        node = self.graph.create_node(call.op, call.target, call.args, dict(call.kwargs), name=name)
        grad = torch.is_grad_enabled() if self.grad_mode is None else self.grad_mode
        self._annotate(node, result, grad=grad and call.target != "detach", value=self._of_integers(node, result))
        return node

    def _of_integers(self, node: fx.Node, result: Any) -> torch.Tensor | None:
        """The value of a tensor made of integers and constants alone (a mask as numbers, counts): what it was in this run."""
        inputs = node.all_input_nodes
        if not isinstance(result, torch.Tensor) or not inputs or any(step(n).value is None or step(n).law for n in inputs):
            return None
        return result.detach().clone()

    def emit(self, op: str, target: Any, args: tuple[Any, ...], like: torch.Tensor) -> fx.Node:
        """Add a call whose result has the shape and dtype of ``like``."""
        return self.create(Call(op, target, args, {}), like)

    def coerced(self, node: fx.Node, source: torch.Tensor, target: torch.Tensor) -> fx.Node:
        """The node of ``source`` in the shape and dtype of ``target``, which it is copied into."""
        if source.dtype != target.dtype:
            node = self.emit("call_method", "to", (node, target.dtype), source.detach().to(target.dtype))
        while source.dim() > target.dim():  # x[0] = y[None]
            source = source.detach()[0]
            node = self.emit("call_function", torch.select, (node, 0, 0), source.to(target.dtype))
        if source.shape != target.shape:
            node = self.emit("call_method", "expand", (node, *target.shape), target)
        return node

    def finish(self, result: Any) -> fx.Node | None:
        """Add the output node; returns the node of the first floating-point output, if that depends on anything."""
        nodes = tuple(self.of(t) for t in tensors_in(result))
        end = self.graph.output(nodes[0] if isinstance(result, torch.Tensor) else nodes)
        annotate(end, Step(None, None, "", None))
        first = first_floating(result)
        return self.of(first) if first is not None and self.live(first) else None

    def prune(self, keep: Iterable[str]) -> None:
        """Drop what neither the output nor a node named in ``keep`` depends on."""
        kept = set(keep)
        for node in reversed(list(self.graph.nodes)):
            if node.op not in ("placeholder", "output") and not node.users and node.name not in kept:
                self.graph.erase_node(node)

    def note(self, text: str) -> None:
        """Keep an assumption, with the user's line."""
        location = locate()
        note = text if location is None else f"{location}: {text}"
        if note not in self.notes:
            self.notes.append(note)

    def random(self, tensor: torch.Tensor) -> bool:
        """The tensor was drawn while the graph was made, and is nothing else."""
        return self.laws.drawn(tensor) is not None

    def by_chance(self, what: str) -> None:
        """Forward may do something else with other random numbers."""
        self.chance = True
        self.note(f"{what}; only one outcome is followed")

    def _number(self, node: fx.Node, result: torch.Tensor) -> float | None:
        if result not in self.hollow:
            return float(result.detach())
        if node in self._weights_alone and self.unknown is None:
            self.unknown = f"{node.name} is a number made of weights, which have no values here"
        return None

    def _annotate(
        self,
        node: fx.Node,
        result: Any,
        *,
        grad: bool = True,
        value: torch.Tensor | None = None,
        law: Law | None = None,
    ) -> None:
        if node.op == "get_attr" or (node.op.startswith("call") and all(n in self._weights_alone for n in node.all_input_nodes)):
            self._weights_alone.add(node)
        shape = dtype = scalar = None
        if isinstance(result, torch.Tensor):
            shape, dtype = tuple(result.shape), str(result.dtype).removeprefix("torch.")
            if value is None and not (result.is_floating_point() or result.is_complex()):
                value = result.detach().clone()
            elif result.is_floating_point() and result.numel() == 1:
                scalar = self._number(node, result)
        lowered = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if torch.is_autocast_enabled("cpu") else None
        annotate(node, Step(shape, dtype, self.module, locate(), grad, value, law, scalar, lowered))
