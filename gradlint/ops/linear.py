"""Linear maps: everything that is one contraction, forward and both adjoints.

Second moments of ``y = Wx`` (He et al. 2015, eq. 10 and 14, arXiv:1502.01852; Poole et al. 2016) are the special case of iid
zero-mean weights; a mean of the weights, orthogonal and measured matrices enter through their own moments.
"""

from __future__ import annotations

import operator
import string
from typing import Any

import torch
from torch.nn import functional as F

from gradlint.moments import Moments
from gradlint.ops.apart import Plan, rows
from gradlint.ops.primitives import affine, contract, with_bias
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


@transfer(F.linear, torch._C._nn.linear, apart=rows)
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


@transfer(torch.einsum)
def einsum_call(_: Call, equation: str, *operands: Any) -> Flow:
    """Any Einstein sum without repeated letters inside one operand (those are sampled)."""
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
    if any(len(set(names)) < len(names) for names in labels):
        raise NotImplementedError("a letter repeats within one operand")
    return contract(labels, out, *tensors)


@transfer(F.bilinear)
def bilinear(_: Call, input1: Moments, input2: Moments, weight: Moments, bias: Moments | None = None) -> Flow:
    """``x₁ᵀ W_o x₂ + b``: ``n₁ n₂ s² q₁ q₂``."""
    lead = string.ascii_lowercase[: len(input1.dims) - 1]
    return with_bias(contract([lead + "x", lead + "y", "zxy"], lead + "z", input1, input2, weight), bias)
