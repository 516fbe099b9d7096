"""Tensors on address space that is reserved and not backed by memory until it is written.

They are ordinary CPU tensors: views, strides, storages, autograd and ``data_ptr`` work as ever. What is never written costs
nothing, so a parameter of any size can exist before its values do.
"""

from __future__ import annotations

import math
import mmap
import sys
import weakref
from collections.abc import Callable, Sequence

import torch

__all__ = ["Reserve"]

_CHUNK = 1 << 36  # bytes reserved at once
_NORESERVE = getattr(mmap, "MAP_NORESERVE", {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0))


class Reserve:
    """Hands out tensors; a block's pages go back to the system with its storage."""

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._used = 0
        self._refused = sys.platform == "win32"  # there every page is committed when it is mapped

    def tensor(
        self, shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, Callable[[], None]] | None:
        """A dense tensor of zeros, and what gives its pages back before that, so that it reads as zeros again.

        None where the system reserves no address space without memory.

        Args:
            stride: of the axes, in any order of memory; contiguous if None.
        """
        used = math.prod(shape) * dtype.itemsize
        size = -(-max(used, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._chunk is None or self._used + size > len(self._chunk):
            self._chunk, self._used = self._mapped(max(size, _CHUNK)), 0
        chunk, start = self._chunk, self._used
        if chunk is None:
            return None
        self._used += size
        block = memoryview(chunk)[start : start + used]
        storage = torch.frombuffer(block, dtype=torch.uint8).untyped_storage()
        weakref.finalize(block, chunk.madvise, mmap.MADV_DONTNEED, start, size)
        steps = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))) if stride is None else tuple(stride)
        made = torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape), steps)
        return made, lambda: chunk.madvise(mmap.MADV_DONTNEED, start, size)

    def _mapped(self, size: int) -> mmap.mmap | None:
        if self._refused:
            return None
        try:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        except OSError:  # a limit of the address space
            self._refused = True
            return None
