"""Every pointwise op, evaluated by quadrature, against sampling: mean, mean square and the slope's mean square."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from gradlint.moments import Moments
from gradlint.ops import POINTWISE
from gradlint.recognise import Cone, Grid
from gradlint.trace.graph import Step, annotate

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "threshold": (0.1, 0.0),
    "clamp": (-0.5, 0.8),
    "clip": (-0.5, 0.8),
    "clamp_min": (-0.2,),
    "clamp_max": (0.4,),
    "pow": (3,),
    "float_power": (2.0,),
    "remainder": (0.7,),
    "fmod": (0.7,),
}
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "acosh", "arccosh"}  # around 4
UNIT = {"asin", "acos", "atanh", "arcsin", "arccos", "arctanh", "erfinv", "tan"}  # within ±1
INSIDE = {"logit"}  # within (0, 1)


def _law(name: str) -> tuple[float, float]:
    if name in POSITIVE:
        return 4.0, 0.1
    if name in UNIT:
        return 0.1, 0.01
    return (0.5, 0.005) if name in INSIDE else (0.3, 0.8)


@pytest.mark.parametrize("name", sorted(set(POINTWISE.values())))
def test_quadrature_agrees_with_sampling(name: str) -> None:
    function = next(t for t, n in POINTWISE.items() if n == name and callable(t))
    mean, var = _law(name)
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(function, (x, *ARGUMENTS.get(name, ())))
    for node in (x, y):
        annotate(node, Step((1000,), "float64", "", None))
    root = Moments.iid((1000,), mean, var)
    grid = Grid(Cone(x, [y]), root)
    predicted = grid.moments(y)

    samples = mean + math.sqrt(var) * torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples.requires_grad_(True)
    output = function(samples, *ARGUMENTS.get(name, ()))
    values = output.detach()
    assert predicted.mean == pytest.approx(float(values.mean()), abs=0.01 * float(values.square().mean().sqrt()) + 1e-9)
    assert predicted.rms == pytest.approx(float(values.square().mean().sqrt()), rel=0.02)
    (slope,) = torch.autograd.grad(output.sum(), samples)
    gradient = grid.gradient(y, Moments.iid((1000,)), [x])[x].rms
    assert gradient == pytest.approx(float(slope.square().mean().sqrt()), rel=0.03, abs=1e-12)
    assert np.isfinite(gradient)
