"""Parameters that no gradient reaches: those that nothing uses, and those whose effect is taken out again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import fx

from gradlint.flowed import Flowed
from gradlint.moments import energy
from gradlint.trace.graph import Traced, op_name, step

__all__ = ["Cancelled", "cancelled", "only_added", "unused"]

_ZERO = 1e-6  # of the energy that independent entries would send: 1e-3 of the rms
_BIAS = {  # place of the argument that is added
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), 2),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 2),
    **dict.fromkeys(("bilinear", "layer_norm", "group_norm"), 3),
    **dict.fromkeys(("batch_norm", "instance_norm"), 4),
    **dict.fromkeys(("addmm", "baddbmm"), 0),
}
_MOVES = ("view", "reshape", "unsqueeze", "expand", "to", "getitem", "permute", "transpose", "float", "unflatten", "flatten")
_ABSORBS = ("batch_norm", "instance_norm", "softmax")
_LINEAR = (*_MOVES, "add", "sub", "linear", "matmul", "bmm", "baddbmm", "einsum", "masked_fill", "mul", "div", "truediv")


@dataclass(frozen=True)
class Cancelled:
    """A parameter that is added to a tensor whose gradient, summed over what it is added to, is zero.

    Args:
        parameter: its name.
        by: the op behind that takes the shift out again.
        usual: the gradient's rms if the entries that it sums were independent.
    """

    parameter: str
    by: str
    usual: float


def unused(traced: Traced) -> tuple[str, ...]:
    """Trainable parameters from which no differentiable path leads to any output: their ``.grad`` stays None."""
    used: set[str] = set()
    reached: set[fx.Node] = set()
    waiting = [n for n in traced.graph.nodes if n.op == "output"]
    while waiting:
        node = waiting.pop()
        if node in reached:
            continue
        reached.add(node)
        facts = step(node)
        if node.op == "get_attr" and facts.value is None:
            used.add(str(node.target))
        if node.op == "call_module":
            used |= {r.name for r in traced.parameters.values() if any(n.startswith(f"{node.target}.") for n in r.names)}
        if facts.grad and (facts.shape is None or facts.differentiable):
            waiting += node.all_input_nodes
    return tuple(name for name, record in traced.parameters.items() if record.requires_grad and name not in used)


def only_added(traced: Traced) -> set[str]:
    """Parameters that are nowhere multiplied: biases, positions, tokens."""
    sources: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr" and step(node).value is None:
            sources.setdefault(str(node.target), []).append(node)
    return {name for name, nodes in sources.items() if all(place is not None for place in _sums(nodes))}


def cancelled(flowed: Flowed) -> Iterator[Cancelled]:
    """Trainable parameters that only shift what something behind them takes the shift out of.

    A parameter that waits behind a zero (a zero-initialised branch) is none: there the whole gradient is zero, at first.
    """
    sources: dict[str, list[fx.Node]] = {}
    for node in flowed.traced.graph.nodes:
        if node.op == "get_attr" and step(node).value is None and step(node).grad:
            sources.setdefault(str(node.target), []).append(node)
    for name, nodes in sources.items():
        sums = list(_sums(nodes))
        if not sums or None in sums or name in flowed.unknown.parameters:
            continue
        places = [node for node in sums if node is not None]
        unit = flowed.units.parameters.get(name, max(flowed.units.backward.get(node.name, 0) for node in places))
        arriving, by = sum(flowed.energy(node.name, unit) for node in places), _absorber(places)
        if by and arriving > 0 and energy(flowed.parameters.get(name)) <= _ZERO * arriving:
            yield Cancelled(name, by, math.sqrt(arriving / math.prod(flowed.traced.parameters[name].shape)))


def _sums(nodes: Iterable[fx.Node]) -> Iterator[fx.Node | None]:
    """The ops that add a parameter to something; None for another use."""
    for node in nodes:
        for user in node.users:
            if user.op == "output" or not step(user).grad:
                continue
            op = op_name(user)
            if op in _MOVES:
                yield from _sums([user])
            else:
                yield user if _is_added(node, user, op) else None


def _is_added(node: fx.Node, user: fx.Node, op: str) -> bool:
    if op in ("add", "sub"):
        return True
    place = _BIAS.get(op, len(user.args))
    return user.kwargs.get("bias") is node or (place < len(user.args) and user.args[place] is node)


def _absorber(sums: list[fx.Node]) -> str:
    """The op that takes a shift out again on every way from ``sums``, where only ops lie before it that pass on a shift."""
    seen, waiting, found = set(sums), list(sums), ""
    while waiting:
        node = waiting.pop(0)
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if _absorbs(node, user):
                found = op_name(user)
            elif user.op != "output" and _passes_on(user):
                waiting.append(user)
            else:
                return ""
    return found


def _absorbs(node: fx.Node, user: fx.Node) -> bool:
    if "attention" in op_name(user):  # the keys
        return (user.args[1] if len(user.args) > 1 else user.kwargs.get("key")) is node
    return any(word in op_name(user) for word in _ABSORBS)


def _passes_on(node: fx.Node) -> bool:
    op = op_name(node)
    if op in ("mul", "div", "truediv"):  # by a number: a factor that varies, such as a position's, makes it more than a shift
        return sum(math.prod(step(n).shape or ()) > 1 for n in node.all_input_nodes) == 1
    if op in ("conv1d", "conv2d", "conv3d"):  # without a border of zeros
        padding = node.args[4] if len(node.args) > 4 else node.kwargs.get("padding", 0)
        return not any(padding) if isinstance(padding, (tuple, list)) else isinstance(padding, int) and padding == 0
    return op in _LINEAR
