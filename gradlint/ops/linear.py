"""Linear maps: everything that is one contraction, forward and both adjoints.

Second moments of ``y = Wx`` (He et al. 2015, eq. 10 and 14, arXiv:1502.01852; Poole et al. 2016) are the special case of iid
zero-mean weights; a mean of the weights, orthogonal and measured matrices enter through their own moments.
"""

from __future__ import annotations

import operator
import string
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, align, from_pairs, take
from gradlint.ops.apart import Plan, rows
from gradlint.ops.places import selected, selection
from gradlint.ops.primitives import Tape, affine, contract, reindex, with_bias
from gradlint.ops.registry import Call, Flow, transfer
from gradlint.trace.private import LINEAR

__all__: list[str] = []


@transfer(F.linear, LINEAR, apart=rows)
def linear(_: Call, input: Moments, weight: Moments, bias: Moments | None = None) -> Flow:
    """``y = xWᵀ + b``: forward ``n s² q``, backward ``m s² q_g``, ``E dW² = Σ_pairs K_g K_x``."""
    if len(weight.dims) == 1:
        flow = contract(
            [string.ascii_lowercase[: len(input.dims) - 1] + "i", "i"],
            string.ascii_lowercase[: len(input.dims) - 1],
            input,
            weight,
        )
        return with_bias(flow, bias)
    return affine(input, weight, bias)


def _left(call: Call, args: Any, kwargs: Any, x: Moments) -> Plan | None:
    """The rows of the left operand; batch axes stay pooled."""
    plan = rows(call, args, kwargs, x)
    return plan if plan is not None and plan.out == len(x.dims) - 2 else None


@transfer(
    torch.matmul,
    "matmul",
    operator.matmul,
    torch.mm,
    "mm",
    torch.bmm,
    "bmm",
    torch.mv,
    "mv",
    torch.dot,
    "dot",
    torch.vdot,
    "vdot",
    apart=_left,
)
def matmul(_: Call, input: Moments, other: Moments) -> Flow:
    """Matrix product with batch broadcasting."""
    x, y = input, other
    lead_x, lead_y = len(x.dims) - 2, len(y.dims) - 2
    batch = string.ascii_lowercase[: max(lead_x, lead_y, 0)]
    left = batch[len(batch) - max(lead_x, 0) :] + ("ik" if len(x.dims) > 1 else "k").replace("i", "y")
    right = batch[len(batch) - max(lead_y, 0) :] + ("kz" if len(y.dims) > 1 else "k")
    left, right = left.replace("k", "x"), right.replace("k", "x")
    out = batch + ("y" if len(x.dims) > 1 else "") + ("z" if len(y.dims) > 1 else "")
    squeezed = [_drop_unit(m, names, out) for m, names in ((x, left), (y, right))]
    flow = contract([names for _, names in squeezed], out, *(m for m, _ in squeezed))
    return _restored(flow, list(zip((x, y), squeezed, strict=True)))


def _drop_unit(x: Moments, names: str, out: str) -> tuple[Moments, str]:
    """Drop batch axes of size 1 that the other operand broadcasts: their letter then has one owner."""
    keep = [d for d, c in enumerate(names) if x.dims[d] or c not in out[:-2]]
    if len(keep) == len(names):
        return x, names
    return x.reshape([x.shape[d] for d in keep]), "".join(names[d] for d in keep)


def _restored(flow: Flow, pairs: list[tuple[Moments, tuple[Moments, str]]]) -> Flow:
    def back(g: Moments) -> dict[Moments, Moments]:
        grads = flow.back(g)
        return {x: grads[small].reshape(x.shape) for x, (small, _) in pairs}

    return Flow(flow.out, back)


@transfer(torch.addmm, "addmm")
def addmm(call: Call, input: Moments, mat1: Moments, mat2: Moments, *, beta: float = 1, alpha: float = 1) -> Flow:
    """``β·input + α·mat1 @ mat2``: HF's Conv1D and every hand-fused linear."""
    flow = matmul(call, mat1, mat2)
    return Flow(
        flow.out.scale(alpha) + input.scale(beta),
        lambda g: {**flow.back(g.scale(alpha)), input: g.scale(beta).fold(input.shape)},
    )


@transfer(torch.baddbmm, "baddbmm")
def baddbmm(call: Call, input: Moments, batch1: Moments, batch2: Moments, *, beta: float = 1, alpha: float = 1) -> Flow:
    """Batched :func:`addmm`."""
    return addmm(call, input, batch1, batch2, beta=beta, alpha=alpha)


def _distinct(tape: Tape, names: str, x: Moments) -> tuple[str, Moments]:
    """A letter that repeats is a diagonal, which comes last."""
    for letter in sorted(set(names)):
        while names.count(letter) > 1:
            first = names.index(letter)
            second = names.index(letter, first + 1)
            x = tape(selected(x, selection(torch.diagonal, x.shape, 0, first, second)))
            names = names[:first] + names[first + 1 : second] + names[second + 1 :] + letter
    return names, x


@transfer(torch.einsum)
def einsum_call(_: Call, equation: str, *operands: Any) -> Flow:
    """Any Einstein sum; a letter that repeats within one operand is a diagonal of it."""
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    equation = equation.replace(" ", "")
    left, out = [*equation.split("->"), ""][:2]
    labels = left.split(",")
    if "..." in equation:
        widths = [len(t.dims) - len(names.replace("...", "")) for names, t in zip(labels, tensors, strict=True)]
        free = [c for c in string.ascii_letters if c not in equation][: max(widths)]
        labels = [n.replace("...", "".join(free[len(free) - w :])) for n, w in zip(labels, widths, strict=True)]
        out = out.replace("...", "".join(free))
    if "->" not in equation:
        joined = "".join(labels)
        out = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    tape = Tape()
    for i in range(len(labels)):
        labels[i], tensors[i] = _distinct(tape, labels[i], tensors[i])
    result = tape(contract(labels, out, *tensors))
    return Flow(result, lambda g: tape.back({result: g}))


@transfer(F.bilinear)
def bilinear(_: Call, input1: Moments, input2: Moments, weight: Moments, bias: Moments | None = None) -> Flow:
    """``x₁ᵀ W_o x₂ + b``: ``n₁ n₂ s² q₁ q₂``."""
    lead = string.ascii_lowercase[: len(input1.dims) - 1]
    return with_bias(contract([lead + "x", lead + "y", "zxy"], lead + "z", input1, input2, weight), bias)


@transfer(torch.outer, "outer", torch.ger, "ger")
def outer(_: Call, input: Moments, vec2: Moments) -> Flow:
    """Every product of an entry of one vector with one of another."""
    return contract(["x", "y"], "xy", input, vec2)


@transfer(torch.inner, "inner")
def inner(call: Call, input: Moments, other: Moments) -> Flow:
    """A contraction of the last axes."""
    return tensordot(call, input, other, ([-1], [-1]))


@transfer(torch.tensordot)
def tensordot(_: Call, a: Moments, b: Moments, dims: Any = 2) -> Flow:
    """A contraction of several axes of one tensor with several of another."""
    rank = len(a.dims)
    left, right = (range(rank - dims, rank), range(dims)) if isinstance(dims, int) else dims
    left = [d % rank for d in ([left] if isinstance(left, int) else left)]
    right = [d % len(b.dims) for d in ([right] if isinstance(right, int) else right)]
    names = list(string.ascii_letters[:rank])
    others = list(string.ascii_letters[rank : rank + len(b.dims)])
    for i, j in zip(left, right, strict=True):
        others[j] = names[i]
    kept = [c for i, c in enumerate(names) if i not in left] + [c for j, c in enumerate(others) if j not in right]
    return contract(["".join(names), "".join(others)], "".join(kept), a, b)


@transfer(torch.kron)
def kron(_: Call, input: Moments, other: Moments) -> Flow:
    """Every product of entries, an axis of one inside the same axis of the other."""
    rank = max(len(input.dims), len(other.dims))
    tape = Tape()
    a, b = (x.reshape((1,) * (rank - len(x.dims)) + x.shape) for x in (input, other))
    first, second = string.ascii_lowercase[:rank], string.ascii_uppercase[:rank]
    apart = tape(contract([first, second], "".join(c + d for c, d in zip(first, second, strict=True)), a, b))
    shape = [n * m for n, m in zip(a.shape, b.shape, strict=True)]
    out = tape(reindex(apart, lambda m: m.reshape(shape), lambda g: g.reshape(apart.shape)))

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = tape.back({out: g})
        return {input: grads[a].reshape(input.shape), other: grads[b].reshape(other.shape)}

    return Flow(out, back)


@transfer(torch.linalg.multi_dot, torch.chain_matmul)
def multi_dot(call: Call, *tensors: Any) -> Flow:
    """A chain of matrices."""
    chain = list(tensors[0]) if isinstance(tensors[0], (list, tuple)) else list(tensors)
    tape, out = Tape(), chain[0]
    for matrix in chain[1:]:
        out = tape(matmul(call, out, matrix))
    return Flow(out, lambda g: tape.back({out: g}))


def _crossed(a: Moments, b: Moments, dim: int) -> Moments:
    """Second moments of ``a × b``: an entry is a difference of two products, and shares factors with the other entries."""
    x, y = align(a.whole(dim), b.whole(dim))
    at = x.atoms(dim)[0]
    (p, q), (r, s) = ((take(m.pairs(), at, 1), take(m.pairs(), at, 0)) for m in (x, y))
    return from_pairs(x.dims, 0.0, np.stack([2 * q * s - q * r - p * s, 2 * (p * r - q * s)], at))


@transfer(torch.linalg.cross, torch.cross)
def cross(_: Call, input: Moments, other: Moments, dim: int | None = -1) -> Flow:
    """The vector product in three dimensions; its adjoints are vector products, too."""
    axis = -1 if dim is None else dim
    return Flow(
        _crossed(input, other, axis),
        lambda g: {input: _crossed(g, other, axis).fold(input.shape), other: _crossed(g, input, axis).fold(other.shape)},
    )


@transfer(torch.trace, "trace")
def trace(_: Call, input: Moments) -> Flow:
    """The sum of the diagonal."""
    tape = Tape()
    diagonal = tape(selected(input, selection(torch.diagonal, input.shape)))
    out = tape(reindex(diagonal, lambda m: m.sum([0]), lambda g: g.reshape((1,)).expand(diagonal.shape)))
    return Flow(out, lambda g: tape.back({out: g}))
