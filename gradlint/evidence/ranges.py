"""What values a tensor can have: bounds that hold whatever weights and data, and how much of it is exactly zero.

The bounds are intervals (Cousot & Cousot 1977) over the traced graph; functions of single entries are evaluated by the very
functions the user called. Zero is kept apart: a square root of a sum of squares is harmless where the sum is never zero and
NaN in the backward pass where it is, so what matters is whether zero *happens*: where a ReLU is off, on the diagonal of a matrix
of differences, in what starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from gradlint.evidence.calls import Op, Ops, Ref
from gradlint.evidence.probe import Probe
from gradlint.flowed import Flowed
from gradlint.moments import GRID, Array, Moments
from gradlint.recognise import Cone, find_cones
from gradlint.trace.graph import step

__all__ = ["Range", "find_ranges", "near_zero"]

_WIDE = np.array([sign * 10.0**k for sign in (-1, 1) for k in range(-30, 31)])
_FAR = 1e25
_PROBES = 401


@dataclass(frozen=True)
class Range:
    """The values of a tensor.

    Args:
        low: no entry is below.
        high: no entry is above.
        zero: share of the entries that are exactly zero, as far as known.
        together: zeros come in whole rows (a vector that is compared with itself), not entry by entry.
        why: where they come from, such as ``where relu is off``; may name a zero of unknown share (0).
    """

    low: float = -math.inf
    high: float = math.inf
    zero: float = 0.0
    together: bool = False
    why: str = ""

    @property
    def signed(self) -> bool:
        """It may be negative and it may be positive."""
        return self.low < 0 < self.high

    def of(self, *others: Range) -> Range:
        """The union, zeros aside."""
        return Range(min(r.low for r in (self, *others)), max(r.high for r in (self, *others)))


def near_zero(law: Moments) -> float:
    """Share of entries within a thousandth of their root mean square of zero, from the density around it."""
    if law.q <= 0:
        return 1.0
    curve = law.on_grid()
    if len(curve) != len(GRID.weights):
        return 0.0
    around = 0.05  # wide enough for the steps of the grid, narrow enough for the density to be even
    return float(GRID.weights[np.abs(curve) < around * law.rms].sum()) / (around / 1e-3)


def find_ranges(flowed: Flowed, ops: Ops) -> Mapping[str, Range]:
    """The range of every node that has one, by its name."""
    finder = _Finder(flowed, ops)
    for node in flowed.traced.graph.nodes:
        if node.op != "output":
            finder.found[node.name] = finder.range_of(node)
    return finder.found


class _Finder:
    def __init__(self, flowed: Flowed, ops: Ops) -> None:
        self._flowed, self._ops = flowed, ops
        self._cones = find_cones(flowed.traced.graph)
        self.found: dict[str, Range] = {}

    def range_of(self, node: fx.Node) -> Range:
        facts = step(node)
        if facts.value is not None:
            return _of_value(facts.value)
        law = self._flowed.forward.get(node.name)
        if isinstance(law, Moments) and law.q == 0.0 and facts.floating:
            return Range(0.0, 0.0, 1.0, why="it starts at zero")
        call = self._ops.calls.get(node.name)
        if call is None:
            return Range()
        cone = self._cones.get(node)
        found = self._bent(node, cone) if cone is not None else None
        if found is None:
            found = self._called(call)
        same = self._difference(call)
        return found if same is None else replace(found, zero=same[0], together=True, why=same[1])

    def _bent(self, node: fx.Node, cone: Cone) -> Range | None:
        """A function of the entries of a cone's root: by evaluation over its range."""
        root, law = self.found.get(cone.root.name, Range()), self._flowed.forward.get(cone.root.name)
        low, high = max(root.low, -1e30), min(root.high, 1e30)
        wide = _WIDE[(low <= _WIDE) & (high >= _WIDE)]
        points = np.concatenate([wide, np.linspace(max(low, -20.0), min(high, 20.0), _PROBES)])
        out = Probe(cone, points).values(node)
        known = ~np.isnan(out)
        if not known.any():
            return None
        size = np.abs(points)
        near = known & (size < _FAR) & ((size > 1 / _FAR) | (size == 0))
        high, low = (_bound(sign, out[known], out[near]) for sign in (1, -1))
        zero, why = (root.zero, root.why) if Probe(cone, np.zeros(1)).values(node)[0] == 0.0 else (0.0, root.why)
        if isinstance(law, Moments) and law.var > 0:
            taken = law.on_grid()
            mass = float(GRID.weights[Probe(cone, taken).values(node) == 0.0].sum())
            if mass > zero + 1e-6:
                zero, why = mass, f"where {self._ops.calls[node.name].op} gives zero"
        return Range(low, high, zero, root.together and zero == root.zero, why)

    def _called(self, call: Op) -> Range:
        args = [self.found.get(ref.node, Range()) for ref in call.inputs]
        first = args[0] if args else Range()
        kind = _KINDS.get(call.op)
        match kind:
            case "moved":
                return first
            case "unit":
                return Range(0.0, 1.0)
            case "cosine":
                return Range(-1.0, 1.0)
            case "length" | "spread":
                zero = self._all_zero(call, first)
                return Range(0.0, math.inf, zero, first.together, first.why)
            case "sum":
                n = self._ops.size(call.inputs[0].node) / max(call.size, 1)
                low, high = (0.0 if edge == 0 else edge * n for edge in (first.low, first.high))
                return Range(low, high, self._all_zero(call, first), first.together, first.why)
            case "mean" | "largest":
                return replace(first, zero=self._all_zero(call, first))
            case "dropped":
                scale = 1 / (1 - p) if 0 < (p := self._rate(call)) < 1 else 1.0
                out = Range(min(first.low * scale, 0.0), max(first.high * scale, 0.0), p + (1 - p) * first.zero)
                return replace(out, why="where dropout has set it to zero" if p > 0 else first.why)
            case "chosen":
                return self._joined(call, args)
            case "selected":
                return self._selected(call)
            case "add" | "sub" | "mul" | "div":
                return self._arithmetic(kind, call)
            case "product" if len(args) >= 2 and all(r.low >= 0 for r in args):
                return Range(0.0)
        return Range()

    def _arithmetic(self, kind: str, call: Op) -> Range:
        pair = [self._operand(x) for x in call.args[:2]]
        if len(pair) < 2:
            return Range()
        if call.op == "rsub":
            pair.reverse()
        x, y = pair
        if kind == "add":
            return Range(x.low + y.low, x.high + y.high, x.zero * y.zero, x.together and y.together, x.why or y.why)
        if kind == "sub":
            return Range(x.low - y.high, x.high - y.low, x.zero * y.zero, x.together and y.together, x.why or y.why)
        if kind == "div":
            sign = x.low >= 0 and y.low >= 0
            return Range(0.0 if sign else -math.inf, math.inf, x.zero, x.together, x.why)
        ends = [0.0 if 0 in (a, b) else a * b for a in (x.low, x.high) for b in (y.low, y.high)]
        low, high = min(ends), max(ends)
        if isinstance(call.args[0], Ref) and call.args[0] == call.args[1]:
            low = max(low, 0.0)
        return Range(low, high, 1 - (1 - x.zero) * (1 - y.zero), x.together or y.together, x.why if x.zero else y.why)

    def _joined(self, call: Op, args: list[Range]) -> Range:
        """Tensors beside one another: zeros by their sizes."""
        sizes = [self._ops.size(ref.node) for ref in call.inputs]
        zero = sum(n * r.zero for n, r in zip(sizes, args, strict=True)) / max(sum(sizes), 1)
        return replace(args[0].of(*args[1:]), zero=zero, why=next((r.why for r in args if r.zero > 0), "")) if args else Range()

    def _selected(self, call: Op) -> Range:
        """``where`` and ``masked_fill``: one or the other; how often is not known."""
        masks = {ref.node for ref in call.inputs if self._ops.dtype(ref.node) == "bool"}
        terms = [self._operand(x) for x in (*call.args, *call.kwargs.values()) if not (isinstance(x, Ref) and x.node in masks)]
        if not terms:
            return Range()
        filled = any(r.zero == 1.0 for r in terms)
        zero = max((r for r in terms if r.zero < 1.0), key=lambda r: r.zero, default=terms[0])
        return replace(terms[0].of(*terms[1:]), zero=zero.zero, why="where the mask puts zero" if filled else zero.why)

    def _operand(self, x: Any) -> Range:
        if isinstance(x, Ref):
            return self.found.get(x.node, Range())
        if isinstance(x, int | float):
            return Range(float(x), float(x), float(x == 0))
        return Range()

    def _all_zero(self, call: Op, first: Range) -> float:
        """Chance that all the entries that an output entry is made of are zero."""
        if first.together:
            return first.zero
        n = self._ops.size(call.inputs[0].node) / max(call.size, 1)
        return float(first.zero ** max(n, 1.0))

    @staticmethod
    def _rate(call: Op) -> float:
        p, training = call.argument(1, "p", 0.5), call.argument(2, "training", True)
        return float(p) if isinstance(p, int | float) and training else 0.0

    def _difference(self, call: Op) -> tuple[float, str] | None:
        """A tensor compared with itself along two axes, or the same layers applied to two inputs: it can be exactly zero."""
        if _KINDS.get(call.op) != "sub" or len(call.args) < 2 or not all(isinstance(x, Ref) for x in call.args[:2]):
            return None
        x, y = (self._ops.origin(ref.node) for ref in call.args[:2])
        if x == y:
            return self._own(call, x)
        return (0.0, "where the two inputs are equal") if self._twins(x, y) else None

    def _own(self, call: Op, source: str) -> tuple[float, str] | None:
        law = self._flowed.forward.get(source)
        n = math.prod(law.shape) if isinstance(law, Moments) else 0
        if n == 0 or math.prod(call.shape) <= n:  # shifted against itself, as in differences in time
            return None
        return n / math.prod(call.shape), "where an entry is compared with itself"

    def _twins(self, x: str, y: str) -> bool:
        """The two nodes are made of different inputs by the same ops with the same weights."""
        waiting, used, different = [(x, y)], False, False
        while waiting:
            a, b = waiting.pop()
            if a == b:
                continue
            left, right = self._ops.calls.get(a), self._ops.calls.get(b)
            if left is None or right is None:
                if not all(n in self._ops.placeholders for n in (a, b)):
                    return False
                different = True
                continue
            if left.op != right.op or len(left.inputs) != len(right.inputs) or len(waiting) > 500:
                return False
            for p, q in zip(left.inputs, right.inputs, strict=True):
                if p.parameter != q.parameter:
                    return False
                used = used or p.parameter is not None
                if p.parameter is None:
                    waiting.append((p.node, q.node))
        return used and different


def _bound(sign: int, values: Array, near: Array) -> float:
    """The largest (``sign`` -1: smallest) of some values; infinite where it still grows at the far end."""
    end = float((sign * values).max())
    inner = float((sign * near).max()) if near.size else end
    return sign * (math.inf if end > inner + 1e-3 * abs(inner) + 1e-12 else end)


def _of_value(value: torch.Tensor) -> Range:
    if value.numel() == 0 or value.is_complex():
        return Range()
    real = value.detach().double()
    real = real[~real.isnan()]
    if real.numel() == 0:
        return Range()
    return Range(float(real.min()), float(real.max()), float((real == 0).double().mean()), why="where a constant is zero")


_MOVED = """
view reshape flatten unflatten squeeze unsqueeze permute transpose t T mT movedim expand expand_as repeat tile flip roll getitem
narrow select chunk split unbind index_select gather contiguous clone to float double half bfloat16 detach min amin sort topk
diagonal repeat_interleave type_as type unfold swapaxes alias cpu cuda broadcast_to
"""
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(_MOVED.split(), "moved"),
    **dict.fromkeys(("softmax", "one_hot", "gumbel_softmax", "softmin", "rand", "rand_like"), "unit"),
    **dict.fromkeys(("cosine_similarity", "normalize"), "cosine"),
    **dict.fromkeys(("norm", "vector_norm", "matrix_norm", "cdist", "pairwise_distance"), "length"),
    **dict.fromkeys(("var", "std"), "spread"),
    **dict.fromkeys(("sum", "cumsum", "nansum", "trace"), "sum"),
    **dict.fromkeys(
        ("mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "nanmean"), "mean"
    ),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"), "dropped"),
    **dict.fromkeys(
        ("max", "amax", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"), "largest"
    ),
    **dict.fromkeys(("where", "masked_fill"), "selected"),
    **dict.fromkeys(("cat", "concat", "stack"), "chosen"),
    **dict.fromkeys(("add", "iadd"), "add"),
    **dict.fromkeys(("sub", "subtract", "rsub", "isub"), "sub"),
    **dict.fromkeys(("mul", "multiply", "imul"), "mul"),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv"), "div"),
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum"), "product"),
}
