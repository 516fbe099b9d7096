"""The sampled way: an op without a formula is run on tensors that match its input moments, and differentiated.

Also the oracle of the tests: every formula must agree with it. The result is the same in every run, and no generator of random
numbers is disturbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradlint.moments import GRID, Array, Moments, conditioned, from_pairs
from gradlint.ops.registry import Flow, Gradients
from gradlint.trace.state import seeded

__all__ = ["draw", "or_sampled", "said", "sampled"]

_ENTRIES = 200_000
_DRAWS = (2, 12)
_BUDGET = 60_000_000
_SEED = 20_190_615


def draw(x: Moments, generator: torch.Generator) -> torch.Tensor:
    """A float64 tensor with the law of ``x``: its mean plus one Gaussian component per set of axes.

    A marginal law that is not Gaussian is put on a Gaussian tensor of the correlations that give x its own.
    """
    if x.value is not None:
        return torch.as_tensor(np.array(x.value))
    if x.law is not None and x.var > 0:
        z = draw(from_pairs(x.dims, 0.0, x.latent()), generator)
        return torch.as_tensor(np.interp(z.numpy(), GRID.z, x.on_grid()))
    sizes = [n for dim in x.dims for n in dim]
    out = torch.zeros(sizes, dtype=torch.float64)
    for index in np.ndindex(*x.v.shape):
        variance = float(x.v[index])
        if variance > 0:
            shape = [n if bit else 1 for n, bit in zip(sizes, index, strict=True)]
            out = out + math.sqrt(variance) * torch.randn(shape, generator=generator, dtype=torch.float64)
    positive = float(x.v[x.v > 0].sum())
    if positive > 0:  # what is centred has negative components, which cannot be drawn: the variance is kept
        out = out * math.sqrt(x.var / positive)
    return (out + x.mean).reshape(x.shape)


@dataclass
class _Run:
    """One execution: what was drawn, the floating outputs, and which outputs are floating."""

    inputs: list[tuple[Moments, torch.Tensor]]
    outputs: list[torch.Tensor]
    floating: list[bool]


@dataclass(frozen=True)
class _Experiment:
    """A call that can be repeated.

    Args:
        constants: tensors of known values are differentiated, too (they may be a parameter's).
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    constants: bool = True

    def run(self, number: int) -> _Run:
        """Repetition ``number``, always on the same tensors."""
        generator = torch.Generator().manual_seed(_SEED + number)
        inputs: list[tuple[Moments, torch.Tensor]] = []

        def materialise(x: Any) -> Any:
            if isinstance(x, Moments):
                tensor = draw(x, generator)
                if tensor.is_floating_point():
                    tensor = tensor.double().requires_grad_(self.constants or x.value is None)
                inputs.append((x, tensor))
                return tensor * 1 if tensor.requires_grad else tensor.clone()  # in-place ops must not reach the leaf
            if isinstance(x, (list, tuple)):
                return type(x)(materialise(y) for y in x)
            if isinstance(x, dict):
                return {k: materialise(y) for k, y in x.items()}
            return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x

        with torch.enable_grad(), seeded(_SEED + number):
            out = self.function(*[materialise(a) for a in self.args], **{k: materialise(v) for k, v in self.kwargs.items()})
        members = list(out) if isinstance(out, (tuple, list)) else [out]
        floating = [isinstance(t, torch.Tensor) and t.is_floating_point() for t in members]
        return _Run(inputs, [t for t, k in zip(members, floating, strict=True) if k], floating)


def sampled(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, draws: int | None = None) -> Flow:
    """Measure both directions of one call.

    Args:
        function: the call's target as a callable on real tensors.
        args: its arguments, tensors as :class:`Moments`.
        kwargs: likewise.
        draws: number of repetitions; by default enough for about 200,000 output entries, fewer where tensors are large.

    Raises:
        NotImplementedError: the tensors are too large.
        Exception: whatever the function raises on tensors of these moments.
    """
    leaves = _moments_in((args, kwargs))
    size = sum(math.prod(x.shape) for x in leaves)
    if size > _BUDGET:
        raise NotImplementedError("its tensors are too large to sample")
    experiment = _Experiment(function, args, kwargs)
    try:
        first = experiment.run(0)
    except RuntimeError:  # such as a class weight: not differentiable
        experiment = _Experiment(function, args, kwargs, constants=False)
        first = experiment.run(0)
    entries = sum(t.numel() for t in first.outputs)
    if draws is None:
        draws = min(max(_ENTRIES // max(entries, 1), _DRAWS[0]), _DRAWS[1])
        draws = max(min(draws, _BUDGET // max(size + entries, 1)), 1)
    runs = [first, *(experiment.run(i) for i in range(1, draws))]
    outs = [_mean_of([Moments.of_array(run.outputs[i].detach().numpy()) for run in runs]) for i in range(len(first.outputs))]

    def back(g: Any) -> dict[Moments, Moments]:
        laws = [law for law, keep in zip(g if isinstance(g, tuple) else (g,), first.floating, strict=True) if keep]
        cotangents = [None if law is None else _cotangents(law, draws) for law in laws]
        collected: dict[Moments, list[_Found]] = {x: [] for x in leaves}
        for i in range(draws):
            run = experiment.run(i)
            pairs = [
                (t, c[i].reshape(t.shape))
                for t, c in zip(run.outputs, cotangents, strict=True)
                if c is not None and t.requires_grad
            ]
            wanted = [(x, t) for x, t in run.inputs if t.requires_grad]
            if not pairs or not wanted:
                continue
            grads: Any = torch.autograd.grad(
                [t for t, _ in pairs], [t for _, t in wanted], [c for _, c in pairs], allow_unused=True
            )
            for (x, t), grad in zip(wanted, grads, strict=True):
                collected[x].append((t.detach().numpy(), (torch.zeros_like(t) if grad is None else grad).numpy()))
        return {x: _gradient(x, found) for x, found in collected.items() if found}

    if first.floating == [True]:
        return Flow(outs[0], back)
    members = iter(outs)
    return Flow(tuple(next(members) if keep else None for keep in first.floating), back)


_Found = tuple[Array, Array]
"""A tensor and its gradient in one execution."""

_BINS = (8, 32)
_PER_BIN = 32


def _gradient(x: Moments, found: Sequence[_Found]) -> Moments:
    """The law of a gradient; where x is known not to be Gaussian also how it depends on x, by its mean square in bins of x."""
    out = _mean_of([Moments.of_array(grad) for _, grad in found])
    if x.law is None or x.var <= 0 or out.q <= 0:
        return out
    values, squares = (np.concatenate([pair[i].ravel() for pair in found]) for i in (0, 1))
    bins = np.array_split(np.argsort(values, kind="stable"), min(max(values.size // _PER_BIN, _BINS[0]), _BINS[1]))
    power = [float(np.mean(squares[b] ** 2)) for b in bins if b.size]
    levels = np.cumsum(GRID.weights) - GRID.weights / 2
    return conditioned(out, x, np.interp(levels, (np.arange(len(power)) + 0.5) / len(power), power))


def _cotangents(g: Moments, draws: int) -> list[torch.Tensor]:
    """Draws of a gradient whose mean square over all of them is exact: a scalar's would be off by the noise of a few draws."""
    found = [draw(g, torch.Generator().manual_seed(_SEED - 1 - i)) for i in range(draws)]
    square = sum(float(c.square().mean()) for c in found) / draws
    return [c * math.sqrt(g.q / square) for c in found] if square > 0 else found


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
