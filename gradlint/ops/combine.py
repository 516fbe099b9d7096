"""Sums and products of tensors, and choices between them.

Independent branches add their moments; independent factors multiply their pair tables. Branches that are functions of one
tensor are recognised before (``gradlint.recognise``) and never reach these rules.
"""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradlint.moments import Marginal, Moments, behind_product, behind_sum, disjoint, from_pairs, product
from gradlint.ops.apart import broadcast
from gradlint.ops.primitives import Tape
from gradlint.ops.registry import Call, Flow, transfer

MASKED = -1e4
"""A score below this takes no part in a softmax: e^-10000 is zero in every format."""

_NOTHING = 40.0
"""``e^-40`` of a float64's one is below its resolution."""


def _number(x: Any) -> Any:
    """A known tensor of one entry as the number it is."""
    return float(x.value.reshape(())) if isinstance(x, Moments) and x.value is not None and x.value.size == 1 else x


def _removes(x: Any) -> bool:
    """A number, or a known tensor, that takes every entry it is written to out of a softmax."""
    if isinstance(x, Moments):
        return x.value is not None and bool(np.all(np.asarray(x.value, dtype=np.float64) <= MASKED))
    return _is_number(x) and bool(x <= MASKED)


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, bool))


@transfer(torch.add, "add", operator.add, apart=broadcast)
def add(_: Call, input: Any, other: Any, *, alpha: float = 1) -> Flow:
    """``x + αy``; a mask of very negative numbers marks entries instead of moving moments."""
    if _is_number(input):
        return Flow(other.scale(alpha).shift(float(input)), lambda g: {other: g.scale(alpha)})
    if _is_number(other):
        return Flow(input.shift(alpha * float(other)), lambda g: {input: g})
    for x, mask in ((input, other), (other, input)):
        if mask.value is not None and x.value is None and (alive := _taking_part(mask.value)) is not None:
            return _masked_add(x, mask, alive)
    scaled = other.scale(alpha)
    out = input + scaled

    def back(g: Moments) -> dict[Moments, Moments]:
        first, second = behind_sum(g, input, scaled, out)
        return {
            input: first if input.shape == out.shape else g.fold(input.shape),
            other: second.scale(alpha) if other.shape == out.shape else g.scale(alpha).fold(other.shape),
        }

    return Flow(out, back)


def _taking_part(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Which entries of a mask leave a score in the softmax of its row; None if it is no mask.

    A mask of moderate numbers ({0, −100} of shifted windows, a linear bias far away) is at most zero, and known by what it does:
    next to an entry that is :data:`_NOTHING` larger the exponential is lost in every format.
    """
    if np.any(values <= MASKED):
        return np.asarray(values > MASKED)
    if values.ndim < 2 or values.max() > 0 or values.min() > -_NOTHING:
        return None
    alive = values > values.max(-1, keepdims=True) - _NOTHING
    return None if alive.all() else np.asarray(alive)


def _masked_add(x: Moments, mask: Moments, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> Flow:
    values = np.asarray(mask.value, dtype=np.float64)
    finite = np.where(alive, values, 0.0)
    out = x + Moments.of_array(finite) if np.any(finite) else x
    if out.shape != (shape := np.broadcast_shapes(x.shape, values.shape)):
        out = out + Moments.zeros(shape)
    return Flow(_with_alive(out, alive), lambda g: {x: g.fold(x.shape)})


def _with_alive(x: Moments, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> Moments:
    both = alive if x.alive is None else alive & x.alive
    return Moments(x.dims, x.mean, x.v, None, both, grams=x.grams, lean=x.lean)


@transfer(torch.sub, torch.subtract, "sub", "subtract", operator.sub, apart=broadcast)
def sub(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Flow:
    """``x − αy``."""
    return add(call, input, other, alpha=-alpha)


@transfer(torch.rsub, apart=broadcast)
def rsub(call: Call, input: Any, other: Any) -> Flow:
    """``other − input``."""
    if _is_number(other):
        return Flow(input.scale(-1).shift(float(other)), lambda g: {input: g.scale(-1)})
    return add(call, other, input, alpha=-1)


@transfer(torch.neg, torch.negative, "neg", "negative", operator.neg, apart=broadcast)
def neg(_: Call, input: Moments) -> Flow:
    """``−x``."""
    return Flow(input.scale(-1), lambda g: {input: g.scale(-1)})


@transfer(torch.mul, torch.multiply, "mul", "multiply", operator.mul, apart=broadcast)
def mul(_: Call, input: Any, other: Any) -> Flow:
    """``x·y`` of independent factors: ``K = K_x K_y``, ``K_gx = K_g K_y``."""
    if _is_number(input):
        return Flow(other.scale(float(input)), lambda g: {other: g.scale(float(input))})
    if _is_number(other):
        return Flow(input.scale(float(other)), lambda g: {input: g.scale(float(other))})
    out = product(input, other)
    if out.law is None and input.var > 0 and other.var > 0:
        factors = [(m.law, m.mean, math.sqrt(m.var)) for m in (input, other)]
        out = replace(out, law=Marginal.of_product(factors[0], factors[1]))

    def back(g: Moments) -> dict[Moments, Moments]:
        first, second = behind_product(g, input, other, out)
        return {
            input: first if input.shape == out.shape else first.fold(input.shape),
            other: second if other.shape == out.shape else second.fold(other.shape),
        }

    return Flow(out, back)


@transfer(torch.div, torch.divide, torch.true_divide, "div", "divide", "true_divide", operator.truediv, apart=broadcast)
def div(_: Call, input: Any, other: Any, *, rounding_mode: str | None = None) -> Flow:
    """``x/y``, y independent of x and known or concentrated: ``1/y`` by its first two moments."""
    if rounding_mode is not None:
        raise NotImplementedError("rounded division")
    if _is_number(other):
        return Flow(input.scale(1 / float(other)), lambda g: {input: g.scale(1 / float(other))})
    inverse = _reciprocal(other)
    if _is_number(input):
        return Flow(
            inverse.scale(float(input)),
            lambda g: {other: product(g, inverse, inverse).scale(float(input)).fold(other.shape)},
        )
    return Flow(
        product(input, inverse),
        lambda g: {
            input: product(g, inverse).fold(input.shape),
            other: product(g, input, inverse, inverse).fold(other.shape),
        },
    )


def _reciprocal(y: Moments) -> Moments:
    if y.value is not None and np.all(y.value != 0):
        return Moments.of_array(1.0 / np.asarray(y.value, dtype=np.float64))
    if y.mean**2 <= 9 * y.var:
        raise NotImplementedError("division by a tensor that comes close to zero")
    return y.map(1.0 / np.where(np.abs(y.on_grid()) < abs(y.mean) / 8, abs(y.mean) / 8, y.on_grid()))


def _alive(x: Moments, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Flow:
    """A tensor of scores from which entries are taken out."""
    return Flow(_with_alive(x, kept), lambda g: {x: g})


def _chosen(mask: np.ndarray[Any, Any], inside: Any, outside: Any) -> Flow:
    """``inside`` where a known mask is true, ``outside`` elsewhere: tensors or numbers."""
    share = Moments.of_array(np.asarray(mask, dtype=np.float64))
    sides, grads = [], {}
    for side, weight in ((inside, share), (outside, share.scale(-1).shift(1))):
        if _is_number(side):
            sides.append(weight.scale(float(side)))
        else:
            sides.append(product(side, weight))
            grads[side] = weight
    return Flow(
        disjoint(sides[0], sides[1], share), lambda g: {x: product(g, weight).fold(x.shape) for x, weight in grads.items()}
    )


@transfer(torch.where)
def where(call: Call, condition: Moments, input: Any = None, other: Any = None) -> Flow:
    """A choice by a known mask; of the mask alone the places where it is true, which carry no moments."""
    if condition.value is None:
        raise NotImplementedError("where() on an unknown mask")
    mask = np.asarray(condition.value, dtype=bool)
    if input is None:
        return Flow((None,) * len(condition.dims), lambda _: {})
    inside, outside = _number(input), _number(other)
    for side, fill, kept in ((inside, outside, mask), (outside, inside, ~mask)):
        if isinstance(side, Moments) and side.shape == call.shape and _removes(fill):
            return _alive(side, kept)
    return _chosen(mask, inside, outside)


@transfer("where")
def where_method(call: Call, input: Any, condition: Moments, other: Any) -> Flow:
    """``x.where(condition, other)``."""
    return where(call, condition, input, other)


@transfer(torch.masked_fill, "masked_fill")
def masked_fill(_: Call, input: Moments, mask: Moments, value: Any) -> Flow:
    """Fill by a known mask; a very negative value marks entries as taking no part in a softmax."""
    if mask.value is None:
        raise NotImplementedError("masked_fill() with an unknown mask")
    fill, filled = _number(value), np.asarray(mask.value, dtype=bool)
    if _is_number(fill) and fill <= MASKED:
        return _alive(input, ~filled)
    return _chosen(filled, fill, input)


@transfer(torch.lerp, "lerp", apart=broadcast)
def lerp(_: Call, input: Moments, end: Moments, weight: Any) -> Flow:
    """``(1 − w)x + w y``, a convex gate: its halves are tied by ``E[(1 − w)w'] = m_w − K_w``."""
    w = _number(weight)
    if _is_number(w):
        return Flow(
            input.scale(1 - w) + end.scale(w),
            lambda g: {input: g.scale(1 - w).fold(input.shape), end: g.scale(w).fold(end.shape)},
        )
    rest = w.scale(-1).shift(1)
    out = product(input, rest) + product(end, w)
    gate = w + out.scale(0)  # along all the axes
    tied = 2 * input.mean * end.mean * (w.mean**2 - gate.pairs())
    change = end + input.scale(-1)
    return Flow(from_pairs(out.dims, out.mean, out.pairs() + tied), lambda g: {
        input: product(g, rest).fold(input.shape), end: product(g, w).fold(end.shape), weight: product(g, change).fold(w.shape),
    })  # fmt: skip


@transfer(torch.addcmul, "addcmul")
def addcmul(call: Call, input: Moments, tensor1: Moments, tensor2: Moments, *, value: float = 1) -> Flow:
    """``x + v·a·b``."""
    tape = Tape()
    out = tape(add(call, input, tape(mul(call, tensor1, tensor2)), alpha=value))
    return Flow(out, lambda g: tape.back({out: g}))


@transfer(torch.addcdiv, "addcdiv")
def addcdiv(call: Call, input: Moments, tensor1: Moments, tensor2: Moments, *, value: float = 1) -> Flow:
    """``x + v·a/b``."""
    tape = Tape()
    out = tape(add(call, input, tape(div(call, tensor1, tensor2)), alpha=value))
    return Flow(out, lambda g: tape.back({out: g}))
