"""Flows that several families compose: contraction, affine map, product, sum, scalar map, powers, and a tape to chain them."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradlint.moments import Array, Moments, along, einsum, exact, from_pairs, linear_part, meet, moments_along, product
from gradlint.ops.registry import Flow

__all__ = ["Tape", "affine", "contract", "function", "multiply", "plus", "power", "reindex", "squared", "with_bias"]


def contract(labels: list[str], output: str, *operands: Moments) -> Flow:
    """``einsum`` of independent operands with its adjoints: each operand's gradient contracts the output's with the others."""
    out = einsum(labels, output, *operands)

    def back(g: Moments) -> dict[Moments, Moments]:
        grads = {}
        for i, x in enumerate(operands):
            others = [op for j, op in enumerate(operands) if j != i]
            names = [name for j, name in enumerate(labels) if j != i]
            reachable = "".join(c for c in labels[i] if c in output or any(c in name for name in names))
            grad = einsum([output, *names], reachable, g, *others)
            if reachable != labels[i]:  # an axis summed out of this operand alone: its gradient is constant along it
                shape = [n if c in reachable else 1 for c, n in zip(labels[i], x.shape, strict=True)]
                grad = grad.reshape(shape).expand(x.shape)
            grads[x] = _with_own_share(grad, g, out, x, labels[i], output, others)
        return grads

    return _averaged(Flow(out, back), labels, output, operands)


def _averaged(flow: Flow, labels: list[str], output: str, operands: Sequence[Moments]) -> Flow:
    """A contraction with the weights of rows that do not all see the same: exact sums along rows and what they average."""
    if len(operands) != 2 or all(x.rows is None for x in operands):
        return flow
    i = 0 if operands[0].rows is not None else 1
    (w, v), (of_w, of_v) = (operands[i], operands[1 - i]), (labels[i], labels[1 - i])
    row, key, rows = of_w[-2], of_w[-1], w.rows
    if rows is None or row not in output or key in output or key not in of_v or any(c not in of_v for c in of_w[:-2]):
        return flow
    at, of_key = output.index(row), of_v.index(key)
    if len(v.dims[of_key]) != 1 or len(flow.out.dims[at]) != 1:
        return flow
    out = exact(flow.out, at, rows.outputs(moments_along(v, of_key)))

    def back(g: Moments) -> dict[Moments, Moments]:
        grads, x = dict(flow.back(g)), g.whole(at)
        grads[v] = exact(grads[v].whole(of_key), of_key, rows.values(moments_along(x, at)))
        return grads

    return Flow(out, back)


_SLIGHT = 1e-3


def _with_own_share(grad: Moments, g: Moments, out: Moments, x: Moments, of_x: str, output: str,
                    others: list[Moments]) -> Moments:  # fmt: skip
    """Add what an operand's gradient has of the operand itself, because g depends on the output that it made.

    Of ``y = Σ_j u_j v_j`` and ``g ∋ c·G·y`` the gradient ``Σ g v_i`` contains ``c·u_i·Σ G v_i²``. The sum runs over the output's
    axes that the operand does not have; it is coherent where G is (the tokens of a mean, the samples of a loss), and then as
    large as what is independent when there are as many terms as the contraction has. A parameter that multiplied the operand
    (a temperature) meets it with its own sign at every entry.
    """
    if len(others) != 1 or x.var <= 0.0:
        return grad
    gone = [d for d, c in enumerate(output) if c not in of_x]
    kept, n = [c for c in output if c in of_x], math.prod(out.shape[d] for d in gone)
    terms = []
    for source, slope in linear_part(g, out):
        total = source.sum(gone)
        coherent = total.q - n * source.q
        if slope**2 * coherent * x.q * others[0].q ** 2 > _SLIGHT * grad.q:
            whole = total.permute([kept.index(c) for c in of_x if c in kept])
            wide = whole.reshape([x.shape[d] if c in kept else 1 for d, c in enumerate(of_x)]).expand(x.shape)
            terms.append(wide.scale(slope * others[0].q * math.sqrt(coherent / total.q)))
    for term in terms:
        grad = meet(grad, along(term, x, x.on_grid()))
    return grad


def with_bias(flow: Flow, bias: Moments | None) -> Flow:
    """Add a bias that broadcasts against the output."""
    if bias is None:
        return flow
    out = flow.out + bias
    share = math.sqrt(flow.out.var / out.var) if out.var > 0 else 1.0
    return Flow(out, lambda g: {**flow.back(_of_summand(g, share)), bias: g.fold(bias.shape)})


def _of_summand(g: Moments, share: float) -> Moments:
    """A gradient's dependence on a sum, as one on its summand, which is correlated with it by ``share`` (to first order)."""
    return g if g.profile is None or share > 0.999 else replace(g, profile=g.profile.on(lambda f: share * f))


def affine(x: Moments, weight: Moments, bias: Moments | None) -> Flow:
    """``x Wᵀ + b`` over the last axis: the linear layer as other families compose it."""
    lead = string.ascii_lowercase[: len(x.dims) - 1]
    return with_bias(contract([lead + "i", "oi"], lead + "o", x, weight), bias)


def multiply(x: Moments, y: Moments) -> Flow:
    """``x·y`` of independent factors: ``K = K_x K_y``, ``K_gx = K_g K_y``."""
    return Flow(product(x, y), lambda g: {x: product(g, y).fold(x.shape), y: product(g, x).fold(y.shape)})


def plus(x: Moments, y: Moments) -> Flow:
    """``x + y`` of independent terms."""
    return Flow(x + y, lambda g: {x: g.fold(x.shape), y: g.fold(y.shape)})


def function(x: Moments, phi: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Flow:
    """A scalar function with its derivative."""
    u = x.on_grid()
    derivative = x.map(slope(u))
    return Flow(x.map(phi(u)), lambda g: {x: product(g, derivative)})


def squared(x: Moments) -> Moments:
    """``x²`` of a Gaussian array: ``E[x_i² x_j²] = q² + 2K² − 2m⁴`` (Isserlis)."""
    return from_pairs(x.dims, x.q, x.q**2 + 2 * x.pairs() ** 2 - 2 * x.mean**4)


def power(s: Moments, exponent: float) -> Moments:
    """``s^r`` of a positive, concentrated tensor, by its expansion to second order; exact mean square for r = ½."""
    if s.mean <= 0:
        return Moments(s.dims, 0.0, np.zeros_like(s.v))
    v = s.v * (exponent * s.mean ** (exponent - 1)) ** 2
    if exponent == 0.5:
        return Moments(s.dims, math.sqrt(max(s.mean - float(v.sum()), 0.0)), v)
    bend = 1 + exponent * (exponent - 1) / 2 * s.var / s.mean**2
    return Moments(s.dims, s.mean**exponent * max(bend, 0.0), v)


def reindex(x: Moments, forth: Callable[[Moments], Moments], back: Callable[[Moments], Moments]) -> Flow:
    """A reindexing and its adjoint."""
    return Flow(forth(x), lambda g: {x: back(g)})


class Tape:
    """A chain of flows run forward as it is written and backward by :meth:`back`."""

    def __init__(self) -> None:
        self._entries: list[tuple[Moments, Flow]] = []

    def __call__(self, flow: Flow) -> Moments:
        """Record a flow; returns its output under an identity of its own."""
        out: Moments = flow.out.twin()
        self._entries.append((out, flow))
        return out

    def back(self, seeds: dict[Moments, Moments]) -> dict[Moments, Moments]:
        """Gradients of everything the chain was fed, from those of some of its outputs."""
        grads = dict(seeds)
        for out, flow in reversed(self._entries):
            if out not in grads:
                continue
            for x, g in flow.back(grads[out]).items():
                grads[x] = grads[x] + g if x in grads else g
        return grads
