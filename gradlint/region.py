"""A piece of the graph as one function.

Some tensors have no moments: complex ones, and weights made of weights in ways that no formula follows (the exponential of a
skew-symmetric matrix). What depends on them is sampled together with them, from the last tensors whose moments are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gradlint.trace.graph import step

__all__ = ["Region"]

_WIDE = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}


class Region:
    """``node`` as a function of the nearest tensors that are not ``inside``.

    Args:
        node: the end of the piece.
        inside: its inputs, theirs, and so on, belong to the piece as far as this says so; constants always do.
    """

    def __init__(self, node: fx.Node, inside: Callable[[fx.Node], bool]) -> None:
        found, queue = {node}, [node]
        self.leaves: list[fx.Node] = []
        while queue:
            for n in queue.pop().all_input_nodes:
                if n in found or n in self.leaves:
                    continue
                if step(n).value is not None or inside(n):
                    found.add(n)
                    queue.append(n)
                else:
                    self.leaves.append(n)
        self.members = [n for n in node.graph.nodes if n in found]

    def __call__(self, *tensors: torch.Tensor) -> Any:
        """Run the piece on values of its leaves, in double precision.

        Raises:
            NotImplementedError: it contains something that is not a function.
        """
        values: dict[fx.Node, Any] = dict(zip(self.leaves, tensors, strict=True))
        for node in self.members:
            values[node] = _constant(node) if step(node).value is not None else _run(node, values)
        return values[self.members[-1]]


def _constant(node: fx.Node) -> Any:
    value: Any = step(node).value
    return value.to(torch.complex128) if value.is_complex() else value.double() if value.is_floating_point() else value


def _run(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op not in ("call_function", "call_method"):
        raise NotImplementedError(f"{node.target} is not a function")

    def concrete(x: Any) -> Any:
        if isinstance(x, fx.Node):
            return values[x]
        if isinstance(x, torch.dtype):
            return torch.float64 if x.is_floating_point else _WIDE.get(x, x)
        return x

    args: Any = fx.node.map_aggregate(node.args, concrete)
    kwargs: Any = fx.node.map_aggregate(node.kwargs, concrete)
    function: Any = getattr(torch.Tensor, node.target) if isinstance(node.target, str) else node.target
    return function(*args, **kwargs)
