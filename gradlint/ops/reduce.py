"""Reductions: sums, means, variances, norms and products over axes, and running sums along one.

The gradient of a norm or a standard deviation is a *direction*, ``x/‖x‖``: its second moments follow from ``K_x/(n q)`` alone,
however the norm itself is distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, Window, from_pairs, product, take
from gradlint.ops.apart import Plan, Planner
from gradlint.ops.primitives import Tape, power, reindex, squared
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _dims(x: Moments, dim: Any) -> list[int]:
    if dim is None or dim in ((), []):
        return list(range(len(x.dims)))
    return [d % len(x.dims) for d in ([dim] if isinstance(dim, int) else dim)]


def _unsummed(place: int) -> Planner:
    """Parts of an axis that is not reduced; the reduced ones are the argument at ``place``, or ``dim``."""

    def plan(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], x: Moments) -> Plan | None:
        dim = args[place] if len(args) > place else kwargs.get("dim")
        if x.parts is None or call.shape is None or isinstance(dim, bool):
            return None
        gone = _dims(x, dim)
        lost = 0 if len(call.shape) == len(x.dims) else sum(d < x.parts.axis for d in gone)
        return None if x.parts.axis in gone else Plan(x.parts.axis - lost, {x: x.parts.axis})

    return plan


def _spread(g: Moments, x: Moments, dims: Sequence[int]) -> Moments:
    """The gradient of a reduction, copied to what was reduced."""
    return g.reshape([1 if d in dims else n for d, n in enumerate(x.shape)]).expand(x.shape)


def _count(x: Moments, dims: Sequence[int]) -> int:
    return math.prod(x.shape[d] for d in dims)


@transfer(torch.sum, "sum", apart=_unsummed(1))
def sum_(_: Call, input: Moments, dim: Any = None, keepdim: bool = False, **_kw: Any) -> Flow:
    """Sum over axes: a varying component grows by n, a constant one by n²; the gradient is copied to every entry."""
    dims = _dims(input, dim)
    return Flow(input.sum(dims, keepdim=keepdim), lambda g: {input: _spread(g, input, dims)})


@transfer(torch.mean, "mean", apart=_unsummed(1))
def mean(_: Call, input: Moments, dim: Any = None, keepdim: bool = False, **_kw: Any) -> Flow:
    """Mean over axes."""
    dims = _dims(input, dim)
    n = _count(input, dims)
    return Flow(input.average(dims, keepdim=keepdim), lambda g: {input: _spread(g, input, dims).scale(1 / n)})


def _length(x: Moments, dims: Sequence[int], p: float, *, keepdim: bool) -> Flow:
    """``(Σ |x|^p)^{1/p}`` over axes; its gradient is ``sgn(x) |x|^{p−1} / ‖x‖^{p−1}``."""
    if p == 2:
        out = power(squared(x).sum(dims, keepdim=keepdim), 0.5)
        direction = x.scale(1 / math.sqrt(_count(x, dims) * x.q)) if x.q > 0 else x
        return Flow(out, lambda g: {x: product(_spread(g, x, dims), direction)})
    if p < 1 or math.isinf(p):
        raise NotImplementedError(f"the {p}-norm")
    u = x.on_grid()
    powers = x.map(np.abs(u) ** p)
    total = powers.sum(dims, keepdim=keepdim)
    slopes = x.map(np.sign(u) * np.abs(u) ** (p - 1)).scale(max(total.mean, 1e-300) ** (1 / p - 1))
    return Flow(power(total, 1 / p), lambda g: {x: product(_spread(g, x, dims), slopes)})


def _order(p: Any) -> float:
    if p in (None, "fro"):
        return 2.0
    if isinstance(p, str):
        raise NotImplementedError(f"the {p} norm")
    return float(p)


@transfer(torch.norm, "norm", apart=_unsummed(2))
def norm(_: Call, input: Moments, p: Any = "fro", dim: Any = None, keepdim: bool = False, *_rest: Any, **_kw: Any) -> Flow:
    """The p-norm over axes."""
    return _length(input, _dims(input, dim), _order(p), keepdim=keepdim)


@transfer(torch.linalg.vector_norm, apart=_unsummed(2))
def vector_norm(_: Call, x: Moments, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_kw: Any) -> Flow:
    """As :func:`norm`."""
    return _length(x, _dims(x, dim), _order(ord), keepdim=keepdim)


@transfer(torch.linalg.norm)
def linalg_norm(_: Call, A: Moments, ord: Any = None, dim: Any = None, keepdim: bool = False, **_kw: Any) -> Flow:  # noqa: N803
    """As :func:`norm`; of matrix norms the Frobenius norm."""
    axes = [dim] if isinstance(dim, int) else dim
    if ord not in (None, "fro") and len(axes if axes is not None else A.dims) > 1:
        raise NotImplementedError("a matrix norm by singular values or rows")
    return _length(A, _dims(A, dim), _order(ord), keepdim=keepdim)


@transfer(torch.linalg.matrix_norm)
def matrix_norm(call: Call, A: Moments, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, **_kw: Any) -> Flow:  # noqa: N803
    """The Frobenius norm."""
    return linalg_norm(call, A, ord, dim, keepdim)


def _variance(x: Moments, dims: Sequence[int], correction: float, *, keepdim: bool, root: bool) -> Flow:
    n = _count(x, dims)
    if n <= correction:
        raise NotImplementedError("the variance of a single entry")
    centred = x.centre(dims)
    out = squared(centred).sum(dims, keepdim=keepdim).scale(1 / (n - correction))
    if root:
        out = power(out, 0.5)
        factor = 1 / math.sqrt(n * (n - correction) * centred.q) if centred.q > 0 else 0.0
    else:
        factor = 2 / (n - correction)
    return Flow(out, lambda g: {x: product(_spread(g, x, dims), centred).scale(factor)})


def _spread_of(x: Moments, args: Sequence[Any], kw: dict[str, Any], *, root: bool) -> tuple[Flow, list[int], bool]:
    """Variance or deviation by torch's overloads: ``(dim, unbiased, keepdim)``, ``(unbiased)``, keywords."""
    names = ["unbiased"] if args and isinstance(args[0], bool) else ["dim", "unbiased", "keepdim"]
    given = {**dict(zip(names, args, strict=False)), **kw}
    correction = given.get("correction", 1)
    correction = 1 if correction is None else correction
    if not given.get("unbiased", True):
        correction = 0
    dims, keepdim = _dims(x, given.get("dim")), bool(given.get("keepdim"))
    return _variance(x, dims, correction, keepdim=keepdim, root=root), dims, keepdim


@transfer(torch.var, "var", apart=_unsummed(1))
def var(_: Call, input: Moments, *args: Any, **kw: Any) -> Flow:
    """``Σ (x − x̄)²/(n − 1)``; gradient ``2(x − x̄)/(n − 1)``."""
    return _spread_of(input, args, kw, root=False)[0]


@transfer(torch.std, "std", apart=_unsummed(1))
def std(_: Call, input: Moments, *args: Any, **kw: Any) -> Flow:
    """The root of the variance; gradient ``(x − x̄)/((n − 1)σ̂)``."""
    return _spread_of(input, args, kw, root=True)[0]


def _with_mean(input: Moments, args: Sequence[Any], kw: dict[str, Any], *, root: bool) -> Flow:
    flow, dims, keepdim = _spread_of(input, args, kw, root=root)
    centre = mean(Call(), input, dims, keepdim)

    def back(g: tuple[Moments | None, ...]) -> dict[Moments, Moments]:
        parts = [f.back(m)[input] for f, m in zip((flow, centre), g, strict=True) if m is not None]
        return {input: sum(parts[1:], parts[0])}

    return Flow((flow.out, centre.out), back)


@transfer(torch.var_mean)
def var_mean(_: Call, input: Moments, *args: Any, **kw: Any) -> Flow:
    """Variance and mean."""
    return _with_mean(input, args, kw, root=False)


@transfer(torch.std_mean)
def std_mean(_: Call, input: Moments, *args: Any, **kw: Any) -> Flow:
    """Standard deviation and mean."""
    return _with_mean(input, args, kw, root=True)


@transfer(torch.prod, "prod")
def prod(_: Call, input: Moments, dim: int | None = None, keepdim: bool = False, **_kw: Any) -> Flow:
    """Product of entries that are independent of one another along an axis: ``K[S]^n``."""
    tape, x = Tape(), input
    if dim is None:
        x = tape(reindex(input, lambda m: m.reshape((math.prod(m.shape),)), lambda g: g.reshape(input.shape)))
    axis = (0 if dim is None else dim) % len(x.dims)
    n, whole = x.shape[axis], x.whole(axis)
    table = whole.pairs()
    same, differ = (take(table, whole.atoms(axis)[0], i) if whole.dims[axis] else table for i in (1, 0))
    if np.abs(differ - x.mean**2).max() > 0.05 * x.q:
        raise NotImplementedError("a product of entries that depend on each other")
    dims = [() if d == axis else atoms for d, atoms in enumerate(whole.dims) if keepdim or d != axis]
    others = from_pairs(
        tuple(() if d == axis else atoms for d, atoms in enumerate(whole.dims)), x.mean ** (n - 1), same ** (n - 1)
    )
    out = from_pairs(tuple(dims), x.mean**n, same**n)
    flow = Flow(out, lambda g: {x: product(g.reshape(others.shape), others).expand(x.shape)})
    y = tape(flow)
    return Flow(y, lambda g: tape.back({y: g}))


@transfer(torch.cumsum, "cumsum")
def cumsum(_: Call, input: Moments, dim: int, **_kw: Any) -> Flow:
    """Running sums along an axis."""
    n = input.shape[dim]
    once, squares = n * (n + 1) / 2, n * (n + 1) * (2 * n + 1) / 6
    window = Window(n, n, once, squares, squares, once, float(n))
    return Flow(window(input, dim), lambda g: {input: window.adjoint(g, dim)})


@transfer(torch.diff, "diff")
def diff(_: Call, input: Moments, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Flow:
    """Differences of neighbours along an axis."""
    if prepend is not None or append is not None:
        raise NotImplementedError("differences with something in front or behind")
    size = input.shape[dim] - n
    weights = [(-1.0) ** (n - i) * math.comb(n, i) for i in range(n + 1)]
    places = np.arange(size)[:, None] + np.arange(n + 1)
    window = Window.of_taps(size + n, places, np.broadcast_to(np.array(weights), places.shape))
    return Flow(window(input, dim), lambda g: {input: window.adjoint(g, dim)})


# ---- distances -----------------------------------------------------------------------------------------------------------


@transfer(F.pairwise_distance)
def pairwise_distance(_: Call, x1: Moments, x2: Moments, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Flow:
    """The norm of a difference over the last axis."""
    d = x1 + x2.scale(-1)
    flow = _length(d, [len(d.dims) - 1], _order(p), keepdim=keepdim)

    def back(g: Moments) -> dict[Moments, Moments]:
        grad = flow.back(g)[d]
        return {x1: grad.fold(x1.shape), x2: grad.scale(-1).fold(x2.shape)}

    return Flow(flow.out, back)


@transfer(torch.cdist)
def cdist(call: Call, x1: Moments, x2: Moments, p: float = 2.0, compute_mode: str = "") -> Flow:
    """Distances of every row of one tensor to every row of another."""
    left, right = (x.shape[:-2] for x in (x1, x2))
    a = x1.reshape((*left, x1.shape[-2], 1, x1.shape[-1]))
    b = x2.reshape((*right, 1, x2.shape[-2], x2.shape[-1]))
    flow = pairwise_distance(call, a, b, p)
    return Flow(flow.out, lambda g: {x1: flow.back(g)[a].reshape(x1.shape), x2: flow.back(g)[b].reshape(x2.shape)})
