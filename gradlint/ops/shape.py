"""Reindexing: views and copies. Values are moved, never changed; the adjoint moves them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from gradlint.moments import Moments
from gradlint.ops.apart import broadcast
from gradlint.ops.registry import Call, Flow, transfer

__all__: list[str] = []


def _shape(call: Call) -> tuple[int, ...]:
    if call.shape is None:
        raise NotImplementedError("an output without a shape")
    return call.shape


@transfer(
    torch.reshape, "reshape", "view", "reshape_as", "view_as", torch.flatten, "flatten", torch.unflatten, "unflatten",
    torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", torch.ravel, "ravel", torch.atleast_1d, torch.atleast_2d,
)  # fmt: skip
def reshape(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Any view that keeps the order of the entries."""
    return Flow(input.reshape(_shape(call)), lambda g: {input: g.reshape(input.shape)})


@transfer(torch.permute, "permute")
def permute(_: Call, input: Moments, *dims: Any, **kw: Any) -> Flow:
    """Axes in another order."""
    given = kw.get("dims", dims)
    order = list(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else list(given)
    order = [d % len(input.dims) for d in order]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return Flow(input.permute(order), lambda g: {input: g.permute(inverse)})


@transfer(torch.transpose, "transpose", torch.swapaxes, "swapaxes", torch.swapdims, "swapdims")
def transpose(_: Call, input: Moments, dim0: int, dim1: int) -> Flow:
    """Two axes swapped."""
    return Flow(input.transpose(dim0, dim1), lambda g: {input: g.transpose(dim0, dim1)})


@transfer(torch.t, "t", "T", "mT", "H", "adjoint", torch.adjoint)
def matrix_transpose(_: Call, input: Moments) -> Flow:
    """The last two axes swapped (all of a matrix)."""
    if len(input.dims) < 2:
        return Flow(input, lambda g: {input: g})
    return Flow(input.transpose(-1, -2), lambda g: {input: g.transpose(-1, -2)})


@transfer(torch.movedim, "movedim", torch.moveaxis, "moveaxis")
def movedim(call: Call, input: Moments, source: Any, destination: Any) -> Flow:
    """Axes moved to new places."""
    src, dst = ([x] if isinstance(x, int) else list(x) for x in (source, destination))
    rank = len(input.dims)
    src, dst = [s % rank for s in src], [d % rank for d in dst]
    rest = iter(d for d in range(rank) if d not in src)
    return permute(call, input, [src[dst.index(d)] if d in dst else next(rest) for d in range(rank)])


@transfer("expand", "expand_as", torch.broadcast_to, "broadcast_to", apart=broadcast)
def expand(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Broadcast: the copies carry nothing of their own, their gradients add."""
    return Flow(input.expand(_shape(call)), lambda g: {input: g.fold(input.shape)})


@transfer("repeat", torch.tile, "tile")
def repeat(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Copies along axes: an axis of copies beside the axis itself."""
    out = _shape(call)
    lead = (1,) * (len(out) - len(input.dims)) + input.shape
    copies = [big // small for big, small in zip(out, lead, strict=True)]
    apart = [n for c, small in zip(copies, lead, strict=True) for n in (c, small)]
    ones = [n for small in lead for n in (1, small)]

    def back(g: Moments) -> dict[Moments, Moments]:
        return {input: g.reshape(apart).sum(range(0, len(apart), 2)).reshape(input.shape)}

    return Flow(input.reshape(ones).expand(apart).reshape(out), back)


@transfer(torch.flip, "flip", torch.roll, "roll", torch.fliplr, torch.flipud)
def reorder(call: Call, input: Moments, *_: Any, **__: Any) -> Flow:
    """Entries of an axis in another order: exchangeable, so nothing changes."""
    return Flow(input, lambda g: {input: g})


def _woven(x: Moments, apart: Sequence[int], order: Sequence[int], out: Sequence[int]) -> Flow:
    """Axes taken apart, put in another order and joined again."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    woven = [apart[d] for d in order]
    return Flow(
        x.reshape(apart).permute(order).reshape(out),
        lambda g: {x: g.reshape(woven).permute(inverse).reshape(x.shape)},
    )


@transfer(F.pixel_shuffle, torch.pixel_shuffle)
def pixel_shuffle(call: Call, input: Moments, upscale_factor: int) -> Flow:
    """``(C·r², H, W) → (C, H·r, W·r)``."""
    *lead, c, h, w = input.shape
    r, n = upscale_factor, len(lead)
    return _woven(input, (*lead, c // r**2, r, r, h, w), (*range(n), n, n + 3, n + 1, n + 4, n + 2), _shape(call))


@transfer(F.pixel_unshuffle, torch.pixel_unshuffle)
def pixel_unshuffle(call: Call, input: Moments, downscale_factor: int) -> Flow:
    """``(C, H·r, W·r) → (C·r², H, W)``."""
    *lead, c, h, w = input.shape
    r, n = downscale_factor, len(lead)
    return _woven(input, (*lead, c, h // r, r, w // r, r), (*range(n), n, n + 2, n + 4, n + 1, n + 3), _shape(call))


@transfer(F.channel_shuffle, torch.channel_shuffle, F.native_channel_shuffle)
def channel_shuffle(_: Call, input: Moments, groups: int) -> Flow:
    """``(N, g·c, …) → (N, c·g, …)``, the two factors swapped."""
    n, c, *rest = input.shape
    return _woven(input, (n, groups, c // groups, *rest), (0, 2, 1, *range(3, 3 + len(rest))), input.shape)
