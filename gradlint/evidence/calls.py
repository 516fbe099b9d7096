"""The traced model as a rule sees it: calls by name, who uses what, and the layers that weights are applied in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from gradlint.findings import Location
from gradlint.flowed import Flowed
from gradlint.ops import IDENTITY, lookup, pieces, shape
from gradlint.ops import index as index_ops
from gradlint.recognise import scalar_function
from gradlint.trace.graph import op_name, step
from gradlint.trace.names import CONVOLUTIONS, NORMS, PRODUCTS

__all__ = ["Layer", "Op", "Ops", "Ref"]

_PRODUCTS = (CONVOLUTIONS | PRODUCTS | {"linear", "addmm"}) - {"einsum"}  # whose second or third argument may be a weight
_WEIGHT = {"addmm": 2, "baddbmm": 2}  # place of the weight among the arguments; 1 for the others
_REARRANGING = {family.__name__ for family in (shape, pieces, index_ops)}
_KEEPING = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")


@dataclass(frozen=True)
class Ref:
    """A tensor among the arguments of a call: the node that made it, and the parameter that it is, if it is one."""

    node: str
    parameter: str | None = None


@dataclass(frozen=True)
class Op:
    """One call of the traced forward.

    Args:
        name: of its node.
        op: what is called, by its own name: ``linear``, ``softmax``, ``truediv``.
        args: as they were given, every tensor a :class:`Ref`.
        kwargs: likewise.
        grad: autograd records it.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str
    module: str
    location: Location | None
    grad: bool

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position (0 is the tensor of a method) or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """Tensors among the arguments, in order; those in lists included."""
        return tuple(_refs((*self.args, *self.kwargs.values())))

    @property
    def size(self) -> int:
        """Entries of the result."""
        return math.prod(self.shape)

    def axis(self, position: int, name: str, default: int = -1) -> int:
        """An axis among the arguments, counted from the front."""
        given = self.argument(position, name, default)
        return int(default if given is None else given) % max(len(self.shape), 1)


@dataclass(frozen=True)
class Layer:
    """A call that multiplies by a weight: linear, convolution, or a matrix product.

    Args:
        call: of it.
        weight: name of the parameter.
        bias: name of the bias; None without.
        fan_in: terms in the sum that an output entry is (the mean over positions for a transposed convolution).
        fan_out: terms in the sum that the gradient of an input entry is, likewise.
        groups: of a convolution.
        activation: op of the nonlinearity behind it; ``""`` where something else follows.
        normalised: a norm follows before anything else, so that the scale of the weight does not matter.
        output: its output is the model's, but for moves and what makes probabilities of it.
    """

    call: Op
    weight: str
    bias: str | None
    fan_in: float
    fan_out: float
    groups: int = 1
    activation: str = ""
    normalised: bool = False
    output: bool = False


class Ops:
    """All calls of a traced model, and who uses what."""

    def __init__(self, flowed: Flowed) -> None:
        self._traced = traced = flowed.traced
        self._nodes = {n.name: n for n in traced.graph.nodes}
        self.calls: Mapping[str, Op] = {n.name: _op(n) for n in traced.graph.nodes if n.op.startswith("call")}
        """Calls by the name of their node, in order of execution."""
        self.handwritten = {name: norm.root.name for name, norm in flowed.norms.items()}
        """The call that ends a norm written by hand, with the node that it normalises."""
        self.placeholders = frozenset(n.name for n in traced.graph.nodes if n.op == "placeholder")

    def users(self, name: str) -> list[Op]:
        """The calls that a node is an argument of."""
        return [self.calls[n.name] for n in self._nodes[name].users if n.name in self.calls]

    def dtype(self, name: str) -> str:
        """Such as ``float32``; empty where it is no tensor."""
        return step(self._nodes[name]).dtype or ""

    @property
    def output_size(self) -> int:
        """Entries of the model's output."""
        return self.size(self._traced.output)

    def size(self, name: str) -> int:
        """Entries of a node's tensor."""
        return math.prod(step(self._nodes[name]).shape or ())

    def given(self, name: str) -> bool:
        """An input has a part in it."""
        waiting, seen = [self._nodes[name]], {name}
        while waiting:
            node = waiting.pop()
            if node.op == "placeholder":
                return True
            fresh = [n for n in node.all_input_nodes if n.name not in seen]
            seen |= {n.name for n in fresh}
            waiting += fresh
        return False

    def normalised(self, name: str) -> bool:
        """All that uses a node normalises it first."""
        behind = list(self.ahead(name, _biases))
        if self.returned(name) or not behind:
            return False
        if all(call.op in NORMS for call in behind):
            return True
        return any(self.origin(root) == self.origin(name) for root in self.handwritten.values())

    def returned(self, name: str) -> bool:
        """The model returns it."""
        return any(n.op == "output" for n in self._nodes[name].users)

    def origin(self, name: str) -> str:
        """The node whose entries a node's are, moved about: back through views, slices, copies and dropout."""
        node = self._nodes[name]
        while _moves(node) and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return str(node.name)

    def ahead(self, name: str, through: Callable[[Op], bool] | None = None) -> Iterator[Op]:
        """The nearest calls that do something with a node's entries, behind views, slices, copies and dropout.

        Args:
            through: other calls to look behind.
        """
        waiting, seen = [self._nodes[name]], {name}
        while waiting:
            node = waiting.pop(0)
            for user in node.users:
                if user.name in seen or user.name not in self.calls or _is_pattern(node, user):
                    continue
                seen.add(user.name)
                if _moves(user) or (through is not None and through(self.calls[user.name])):
                    waiting.append(user)
                else:
                    yield self.calls[user.name]

    def ancestors(self, name: str, until: Callable[[Op], bool] = lambda _: False) -> Iterator[Op]:
        """The calls that a node is made of, itself first, not looking behind those that ``until`` is true of."""
        waiting, seen = [name], {name}
        while waiting:
            call = self.calls.get(waiting.pop())
            if call is None:
                continue
            yield call
            if until(call) and call.name != name:
                continue
            for ref in call.inputs:
                if ref.node not in seen:
                    seen.add(ref.node)
                    waiting.append(ref.node)

    def tables(self) -> frozenset[str]:
        """Parameters that rows are looked up from, by integers: embeddings, however they are written."""
        found = set()
        for call in self.calls.values():
            first, *rest = call.inputs or (Ref(""),)
            if "embedding" in call.op:
                found |= {ref.parameter for ref in call.inputs if ref.parameter}
            elif call.op in ("getitem", "index_select") and first.parameter and any("int" in self.dtype(r.node) for r in rest):
                found.add(first.parameter)
        return frozenset(found)

    def learned(self, name: str) -> bool:
        """Something that is trained has a part in it: its range is not that of the data alone."""
        waiting, seen = [self._nodes[name]], {name}
        while waiting:
            node = waiting.pop()
            if node.op == "call_module" or (node.op == "get_attr" and step(node).value is None):
                return True
            fresh = [n for n in node.all_input_nodes if n.name not in seen]
            seen |= {n.name for n in fresh}
            waiting += fresh
        return False

    def layers(self) -> tuple[Layer, ...]:
        """The calls that multiply by a weight of two or more axes, in order of execution."""
        return tuple(layer for call in self.calls.values() if (layer := self._layer(call)) is not None)

    def _layer(self, call: Op) -> Layer | None:
        if call.op not in _PRODUCTS:
            return None
        weight = call.argument(_WEIGHT.get(call.op, 1), "weight")
        if not isinstance(weight, Ref):
            return None
        named = self._parameter(weight.node)
        record = self._traced.parameters.get(named or "")
        if record is None or len(record.shape) < 2:
            return None
        bias = call.argument(2, "bias") if call.op in CONVOLUTIONS | {"linear"} else None
        fans = _fans(call, record.shape)
        groups = _groups(call)
        behind = list(self.ahead(call.name, _biases))
        bend = next((c.op for c in behind if _bends(self._nodes[c.name])), "")
        normal = self.normalised(call.name)
        output = self._ends(call.name)
        name = bias.parameter if isinstance(bias, Ref) else None
        return Layer(call, record.name, name, *fans, groups, bend, normal, output)

    def _parameter(self, name: str) -> str | None:
        """The parameter that a node is, through views, transpositions and casts."""
        node = self._nodes[self.origin(name)]
        return str(node.target) if node.op == "get_attr" and step(node).value is None else None

    def _ends(self, name: str) -> bool:
        """A node is the model's output, but for moves and what makes probabilities of it."""
        last = ("softmax", "log_softmax", "sigmoid", "logsigmoid", "cross_entropy")
        waiting = [self._nodes[name]]
        while waiting:
            node = waiting.pop()
            if any(n.op == "output" for n in node.users) and node.name == self._traced.output:
                return True
            waiting += [
                n
                for n in node.users
                if n.op != "output"
                and (_moves(n) or op_name(n) in last or (n.name in self.calls and _biases(self.calls[n.name])))
            ]
        return False


def _biases(call: Op) -> bool:
    """It adds a parameter."""
    return (
        call.op in ("add", "iadd") and [ref.parameter is None for ref in call.inputs].count(False) == 1 and len(call.inputs) == 2
    )


def _op(node: fx.Node) -> Op:
    facts = step(node)

    def refer(x: Any) -> Any:
        if not isinstance(x, fx.Node):
            return x
        parameter = str(x.target) if x.op == "get_attr" and step(x).value is None else None
        return Ref(x.name, parameter)

    args: Any = fx.node.map_aggregate(node.args, refer)
    kwargs: Any = fx.node.map_aggregate(node.kwargs, refer)
    op = op_name(node) if node.op != "call_module" else "recurrent"
    shape_, dtype = facts.shape or (), facts.dtype or ""
    return Op(node.name, op, tuple(args), dict(kwargs), shape_, dtype, facts.module, facts.location, facts.grad)


def _refs(tree: Iterable[Any]) -> Iterator[Ref]:
    for x in tree:
        if isinstance(x, Ref):
            yield x
        elif isinstance(x, list | tuple):
            yield from _refs(x)


def _moves(node: fx.Node) -> bool:
    """The entries of the result are entries of the first argument."""
    if node.op not in ("call_function", "call_method"):
        return False
    found = lookup(node.target)
    family = found is not None and found.function.__module__ in _REARRANGING and op_name(node) not in ("cat", "concat", "stack")
    return family or _is_identity(node) or op_name(node) in _KEEPING


def _is_pattern(node: fx.Node, user: fx.Node) -> bool:
    """Of a tensor only the shape or the type is asked, as by ``y.view_as(x)``."""
    return op_name(user).endswith("_as") and user.all_input_nodes[0] is not node


def _is_identity(node: fx.Node) -> bool:
    try:
        return node.target in IDENTITY
    except TypeError:  # an unhashable target
        return False


def _bends(node: fx.Node) -> bool:
    """A function of every entry alone that is no arithmetic."""
    plain = {"add", "sub", "mul", "div", "truediv", "neg", "rsub", "where", "masked_fill", "maximum", "minimum"}
    return scalar_function(node) is not None and op_name(node) not in plain and len(node.all_input_nodes) == 1


def _groups(call: Op) -> int:
    if call.op not in CONVOLUTIONS:
        return 1
    return int(call.argument(6, "groups", 1))


def _fans(call: Op, weight: tuple[int, ...]) -> tuple[float, float]:
    """Terms in the sums that one output entry, and the gradient of one input entry, are (borders left aside)."""
    if call.op not in CONVOLUTIONS:
        out = float(call.shape[-1]) if call.shape else 1.0
        return math.prod(weight) / out if len(weight) == 2 else float(weight[-2]), out
    kernel, places, stride = math.prod(weight[2:]), len(weight) - 2, call.argument(3, "stride", 1)
    steps = math.prod(stride) if isinstance(stride, list | tuple) and len(stride) == places else 0
    steps = steps or (stride[0] if isinstance(stride, list | tuple) else int(stride)) ** places
    groups = _groups(call)
    if "transpose" in call.op:  # the weight is (in, out / groups, …)
        return weight[0] / groups * kernel / steps, weight[1] * kernel
    return weight[1] * kernel, weight[0] / groups * kernel / steps
