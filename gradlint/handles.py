"""The arguments of a traced call as a transfer function takes them: tensors as moments, each under an identity of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from gradlint.moments import Moments
from gradlint.ops import Call
from gradlint.recognise import shared_width
from gradlint.trace.graph import Traced, op_name, step

__all__ = ["Inputs", "arguments", "call_of", "target_of", "without_moments"]

_GIVEN = ("values", "identity")
"""Kinds of laws that are no more than values."""

_LABELLED = ("cross_entropy", "nll_loss", "linear_cross_entropy")

Inputs = dict[Moments, fx.Node | str]
"""Every handle with the node, or the leaf module's parameter, that it stands for."""


def arguments(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Inputs]:
    """Positional and keyword arguments, and what their handles stand for."""
    inputs: Inputs = {}

    def abstract(x: Any) -> Any:
        if not isinstance(x, fx.Node):
            return x
        if x.target is PackedSequence:  # the way to its members leads past it
            return tuple(map(abstract, x.args))
        value = values[x]
        if not isinstance(value, Moments):
            return value
        handle = value.twin()  # its own identity: the same tensor may be passed twice
        inputs[handle] = x
        return handle

    args: Any = fx.node.map_aggregate(node.args, abstract)
    kwargs: Any = dict(fx.node.map_aggregate(node.kwargs, abstract))
    if "input" in kwargs and not args:
        args = (kwargs.pop("input"),)
    return tuple(args), kwargs, inputs


def call_of(node: fx.Node, traced: Traced, inputs: Inputs) -> Call:
    """What a transfer function knows of a call beside its arguments."""
    if node.op == "call_module":
        return _leaf_call(node, traced, inputs)
    name, call = op_name(node), Call(step(node).shape)
    if "attention" in name:
        return replace(call, shared_width=shared_width(node))
    return replace(call, drawn=_drawn(node, traced)) if name in _LABELLED else call


def _drawn(node: fx.Node, traced: Traced) -> bool:
    """What integers a call is given are made of inputs that were not given but drawn, or of random numbers."""
    inputs = [n for n in traced.graph.nodes if n.op == "placeholder"]
    drawn = {n for n, by_us in zip(inputs, traced.arguments.drawn, strict=True) if by_us}
    seen, queue = set(), [n for n in node.all_input_nodes if not step(n).floating]
    while queue:
        n = queue.pop()
        if n in drawn or step(n).law is not None:
            return True
        if n not in seen:
            seen.add(n)
            queue += n.all_input_nodes
    return False


def _leaf_call(node: fx.Node, traced: Traced, inputs: Inputs) -> Call:
    """The call of a leaf module, its parameters among the inputs."""
    module = traced.model.get_submodule(str(node.target))
    local: dict[str, Moments] = {}
    given = set()
    by_name = {name: record for record in traced.parameters.values() for name in record.names}
    for name, _ in module.named_parameters():
        record = by_name[f"{node.target}.{name}"]
        local[name] = record.law.moments.twin()
        inputs[local[name]] = record.name
        if record.law.kind in _GIVEN:
            given.add(name)
    return Call(None, dict(vars(module)), local, frozenset(given))


def without_moments(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """What a call reads of which no moments are known; an empty tensor in the place of a weight is not read."""
    unread = node.target is functional.multi_head_attention_forward
    return [n for n in node.all_input_nodes if values[n] is None and not (unread and 0 in (step(n).shape or ()))]


def target_of(node: fx.Node, traced: Traced) -> Any:
    """What transfer functions know a call by: its function, the name of its method, the class of a leaf module."""
    return type(traced.model.get_submodule(str(node.target))) if node.op == "call_module" else node.target
