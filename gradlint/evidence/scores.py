"""Rows that a softmax is taken of: how much they vary, how they were made, and whether a mask leaves nothing of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradlint.evidence.calls import Op, Ops, Ref
from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.trace.names import NORMS, PRODUCTS

__all__ = ["Scores", "find_scores"]

_SCALES = ("mul", "multiply", "div", "truediv", "divide")
_THROUGH = ("masked_fill", "where", "add", "iadd", "sub", "clamp", "index_fill", "dropout")
_FUSED = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Scores:
    """The scores of one softmax.

    Args:
        call: the softmax, or the fused attention.
        keys: entries of a row.
        variance: of the scores within a row; None where their law is unknown.
        width: of the queries and keys whose products the scores are; None where they are no such products.
        scaled: a number, a norm or a learned factor stands between the products and the softmax.
        empty: share of the rows that a known mask leaves nothing of.
        hidden: a mask that comes with the data writes minus infinity.
    """

    call: Op
    keys: int
    variance: float | None
    width: int | None
    scaled: bool
    empty: float
    hidden: bool


def find_scores(flowed: Flowed, ops: Ops) -> tuple[Scores, ...]:
    """Every softmax that a gradient passes, in order of execution."""
    found = []
    for call in ops.calls.values():
        if call.op == "softmax" and call.shape and call.inputs and call.grad:
            found.append(_of_softmax(flowed, ops, call))
        elif call.op == _FUSED and len(call.inputs) >= 3 and call.grad:
            found.append(_fused(flowed, ops, call))
    return tuple(scores for scores in found if scores is not None)


def _of_softmax(flowed: Flowed, ops: Ops, call: Op) -> Scores | None:
    source = call.inputs[0].node
    axis = call.axis(1, "dim")
    law = flowed.forward.get(source)
    variance = _within(law, axis) if isinstance(law, Moments) else None
    product, scaled, hidden = _made(ops, source)
    width = None if product is None else _width(flowed, product)
    empty = _empty(law.alive, axis, len(law.shape)) if isinstance(law, Moments) and law.alive is not None else 0.0
    return Scores(call, call.shape[axis], variance, width, scaled, empty, hidden)


def _fused(flowed: Flowed, ops: Ops, call: Op) -> Scores | None:
    query, key = (flowed.forward.get(ref.node) for ref in call.inputs[:2])
    if not isinstance(query, Moments) or not isinstance(key, Moments):
        return None
    width, scale = query.shape[-1], call.kwargs.get("scale")
    factor = 1 / math.sqrt(width) if not isinstance(scale, int | float) else float(scale)
    varying = max(key.q - key.shared([len(key.shape) - 2]), 0.0)
    mask: Any = call.argument(3, "attn_mask")
    value = None if not isinstance(mask, Ref) else flowed.forward.get(mask.node)
    alive = np.asarray(value.value) if isinstance(value, Moments) and value.value is not None else None
    if alive is not None and alive.dtype != np.bool_:
        alive = alive > -math.inf
    empty = 0.0 if alive is None else _empty(alive, alive.ndim - 1, alive.ndim)
    scaled = factor != 1.0 or any(_normed(ops, ref.node) for ref in call.inputs[:2])
    return Scores(call, key.shape[-2], factor**2 * width * query.q * varying, width, scaled, empty, hidden=False)


def _within(law: Moments, axis: int) -> float:
    """Variance within a row of what is not known of the scores."""
    drawn = law.drawn()
    return max(drawn.q - drawn.shared([axis]), 0.0)


def _made(ops: Ops, name: str) -> tuple[Op | None, bool, bool]:
    """The product that scores are, whether a factor stands behind it, and whether a mask of the data writes minus infinity."""
    scaled = hidden = False
    for _ in range(32):
        call = ops.calls.get(ops.origin(name))
        if call is None:
            return None, scaled, hidden
        if call.op in PRODUCTS and not any(ref.parameter for ref in call.inputs[-2:]):
            factors = [_factor(ops, ref.node) for ref in call.inputs[-2:]]
            return call, scaled or any(factors), hidden
        scaled = scaled or call.op in _SCALES
        if call.op == "masked_fill":
            mask, fill = call.argument(1, "mask"), call.argument(2, "value")
            hidden = hidden or (fill == -math.inf and isinstance(mask, Ref) and ops.given(mask.node))
        if call.op not in _SCALES + _THROUGH:
            return None, scaled, hidden
        tensors = [ref for ref in call.inputs if ops.dtype(ref.node) != "bool" and ops.learned(ref.node)]
        if not tensors:
            return None, scaled, hidden
        name = tensors[0].node
    return None, scaled, hidden


def _factor(ops: Ops, name: str) -> bool:
    """A query or key is scaled or normalised on its way from its projection."""
    for _ in range(16):
        call = ops.calls.get(ops.origin(name))
        if call is None or not call.inputs:
            return False
        if call.op in _SCALES:
            return True
        if _is_norm(ops, call):
            return True
        if call.op in ("linear", "matmul", "einsum", "addmm") or call.op.startswith("conv"):
            return False
        name = call.inputs[0].node
    return False


def _normed(ops: Ops, name: str) -> bool:
    call = ops.calls.get(ops.origin(name))
    return call is not None and _is_norm(ops, call)


def _is_norm(ops: Ops, call: Op) -> bool:
    return call.op in NORMS or call.name in ops.handwritten


def _width(flowed: Flowed, product: Op) -> int | None:
    """Terms of each product."""
    laws = [flowed.forward.get(ref.node) for ref in product.inputs[-2:]]
    first, second = (law.shape if isinstance(law, Moments) else () for law in laws)
    if not first or not second:
        return None
    if product.op != "einsum":
        return first[-1]
    equation = product.args[0]
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    terms, _, out = equation.replace(" ", "").partition("->")
    left = terms.split(",")[0]
    sizes = [n for letter, n in zip(left, first, strict=False) if letter not in out]
    return math.prod(sizes) if sizes else None


def _empty(alive: Any, axis: int, rank: int) -> float:
    """Share of rows without a live entry."""
    mask = np.asarray(alive)
    at = axis - (rank - mask.ndim)
    return float((~mask.any(at)).mean()) if 0 <= at < mask.ndim and mask.shape[at] > 1 else float((~mask).mean())
