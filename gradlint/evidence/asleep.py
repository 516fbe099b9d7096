"""Parameters that start at zero and can never leave it, because each waits for another.

A gradient is zero or it is not: the graph is run on truth values, forward (can this tensor be non-zero?) and backward (can a
non-zero gradient arrive?). Parameters that a gradient reaches count as non-zero from then on, until nothing changes. One
zero-initialised layer of a branch wakes up in the first step; two in a row never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from gradlint.evidence.calls import NORMS, Op, Ops, Ref
from gradlint.flowed import Flowed
from gradlint.recognise import scalar_function
from gradlint.trace.graph import step

__all__ = ["find_asleep"]

_SUMMED = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "bilinear")
_PRODUCTS = ("mul", "multiply", "matmul", "mm", "bmm", "einsum", "outer", "dot", "inner", "tensordot")


def find_asleep(flowed: Flowed, ops: Ops) -> tuple[str, ...]:
    """Names of the trainable parameters that stay at zero, in the order of the model; empty where one op is unknown."""
    traced = flowed.traced
    zero = {n for n, r in traced.parameters.items() if r.requires_grad and r.law.mean == 0.0 and r.law.std == 0.0}
    if not zero or any(n.op == "call_module" for n in traced.graph.nodes):
        return ()
    while True:
        reached = set(_Pass(flowed, ops, zero).reached())
        if not zero & reached:
            return tuple(n for n in traced.parameters if n in zero and _used(ops, n))
        zero -= reached


def _used(ops: Ops, parameter: str) -> bool:
    return any(ref.parameter == parameter for call in ops.calls.values() for ref in call.inputs)


class _Pass:
    """One run on truth values.

    Args:
        zero: names of parameters that are still zero.
    """

    def __init__(self, flowed: Flowed, ops: Ops, zero: set[str]) -> None:
        self._ops, self._output = ops, flowed.traced.output
        self._live: dict[str, bool] = {}
        self._slopes: dict[str, bool] = {}
        for node in flowed.traced.graph.nodes:
            value = step(node).value
            if node.op == "get_attr" and value is None:
                self._live[node.name] = str(node.target) not in zero
            elif value is not None:
                self._live[node.name] = bool((value != 0).any())
            elif node.name in ops.calls:
                call = ops.calls[node.name]
                function = scalar_function(node) if len(call.inputs) == 1 else None
                if function is not None:
                    at, self._slopes[node.name] = _at_zero(function, call)
                    self._live[node.name] = at or self._alive(call.inputs[0])
                else:
                    self._live[node.name] = self._made(call)
            else:
                self._live[node.name] = True

    def _alive(self, ref: Ref) -> bool:
        return self._live.get(ref.node, True)

    def _made(self, call: Op) -> bool:
        refs = call.inputs
        if not refs:
            return True
        alive = [self._alive(ref) for ref in refs]
        if call.op in _SUMMED or call.op in NORMS:
            factors = 1 if call.op in NORMS else 2
            return all(alive[:factors]) or (len(alive) > factors and any(alive[factors:]))
        if call.op in _PRODUCTS:
            return all(alive)
        if call.op in ("div", "truediv", "dropout", "getitem"):
            return alive[0]
        return any(alive)

    def reached(self) -> Iterator[str]:
        """Names of the parameters that a gradient arrives at."""
        arrives = {self._output}
        for call in reversed(list(self._ops.calls.values())):
            if call.name not in arrives or not call.grad:
                continue
            for i, ref in enumerate(call.inputs):
                if self._passes(call, i):
                    arrives.add(ref.node)
                    if ref.parameter is not None:
                        yield ref.parameter

    def _passes(self, call: Op, place: int) -> bool:
        """A gradient at a call goes on to one of its inputs."""
        refs = call.inputs
        if call.name in self._slopes:
            return self._alive(refs[0]) or self._slopes[call.name]
        if call.op in _SUMMED:
            return place > 1 or self._alive(refs[1 - place])
        if call.op in _PRODUCTS:
            return all(self._alive(ref) for i, ref in enumerate(refs) if i != place)
        if call.op in NORMS:
            return place != 1 or self._alive(refs[0])
        return True


def _at_zero(function: Callable[..., torch.Tensor], call: Op) -> tuple[bool, bool]:
    """Whether a function of one entry is non-zero at zero, and whether its slope is."""
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    args = [x if isinstance(a, Ref) else a for a in call.args]
    kwargs = {k: x if isinstance(v, Ref) else v for k, v in call.kwargs.items() if k not in ("inplace", "out")}
    with torch.enable_grad():
        out = function(*args, **kwargs)
        if not out.is_floating_point() or not out.requires_grad:
            return bool(out != 0), False
        (slope,) = torch.autograd.grad(out, x)
    return bool(out != 0), bool(slope != 0)
