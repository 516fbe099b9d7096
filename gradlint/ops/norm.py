"""Normalisation over a set of axes R.

With ``C = centre_R(K)`` (RMSNorm: C = K) and ``v = C[same] + eps``: forward ``K' = C/v``; backward, from
``g_in = (g − mean_R g − y·mean_R(g·y))/σ̂``,

    K_gin = [K_g0 − 2 (K_g0 ∘ K_y)/n_R + K_y A/n_R] · E[1/v̂],     K_g0 = centre_R(K_g),

(K_g0 ∘ K_y)(i, j) = Σ_k K_g0(i, k) K_y(k, j) over the partners k of one entry, and A = Σ_k K_g0(i, k) K_y(i, k).

What small batches do to BatchNorm gradients is in ``E[1/v̂]`` (ν/(ν − 2) for iid data, the mean of an inverse χ²); what depth
does to them (growth by π/(π − 1) per ReLU layer, Yang et al. 2019, arXiv:1902.08129) follows from ``C``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Array, Moments, along, carried, divided, from_pairs, product, scales, take
from gradlint.ops.apart import channels, unreduced
from gradlint.ops.primitives import Tape, multiply, reindex
from gradlint.ops.registry import Call, Flow, transfer
from gradlint.trace.private import WEIGHT_NORM

__all__ = ["normalise"]


def _partners(table: Array, x: Moments, dims: Sequence[int]) -> Array:
    """Σ over the partners of one entry along R: itself once, ``n − 1`` that differ; constant along R afterwards."""
    sizes = x.sizes()
    for d in dims:
        for a in x.atoms(d):
            summed = take(table, a, 1) + (sizes[a] - 1) * take(table, a, 0)
            table = np.stack([summed, summed], a)
    return table


def _composed(g: Array, y: Array, x: Moments, dims: Sequence[int]) -> Array:
    """``Σ_k K_g(i, k) K_y(k, j)`` over the partners k along R of j: exchangeable matrices have their eigenspaces in common.

    Args:
        g: table of pairs; i and k may differ outside R.
        y: table of pairs; k and j do not.
        x: what has the atoms of both.
    """
    inside = [a for d in dims for a in x.atoms(d)]
    y = y[tuple(slice(None) if a in inside else slice(1, 2) for a in range(y.ndim))]
    for a in inside:
        n = x.sizes()[a]
        g, y = (np.stack([take(t, a, 1) + (n - 1) * take(t, a, 0), take(t, a, 1) - take(t, a, 0)], a) for t in (g, y))
    out = g * y
    for a in inside:
        n, constant, varying = x.sizes()[a], take(out, a, 0), take(out, a, 1)
        out = np.stack([(constant - varying) / n, (constant + (n - 1) * varying) / n], a)
    return np.asarray(out)


def normalise(x: Moments, dims: Sequence[int], eps: float, *, centred: bool = True) -> Flow:
    """Zero mean (if ``centred``) and unit mean square over ``dims``."""
    rank = len(x.dims)
    dims = [d % rank for d in dims]
    n = math.prod(x.shape[d] for d in dims)
    c = x.centre(dims) if centred else x
    variance = c.q + eps
    if n < 2 and centred:
        return Flow(Moments.zeros(x.shape), lambda _: {x: Moments.zeros(x.shape)})
    kept, inverse = _divided(x, dims, eps, centred=centred)
    uneven = scales(c, set(dims), eps)
    y = replace(_with_components(c.scale(1 / math.sqrt(variance)), dims, kept), law=x.law)
    y = divided(replace(y, grams=c.grams), c, uneven)

    def back(g: Moments) -> dict[Moments, Moments]:
        g0 = g.centre(dims) if centred else g
        both = product(y, g)  # aligned on common atoms, so that the tables below have one shape
        ya, ga = _onto(y, both).pairs(), _onto(g0, both).pairs()
        table = (ga - (2 * _composed(ga, ya, both, dims) - ya * _partners(ya * ga, both, dims)) / n) * inverse
        floor = 1e-9 * abs(_onto(g, both).pairs()).max() * inverse
        if table.flat[-1] < floor:  # what is left of exact cancellation is rounding
            table = np.zeros_like(table)
        apart = g.profile.reindexed(lambda m: m.centre(dims)) if centred and g.profile is not None else g.profile
        out = replace(from_pairs(both.dims, 0.0, table), grams=g0.grams if both.dims == g0.dims else {})
        return {x: carried(divided(out, g0, uneven), replace(g, profile=apart))}

    return Flow(y, back)


def _with_components(y: Moments, dims: Sequence[int], kept: Array) -> Moments:
    """The law with the components ``kept`` (and the mean square of the mean) over R; pairs outside R stay as they are."""
    inside = sorted(a for d in dims for a in y.atoms(d))
    outside = tuple(a for a in range(y.v.ndim) if a not in inside)
    kept = kept.copy()
    kept[(0,) * kept.ndim] -= y.mean**2
    v = y.v.copy()
    v[tuple(1 if a in outside else slice(None) for a in range(v.ndim))] += kept - y.v.sum(outside)
    return replace(y, v=v)


def _divided(x: Moments, dims: Sequence[int], eps: float, *, centred: bool) -> tuple[Array, float]:
    """What a normaliser v̂ that is itself random leaves: the components of the output over R, and ``E[1/v̂]``.

    Over R the covariance of an exchangeable array has one eigenspace for every subset S of its atoms: what varies along S and
    is constant along the rest, of dimension ``d_S = Π_S (n_a − 1)`` and eigenvalue ``λ_S = Σ_{A ⊇ S} v_A Π_{a ∉ A} n_a``. So
    ``v̂ = Σ_S λ_S χ²_S / n`` (without the constant S = ∅ when centred), ``E[1/v̂] = ∫₀^∞ E[e^{−t v̂}] dt``, and S keeps the
    share ``E[λ_S χ²_S / n v̂] = ∫₀^∞ λ_S d_S / (n + 2tλ_S) E[e^{−t v̂}] dt``. Iid entries give ν/(ν − 2); few positions with a
    pattern that all samples share give much more, and where the pattern is strong it divides itself away.
    """
    inside = sorted(a for d in dims for a in x.atoms(d))
    table = x.v.sum(tuple(a for a in range(x.v.ndim) if a not in inside))
    sizes = [x.sizes()[a] for a in inside]
    for axis, size in enumerate(sizes):
        varies = take(table, axis, 1)
        table = np.stack([varies + size * take(table, axis, 0), varies], axis)
    n = math.prod(sizes)
    unit, weights = _half_line()
    t = unit / (x.q + eps or 1.0)
    log_laplace = -eps * t
    rates = {}
    for index in np.ndindex(*table.shape):
        scale = max(float(table[index]), 0.0) / n
        if scale <= 0 and (any(index) or x.mean == 0):
            continue  # nothing there
        spread = 1 + 2 * t * scale
        if any(index):
            dof = math.prod(size - 1 for size, bit in zip(sizes, index, strict=True) if bit)
            log_laplace -= dof / 2 * np.log(spread)
            rates[index] = n * scale / spread
        elif not centred:  # a mean makes the constant noncentral
            log_laplace -= np.log(spread) / 2 + t * x.mean**2 / spread
            rates[index] = n * (scale / spread + x.mean**2 / spread**2)
    laplace = np.exp(log_laplace) * weights * (t[0] / unit[0])
    out = np.zeros_like(table)
    for index, rate in rates.items():
        out[index] = float(rate @ laplace)
    inverse = float(laplace.sum())
    return _components(out, sizes), inverse


@cache
def _half_line() -> tuple[Array, Array]:
    """Points and weights of the integral over ``[0, ∞)`` of a function that falls on an unknown scale: trapezoids in log t."""
    t = np.logspace(-9, 9, 500)
    weights = t * math.log(t[1] / t[0])
    weights[[0, -1]] /= 2
    weights[0] += t[0]
    return t, weights


def _components(eigenvalues: Array, sizes: Sequence[int]) -> Array:
    """From the eigenvalues over subsets of atoms back to variance components."""
    for axis, size in enumerate(sizes):
        varies = take(eigenvalues, axis, 1)
        eigenvalues = np.stack([(take(eigenvalues, axis, 0) - varies) / size, varies], axis)
    return eigenvalues


def _onto(x: Moments, like: Moments) -> Moments:
    return x + Moments(like.dims, 0.0, np.zeros_like(like.v))


def _affine(flow: Flow, weight: Moments | None, bias: Moments | None, shape: Sequence[int], others: Sequence[int]) -> Flow:
    """``γ·y + β`` with γ and β of the given broadcastable shape; ``others`` are the axes they do not have."""
    y = flow.out
    if weight is None and bias is None:
        return flow
    gamma = None if weight is None else weight.reshape(shape)
    out = y if gamma is None else product(y, gamma)
    if bias is not None:
        out = out + bias.reshape(shape)

    def back(g: Moments) -> dict[Moments, Moments]:
        inner = g if gamma is None else product(g, gamma)
        if bias is None or (bias.var == 0 and bias.mean == 0):  # then the output is γ·y: both feel the same
            inner = replace(inner, radial=g.radial)
        grads = dict(flow.back(inner))
        if weight is not None:
            grads[weight] = _times_value(g, y, out, weight, bias).sum(others, keepdim=True).reshape(weight.shape)
        if bias is not None:
            grads[bias] = g.sum(others, keepdim=True).reshape(bias.shape)
        return grads

    return Flow(out, back)


def _times_value(g: Moments, y: Moments, out: Moments, weight: Moments, bias: Moments | None) -> Moments:
    """``g·y``: what the scale's gradient sums. An activation behind the norm makes g a function of y: ``G·φ'(u)·y(u)``."""
    constant = weight.var == 0 and weight.mean != 0 and (bias is None or bias.var == 0)
    if g.radial is not None and constant and (bias is None or bias.mean == 0):
        entries = math.prod(y.shape) / weight.shape[0]
        return Moments.iid(y.shape, 0.0, (g.radial / weight.mean) ** 2 / entries)
    if g.profile is None or not constant:
        return product(g, y)
    values = (out.on_grid() - (0.0 if bias is None else bias.mean)) / weight.mean
    return replace(along(g, out, values), profile=None)


@transfer(F.layer_norm, torch.layer_norm, apart=unreduced)
def layer_norm(_: Call, input: Moments, normalized_shape: Any, weight: Moments | None = None,
               bias: Moments | None = None, eps: float = 1e-5, *_rest: Any) -> Flow:  # fmt: skip
    """Over the last axes of each token (Ba et al. 2016)."""
    rank, width = len(input.dims), len(normalized_shape)
    flow = normalise(input, range(rank - width, rank), eps)
    shape = (1,) * (rank - width) + tuple(normalized_shape)
    return _affine(flow, weight, bias, shape, range(rank - width))


@transfer(F.rms_norm, torch.rms_norm, apart=unreduced)
def rms_norm(_: Call, input: Moments, normalized_shape: Any, weight: Moments | None = None, eps: float | None = None) -> Flow:
    """Without centring (Zhang & Sennrich 2019)."""
    rank, width = len(input.dims), len(normalized_shape)
    flow = normalise(input, range(rank - width, rank), 1e-6 if eps is None else eps, centred=False)
    return _affine(flow, weight, None, (1,) * (rank - width) + tuple(normalized_shape), range(rank - width))


@transfer(F.batch_norm, torch.batch_norm, apart=channels)
def batch_norm(_: Call, input: Moments, running_mean: Any = None, running_var: Any = None, weight: Moments | None = None,
               bias: Moments | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
               *_rest: Any) -> Flow:  # fmt: skip
    """Over samples and positions of each channel (Ioffe & Szegedy 2015), by the batch's own statistics in training."""
    shape = tuple(n if d == 1 else 1 for d, n in enumerate(input.shape))
    others = [d for d in range(len(input.dims)) if d != 1]
    if training or running_var is None:
        flow = _scale_free(input, normalise(input, others, eps), others, eps)
    else:
        scale = 1 / math.sqrt(running_var.mean + eps)
        centre = -running_mean.mean if running_mean is not None else 0.0
        flow = Flow(input.shift(centre).scale(scale), lambda g: {input: g.scale(scale)})
    return _affine(flow, weight, bias, shape, others)


def _scale_free(x: Moments, flow: Flow, others: Sequence[int], eps: float) -> Flow:
    """Adds what the scale of the input feels: ``Σ g_x x = eps/(v + eps) Σ g_y y`` per channel, zero but for eps."""
    variance = x.centre(others).q

    def back(g: Moments) -> dict[Moments, Moments]:
        felt = product(g, flow.out).sum(others).rms if g.radial is None else g.radial
        share = eps / (variance + eps) if variance + eps > 0 else 0.0
        return {y: replace(grad, radial=felt * share) for y, grad in flow.back(g).items()}

    return Flow(flow.out, back)


def _grouped(input: Moments, groups: int, weight: Moments | None, bias: Moments | None, eps: float) -> Flow:
    n, c, *rest = input.shape
    split = (n, groups, c // groups, *rest)
    x = input.reshape(split)
    inner = normalise(x, range(2, len(split)), eps)
    flow = Flow(inner.out.reshape(input.shape), lambda g: {input: inner.back(g.reshape(split))[x].reshape(input.shape)})
    shape = (1, c) + (1,) * len(rest)
    return _affine(flow, weight, bias, shape, [0, *range(2, len(input.dims))])


@transfer(F.group_norm, torch.group_norm)
def group_norm(_: Call, input: Moments, num_groups: int, weight: Moments | None = None, bias: Moments | None = None,
               eps: float = 1e-5, *_rest: Any) -> Flow:  # fmt: skip
    """Over the channels of a group and all positions (Wu & He 2018)."""
    return _grouped(input, num_groups, weight, bias, eps)


@transfer(F.instance_norm, torch.instance_norm)
def instance_norm(_: Call, input: Moments, running_mean: Any = None, running_var: Any = None,
                  weight: Moments | None = None, bias: Moments | None = None, use_input_stats: bool = True,
                  momentum: float = 0.1, eps: float = 1e-5, *_rest: Any) -> Flow:  # fmt: skip
    """Over the positions of each channel (Ulyanov et al. 2016): position-constant components disappear."""
    if not use_input_stats:
        raise NotImplementedError("instance norm by running statistics")
    return _grouped(input, input.shape[1], weight, bias, eps)


@transfer(F.normalize)
def unit_norm(_: Call, input: Moments, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Flow:
    """Division by the Euclidean norm: RMSNorm over √n."""
    if p != 2:
        raise NotImplementedError("a norm other than the Euclidean")
    dims = [dim] if isinstance(dim, int) else list(dim)
    scale = 1 / math.sqrt(math.prod(input.shape[d] for d in dims))
    flow = normalise(input, dims, 0.0, centred=False)
    return Flow(flow.out.scale(scale), lambda g: flow.back(g.scale(scale)))


@transfer(WEIGHT_NORM)
def weight_norm(call: Call, v: Moments, g: Moments, dim: int = 0) -> Flow:
    """``g·v/‖v‖`` over all axes but one (Salimans & Kingma 2016)."""
    others = [d for d in range(len(v.dims)) if dim == -1 or d != dim]
    unit = unit_norm(call, v, dim=others)
    return _affine(unit, g, None, [1 if d in others else n for d, n in enumerate(v.shape)], others)


@transfer(F.cosine_similarity)
def cosine_similarity(call: Call, x1: Moments, x2: Moments, dim: int = 1, eps: float = 1e-8) -> Flow:
    """The product of two directions."""
    tape = Tape()
    a, b = (tape(unit_norm(call, x, dim=dim)) for x in (x1, x2))
    both = tape(multiply(a, b))
    wide = [1 if d == dim % len(both.dims) else n for d, n in enumerate(both.shape)]
    out = tape(reindex(both, lambda m: m.sum([dim]), lambda g: g.reshape(wide).expand(both.shape)))
    return Flow(out, lambda g: tape.back({out: g}))


_FAINT = 0.25


@transfer(F.local_response_norm)
def local_response_norm(_: Call, input: Moments, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Flow:
    """``x / (k + α mean x²)^β`` over neighbouring channels (Krizhevsky et al. 2012); α is small, so the sum is a number."""
    if alpha * input.q > _FAINT * (k + alpha * input.q):
        raise NotImplementedError("a strong response norm")
    scale = (k + alpha * input.q) ** -beta
    return Flow(input.scale(scale), lambda g: {input: g.scale(scale)})
