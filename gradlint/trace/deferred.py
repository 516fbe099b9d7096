"""Tensors whose values are put off: they have a law, and are drawn from it when something wants to know them.

Up to a budget large tensors are real. Beyond it none is written any more, and those written before that have a closed form
give their memory back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gradlint.trace.private import StorageWeakRef, expired, hold, storage_key
from gradlint.trace.reserve import Reserve

if TYPE_CHECKING:
    from gradlint.trace.tags import Regions, Tag

__all__ = ["BUDGET", "FACTORIES", "LARGE", "Deferred", "factory_of"]

LARGE = 1 << 16
"""Entries from which on a tensor may be put off."""

BUDGET = 1 << 25
"""Entries of large tensors that are real, as long as there are not more of them: 128 MiB in single precision."""

_PIECE = 1 << 22

FACTORIES: dict[str, Callable[[torch.Tensor, Mapping[str, Any], Sequence[Any]], object]] = {
    **dict.fromkeys(("empty", "empty_like", "new_empty", "zeros", "zeros_like", "new_zeros"), lambda t, _k, _a: t),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), lambda t, _k, _a: t.fill_(1.0)),
    **dict.fromkeys(("full", "full_like"), lambda t, _k, a: t.fill_(a[1])),
    "new_full": lambda t, _k, a: t.fill_(a[2]),
    **dict.fromkeys(("rand", "rand_like"), lambda t, k, _a: t.uniform_(generator=k.get("generator"))),
    **dict.fromkeys(("randn", "randn_like"), lambda t, k, _a: t.normal_(generator=k.get("generator"))),
}
"""By the name of the operator that makes a tensor from a size: how a tensor of zeros becomes what it returns."""


def factory_of(args: Sequence[Any], kwargs: Mapping[str, Any], large: int = LARGE) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and dtype of the large, contiguous, real tensor in CPU memory that a factory is asked for, if it is."""
    like = args[0] if isinstance(args[0], torch.Tensor) else None
    sizes = next((a for a in args[:2] if isinstance(a, list | tuple)), None)
    shape = tuple(like.shape) if sizes is None and like is not None else tuple(sizes or ())
    if math.prod(shape) < large:
        return None
    dtype = kwargs.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
    device = kwargs.get("device") or ("cpu" if like is None else like.device)
    layout = kwargs.get("layout") or (torch.strided if like is None else like.layout)
    memory = kwargs.get("memory_format") or torch.contiguous_format
    plain = memory == torch.contiguous_format or (memory == torch.preserve_format and like is not None and like.is_contiguous())
    if torch.device(device).type != "cpu" or layout != torch.strided or not dtype.is_floating_point or not plain:
        return None
    return shape, dtype


@dataclass
class _Block:
    held: StorageWeakRef
    entries: int
    dtype: torch.dtype
    free: Callable[[], None]
    waiting: bool  # for its values


class Deferred:
    """Which storages wait for their values.

    Args:
        budget: entries of large tensors that are real.
        large: entries from which on a tensor counts as large.
    """

    def __init__(self, budget: int = BUDGET, large: int = LARGE) -> None:
        self.large = large
        self._reserve = Reserve()
        self._blocks: dict[int, _Block] = {}
        self._budget = budget
        self.over = False
        self.filling = False

    def __contains__(self, tensor: torch.Tensor) -> bool:
        if not self.over:
            return False
        block = self._blocks.get(storage_key(tensor) or 0)
        return block is not None and block.waiting

    def make(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """A tensor of zeros whose values can be put off; None where the system does not allow that."""
        made = self._reserve.tensor(shape, dtype)
        if made is None:
            return None
        tensor, free = made
        key = storage_key(tensor)
        if key is not None:
            self._blocks[key] = _Block(hold(tensor), tensor.numel(), dtype, free, self.over)
        return tensor

    def exceeded(self) -> bool:
        """From now on values are put off: what is alive and real has become too much."""
        if self.over:
            return False
        self._blocks = {key: block for key, block in self._blocks.items() if not expired(block.held)}
        self.over = sum(block.entries for block in self._blocks.values()) > self._budget
        return self.over

    def put_off(self, keys: Iterable[int]) -> None:
        """The values of these storages are forgotten."""
        for key in keys:
            block = self._blocks.get(key)
            if block is not None:
                block.free()
                block.waiting = True

    def fill(self, tensor: torch.Tensor, regions: Regions) -> None:
        """Write the values of the tensor's whole storage; what nothing is known of is zero."""
        block = self._blocks[storage_key(tensor) or 0]
        block.waiting, self.filling = False, True
        try:
            for start, stop, tag in regions.parts:
                for first in range(start, stop, _PIECE):
                    part = torch.empty(0, dtype=block.dtype)
                    part.set_(tensor.untyped_storage(), first, (min(stop - first, _PIECE),), (1,))
                    draw(part, tag, first - start)
        finally:
            self.filling = False


@torch.no_grad()
def draw(tensor: torch.Tensor, tag: Tag, at: int = 0) -> None:
    """Fill ``tensor`` with independent entries; the same draw (from the same place on) gives the same entries."""
    generator = torch.Generator().manual_seed(tag.draw * 1_000_003 + at)
    match tag.kind:
        case "uniform":
            tensor.uniform_(tag.low, tag.high, generator=generator)
        case "bernoulli":
            tensor.bernoulli_((tag.mean - tag.low) / (tag.high - tag.low), generator=generator)
            tensor.mul_(tag.high - tag.low).add_(tag.low)
        case _ if tag.core is not None:
            mean, std = tag.core
            ends = torch.special.ndtr((torch.tensor([tag.low, tag.high], dtype=torch.float64) - mean) / std)
            share = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0]
            tensor.copy_(torch.special.ndtri(share).mul_(std).add_(mean).clamp_(tag.low, tag.high))
        case _ if tag.std > 0:
            tensor.normal_(tag.mean, tag.std, generator=generator)
        case _:
            tensor.fill_(tag.mean)
