"""Activations and every other function that acts on each entry alone.

They need no formula: the function itself is evaluated on a quadrature grid, ``K'[S] = Σ a_k² ρ[S]^k`` forward and
``K_g'[S] = K_g[S] Σ d_k² ρ[S]^k`` backward, a_k and d_k the Hermite coefficients of φ and φ' (Daniely, Frostig & Singer 2016).
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, concat, product
from gradlint.ops.registry import Call, Flow, identity, pointwise, transfer

__all__: list[str] = []

_POINTWISE = """
relu relu6 elu selu celu leaky_relu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign tanhshrink hardshrink
softshrink threshold logsigmoid sigmoid tanh exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square abs sin cos tan sinh cosh asin
acos atan asinh acosh atanh erf erfc erfinv clamp clip clamp_min clamp_max reciprocal logit sinc sign floor ceil round trunc frac
nan_to_num expit pow float_power remainder fmod fix arcsin arccos arctan arcsinh arccosh arctanh absolute negative ndtr
log_ndtr deg2rad rad2deg
"""
for _name in _POINTWISE.split():
    pointwise(_name, _name, *(getattr(home, _name) for home in (F, torch, torch.special, torch.Tensor) if hasattr(home, _name)))
pointwise("pow", operator.pow, torch.Tensor.__pow__)  # ``x ** 3`` is a function of its own
pointwise("abs", operator.abs)

_CASTS = "float double half bfloat16 to type type_as contiguous clone cpu cuda alias detach"
for _name in _CASTS.split():
    identity(_name, _name)
identity("clone", torch.clone)
identity("detach", torch.detach)  # the trace says that no gradient flows


@transfer(F.prelu, torch.prelu, "prelu")
def prelu(_: Call, input: Moments, weight: Moments) -> Flow:
    """Leaky ReLU with a learned slope; the slope's gradient is ``Σ g·min(x, 0)`` (He et al. 2015, eq. 3)."""
    slope, u = weight.mean, input.on_grid()
    derivative = input.map(np.where(u > 0, 1.0, slope))
    negative = input.map(np.minimum(u, 0.0))
    others = [d for d in range(len(input.dims)) if d != 1 or weight.shape == (1,)]
    return Flow(
        input.map(np.where(u > 0, u, slope * u)),
        lambda g: {
            input: product(g, derivative),
            weight: product(g, negative).sum(others).reshape(weight.shape),
        },
    )


@transfer(F.rrelu, torch.rrelu)
def rrelu(
    _: Call, input: Moments, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Flow:
    """Leaky ReLU whose slope is drawn for every negative entry, uniform between two bounds (Xu et al. 2015)."""
    slope, u = (lower + upper) / 2, input.on_grid()
    spread = (upper - lower) ** 2 / 12 if training else 0.0
    negative = np.minimum(u, 0.0)
    below = input.map(np.where(u > 0, 0.0, 1.0))
    out = input.map(np.where(u > 0, u, slope * u)) + Moments.iid(input.shape, 0.0, spread * input.map(negative).q)
    derivative = input.map(np.where(u > 0, 1.0, slope)) + Moments.iid(input.shape, 0.0, spread * below.mean)
    return Flow(out, lambda g: {input: product(g, derivative)})


@transfer(F.glu)
def glu(_: Call, input: Moments, dim: int = -1) -> Flow:
    """``a·σ(b)`` of two independent halves (Dauphin et al. 2017): ``q_a Eσ²``."""
    half = input.resize(dim, input.shape[dim] // 2)
    sigmoid = 1 / (1 + np.exp(-half.on_grid()))
    gate, slope = half.map(sigmoid), half.map(sigmoid * (1 - sigmoid))
    return Flow(
        product(half, gate),
        lambda g: {input: concat([product(g, gate), product(g, half, slope)], dim)},
    )
