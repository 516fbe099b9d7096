"""Pieces of the graph that act on every entry alone, on several tensors that come together again.

``exp(max(a, b) − a)`` never has a positive argument and ``(u·x + v·y)/(u + v)`` is an average, however large u and v are: taken
as functions of independent tensors they are something else. Where a quotient, a maximum or another nonlinear function meets one
tensor on two ways, all that leads there entry by entry is drawn together: one set of samples for every tensor that comes in,
carried forward node by node, and gradients carried back on the same samples. A running log-sum-exp, a numerically safe average
of the past (RWKV) and a ratio of gates are of this kind. What is a function of one tensor alone is a cone
(:mod:`gradlint.recognise`) and needs no samples.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from gradlint.moments import Moments, from_pairs, pair_averages, take
from gradlint.ops.sampled import draw
from gradlint.recognise import elementwise, scalar_function
from gradlint.trace.graph import op_name, step

__all__ = ["Tangles"]

_MEETING = {"div", "divide", "true_divide", "truediv", "maximum", "minimum", "fmax", "fmin"}
_LINEAR = {"add", "sub", "rsub", "neg", "subtract", "negative"}
_ENTRIES = 4096
_DRAWS = (8, 64)
_BUDGET = 100_000_000
_SEED = 20_190_616


@dataclass(frozen=True)
class _Ways:
    """How a tensor is made, entry by entry.

    Args:
        roots: the tensors it is made of, one bit each.
        linear: it is a sum of multiples of them.
        meets: one of them reached it on two ways, and not by sums alone.
    """

    roots: int
    linear: bool = True
    meets: bool = False


def _ends(graph: fx.Graph) -> list[fx.Node]:
    """Nonlinear functions, quotients and extremes that meet one tensor on two ways."""
    ways: dict[fx.Node, _Ways] = {}
    ends = []
    for number, node in enumerate(graph.nodes):
        if not elementwise(node):
            ways[node] = _Ways(1 << number)
            continue
        sides = [ways[n] for n in node.all_input_nodes if step(n).value is None]
        roots = common = 0
        for side in sides:
            roots, common = roots | side.roots, common | (roots & side.roots)
        name = op_name(node)
        several = roots.bit_count() > 1
        linear = all(side.linear for side in sides) and (name in _LINEAR or (len(sides) < 2 and name in ("mul", "div")))
        meets = any(side.meets for side in sides) or (several and bool(common) and not linear)
        if several and ((common and name in _MEETING) or (meets and not common and name not in (*_LINEAR, "mul", *_MEETING))):
            ends.append(node)
        ways[node] = _Ways(roots, linear, meets)
    return ends


def _is_slice(node: fx.Node) -> bool:
    """A read by integers and slices."""
    if node.target is not operator.getitem or len(node.all_input_nodes) != 1 or step(node.all_input_nodes[0]).shape is None:
        return False
    index = node.args[1]
    return all(isinstance(i, int | slice) or i is None or i is ... for i in (index if isinstance(index, tuple) else (index,)))


def _slices(found: set[fx.Node]) -> set[fx.Node]:
    """What comes in as one of several slices of a tensor: they are drawn together, and their gradients have more in common."""
    slices = {n for member in found for n in member.all_input_nodes if n not in found and step(n).floating and _is_slice(n)}
    sources = [n.all_input_nodes[0] for n in slices]
    return {n for n in slices if sources.count(n.all_input_nodes[0]) > 1}


@dataclass
class _Sample:
    """One member on all draws: leading axis of draws, then its axes, with ones in front up to the common rank."""

    inputs: list[tuple[fx.Node, torch.Tensor]]
    out: torch.Tensor


@dataclass
class Tangles:
    """The members of all such pieces, with their samples as the interpreter goes.

    Args:
        graph: the model's.
    """

    graph: fx.Graph
    members: dict[fx.Node, None] = field(default_factory=dict)
    _drawn: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    _samples: dict[fx.Node, _Sample] = field(default_factory=dict)
    _grads: dict[fx.Node, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = _ends(self.graph)
        queue = list(ends)
        found = set(ends)
        while queue:
            for n in queue.pop().all_input_nodes:
                if n not in found and step(n).value is None and elementwise(n):
                    found.add(n)
                    queue.append(n)
        found |= _slices(found)
        self.members = dict.fromkeys(n for n in self.graph.nodes if n in found)
        self._rank = max((len(step(n).shape or ()) for n in self.members), default=0)
        size = max((math.prod(step(n).shape or ()) for n in self.members), default=1)
        self._draws = min(max(_ENTRIES // max(size, 1), _DRAWS[0]), _DRAWS[1])
        if self._draws * sum(math.prod(step(n).shape or ()) for n in self.members) > _BUDGET:
            self.members = {}

    def enter(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Moments:
        """The law of a member.

        Raises:
            NotImplementedError: one of the tensors that come in has no moments.
        """
        inputs: dict[fx.Node, torch.Tensor] = {}

        def concrete(x: Any) -> Any:
            if not isinstance(x, fx.Node):
                return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x
            if x not in inputs:
                at = self._at(x, values).detach()
                inputs[x] = at.requires_grad_(at.is_floating_point() and step(x).grad)
            return inputs[x]

        args: Any = fx.node.map_aggregate(node.args, concrete)
        kwargs: Any = fx.node.map_aggregate(node.kwargs, concrete)
        dropped = {k: v for k, v in kwargs.items() if k not in ("inplace", "out")}
        out: torch.Tensor = self._slice(node, args[0]) if _is_slice(node) else scalar_function(node)(*args, **dropped)
        self._samples[node] = _Sample(list(inputs.items()), out if step(node).grad else out.detach())
        return self._law(out.detach().double(), node)

    def _slice(self, node: fx.Node, stack: torch.Tensor) -> torch.Tensor:
        """A slice on all draws."""
        source, index = node.all_input_nodes[0], node.args[1]
        whole = stack.reshape(len(stack), *(step(source).shape or ()))
        part = whole[(slice(None), *(index if isinstance(index, tuple) else (index,)))]
        return part.reshape(len(part), *(1,) * (self._rank - part.dim() + 1), *part.shape[1:])

    def _at(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> torch.Tensor:
        """Samples of a member, of what comes in, or of a constant."""
        if node in self._samples:
            return self._samples[node].out
        if node not in self._drawn:
            value = values[node]
            if not isinstance(value, Moments):
                raise NotImplementedError("a tensor without moments")
            lead = (1,) * (self._rank - len(value.shape))
            if value.value is None:
                stack = self._draw(value, len(self._drawn))
            else:
                stack = torch.as_tensor(np.array(value.value))[None]
                stack = stack.double().expand(self._draws, *value.shape) if stack.is_floating_point() else stack
            self._drawn[node] = stack.reshape(len(stack), *lead, *value.shape)
        return self._drawn[node]

    def _draw(self, law: Moments, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(_SEED + number)
        return torch.stack([draw(law, generator) for _ in range(self._draws)]).double()

    def _law(self, stack: torch.Tensor, node: fx.Node) -> Moments:
        """The law of a node's tensor from what it was on the draws."""
        shape = step(node).shape or ()
        sizes = [n for n in shape if n > 1]
        y = stack.expand(self._draws, *stack.shape[1:]).reshape(self._draws, *sizes).numpy()
        table = pair_averages(y, 1)
        for axis, n in enumerate(sizes):
            same, averaged = take(table, axis, 1), take(table, axis, 0)
            table = np.stack([(n * averaged - same) / (n - 1), same], axis)
        return from_pairs(tuple((n,) if n > 1 else () for n in shape), float(y.mean()), table)

    def arrived(self, node: fx.Node) -> Moments | None:
        """The gradient that a node gets from the members that take it; None where it gets none."""
        stack = self._grads.get(node)
        return None if stack is None else self._law(stack, node)

    def back(self, node: fx.Node, external: Moments | None) -> list[tuple[fx.Node, float]]:
        """Send a member's gradient to its inputs; returns the energy that each got.

        Args:
            node: the member.
            external: its gradient from nodes that are no members.
        """
        sample, g = self._samples.pop(node), self._grads.pop(node, None)
        if external is not None:
            given = self._draw(external, len(self._drawn) + len(self._samples))
            given = given * math.sqrt(external.q / max(float(given.square().mean()), 1e-300))
            g = given.reshape(self._draws, *sample.out.shape[1:]) + (0 if g is None else g)
        wanted = [(n, t) for n, t in sample.inputs if t.requires_grad]
        if g is None or not wanted or not sample.out.requires_grad:
            return []
        found: Any = torch.autograd.grad(sample.out.expand_as(g), [t for _, t in wanted], g, allow_unused=True)
        sent = []
        for (n, _), grad in zip(wanted, found, strict=True):
            if grad is not None:
                self._grads[n] = grad + self._grads[n] if n in self._grads else grad
                sent.append((n, float(grad.square().sum()) / self._draws))
        return sent
