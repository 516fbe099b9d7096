"""Matrices that each serve a group of rows: the experts of a mixture (Shazeer et al. 2017, arXiv:1701.06538)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments, take
from gradlint.ops.primitives import contract
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _loosened(x: Moments, axis: int, share: float) -> Moments:
    """Keep only ``share`` of what different entries along an axis have in common; the mean square stays."""
    y = x.whole(axis)
    if not y.dims[axis]:
        return y
    a = y.atoms(axis)[0]
    common, own = take(y.v, a, 0), take(y.v, a, 1)
    common_mean = y.mean**2 * (1 - share)
    v = np.stack([common * share, own + common * (1 - share)], a)
    v[(-1,) * v.ndim] += common_mean
    return Moments(y.dims, y.mean * math.sqrt(share), v)


@transfer(*(f for home in (F, torch) for f in (getattr(home, name, None) for name in ("grouped_mm", "_grouped_mm")) if f))
def grouped_mm(_: Call, mat_a: Moments, mat_b: Moments, offs: Moments | None = None, *_rest: Any, **_kw: Any) -> Flow:
    """``y_t = x_t W_e(t)``: a linear layer per row; two rows share their weights if they go to the same expert.

    Shapes (rows, n) and (experts, n, m); ``offs`` are the ends of the experts' rows.
    """
    if offs is None or offs.value is None or len(mat_a.dims) != 2 or len(mat_b.dims) != 3:
        raise NotImplementedError("groups that are not consecutive rows of one matrix")
    rows, experts = mat_a.shape[0], mat_b.shape[0]
    counts = np.diff(np.asarray(offs.value).reshape(-1), prepend=0).astype(float)
    share = float((counts * (counts - 1)).sum() / (rows * (rows - 1))) if rows > 1 else 1.0
    weight = mat_b.resize(0, 1).reshape(mat_b.shape[1:])
    flow = contract(["ti", "io"], "to", _loosened(mat_a, 0, share), weight)

    def back(g: Moments) -> dict[Moments, Moments]:
        x, h = _loosened(mat_a, 0, share), _loosened(g, 0, share)
        of_x = contract(["ti", "io"], "to", x, weight).back(h)[x]
        together = contract(["ti", "io"], "to", x, weight).back(g)[weight]  # Σ over rows and over pairs of one expert
        of_weight = together.reshape((1, *weight.shape)).scale(1 / math.sqrt(experts)).resize(0, experts)
        return {mat_a: of_x, mat_b: of_weight}

    return Flow(flow.out, back)
