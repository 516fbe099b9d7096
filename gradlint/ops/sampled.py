"""The sampled way: an op without a formula is run on tensors that match its input moments, and differentiated.

Also the oracle of the tests: every formula must agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradlint.moments import Moments
from gradlint.ops.registry import Flow, Gradients

__all__ = ["draw", "or_sampled", "said", "sampled"]

_ENTRIES = 200_000
_DRAWS = (2, 12)
_SEED = 20_190_615


def draw(x: Moments, generator: torch.Generator) -> torch.Tensor:
    """A float64 tensor with the law of ``x``: its mean plus one Gaussian component per set of axes."""
    if x.value is not None:
        return torch.as_tensor(np.array(x.value))
    sizes = [n for dim in x.dims for n in dim]
    out = torch.full(sizes, x.mean, dtype=torch.float64)
    for index in np.ndindex(*x.v.shape):
        variance = float(x.v[index])
        if variance > 0:
            shape = [n if bit else 1 for n, bit in zip(sizes, index, strict=True)]
            out = out + math.sqrt(variance) * torch.randn(shape, generator=generator, dtype=torch.float64)
    return out.reshape(x.shape)


def sampled(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, draws: int | None = None) -> Flow:
    """Measure both directions of one call.

    Args:
        function: the call's target as a callable on real tensors.
        args: its arguments, tensors as :class:`Moments`.
        kwargs: likewise.
        draws: number of repetitions; by default enough for about 200,000 output entries.

    Raises:
        Exception: whatever the function raises on tensors of these moments.
    """
    leaves = _moments_in((args, kwargs))
    _, first, template = _run(function, args, kwargs, _SEED)
    entries = sum(t.numel() for t in first)
    draws = draws or min(max(_ENTRIES // max(entries, 1), _DRAWS[0]), _DRAWS[1])
    runs = [first, *(_run(function, args, kwargs, _SEED + i)[1] for i in range(1, draws))]
    outs = [_mean_of([Moments.of_array(run[i].detach().numpy()) for run in runs]) for i in range(len(first))]

    def back(g: Any) -> dict[Moments, Moments]:
        cotangents = list(g) if isinstance(g, tuple) else [g]
        collected: dict[Moments, list[Moments]] = {x: [] for x in leaves}
        for i in range(draws):
            inputs, tensors, _ = _run(function, args, kwargs, _SEED + i)
            generator = torch.Generator().manual_seed(_SEED - 1 - i)
            pairs = [
                (t, draw(c, generator).reshape(t.shape))
                for t, c in zip(tensors, [c for c, keep in zip(cotangents, template, strict=True) if keep], strict=True)
                if c is not None and t.requires_grad
            ]
            wanted = [(x, t) for x, t in inputs if t.requires_grad]
            if not pairs or not wanted:
                continue
            grads: Any = torch.autograd.grad(
                [t for t, _ in pairs], [t for _, t in wanted], [c for _, c in pairs], allow_unused=True
            )
            for (x, t), grad in zip(wanted, grads, strict=True):
                collected[x].append(Moments.of_array((torch.zeros_like(t) if grad is None else grad).numpy()))
        return {x: _mean_of(found) for x, found in collected.items() if found}

    if template == [True]:
        return Flow(outs[0], back)
    members = iter(outs)
    return Flow(tuple(next(members) if keep else None for keep in template), back)


def said(error: Exception) -> str:
    """What a computation that failed has to say, in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def or_sampled(
    flow: Flow, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], failed: Callable[[str], None]
) -> Flow:
    """A flow by formula whose way back is sampled where the formula raises; ``failed`` is told why."""

    def back(g: Any) -> Gradients:
        try:
            return flow.back(g)
        except Exception as error:  # noqa: BLE001  (a formula that breaks must not hide the rest; it is reported)
            failed(said(error))
        return sampled(function, args, kwargs).back(g)

    return Flow(flow.out, back)


def _run(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], seed: int
) -> tuple[list[tuple[Moments, torch.Tensor]], list[torch.Tensor], list[bool]]:
    """One execution: the drawn inputs, the floating outputs, and which outputs are floating."""
    generator = torch.Generator().manual_seed(seed)
    inputs: list[tuple[Moments, torch.Tensor]] = []

    def materialise(x: Any) -> Any:
        if isinstance(x, Moments):
            tensor = draw(x, generator)
            if tensor.is_floating_point():  # known values too: they may be a parameter's
                tensor = tensor.double().requires_grad_(True)
            inputs.append((x, tensor))
            return tensor * 1 if tensor.requires_grad else tensor  # a non-leaf survives in-place ops
        if isinstance(x, (list, tuple)):
            return type(x)(materialise(y) for y in x)
        if isinstance(x, dict):
            return {k: materialise(y) for k, y in x.items()}
        return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x

    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = function(*[materialise(a) for a in args], **{k: materialise(v) for k, v in kwargs.items()})
    members = list(out) if isinstance(out, (tuple, list)) else [out]
    keep = [isinstance(t, torch.Tensor) and t.is_floating_point() for t in members]
    return inputs, [t for t, k in zip(members, keep, strict=True) if k], keep


def _moments_in(tree: Any) -> list[Moments]:
    if isinstance(tree, Moments):
        return [tree]
    if isinstance(tree, dict):
        return [m for x in tree.values() for m in _moments_in(x)]
    if isinstance(tree, (list, tuple)):
        return [m for x in tree for m in _moments_in(x)]
    return []


def _mean_of(laws: list[Moments]) -> Moments:
    """Average the pair tables of several draws; the mean of their means keeps its sign."""
    mean = sum(x.mean for x in laws) / len(laws)
    square = sum(x.mean**2 for x in laws) / len(laws)
    v = np.array(sum((x.v for x in laws), np.zeros_like(laws[0].v)) / len(laws))
    v[(0,) * v.ndim] += square - mean**2
    return Moments(laws[0].dims, mean, v)
