"""The law recorder: which distribution each parameter was drawn from, by watching what writes it.

Below ``torch.nn.init`` and below ``tensor.normal_()`` there are aten operators; a dispatch mode sees each of them. For
every storage the recorder keeps :class:`~gradlint.trace.tags.Regions`: the laws of its stretches, updated under affine
operators and copies. What has no closed form is measured on the real values.
"""

from __future__ import annotations

import math
import weakref
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gradlint.moments import Moments
from gradlint.trace.deferred import Deferred
from gradlint.trace.law import Law, Region
from gradlint.trace.private import StorageWeakRef, hold, storage_key
from gradlint.trace.source import Construction, locate, owned
from gradlint.trace.state import SEED, seeded, uncompiled
from gradlint.trace.tags import Regions, Tag, mixture
from gradlint.trace.watcher import Leaks, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Laws", "recording"]

_INDEPENDENT = ("normal", "uniform", "constant", "orthogonal", "bernoulli", "uninitialised")


class Laws:
    """What construction told: the laws of parameters and the lines of modules. Made by :func:`recording`."""

    def __init__(self, deferred: Deferred | None = None) -> None:
        self.construction = Construction()
        self.deferred = deferred or Deferred()
        self._storages: dict[int, tuple[StorageWeakRef, Regions]] = {}
        self._draws = 0
        self._given: dict[int, tuple[weakref.ref[torch.Tensor], Law, Callable[[], torch.Tensor]]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what is constructed and written within the block; values of large tensors may be put off."""
        with self.construction.watching(), Watcher(self, building=True), Leaks(self):
            yield

    @contextmanager
    def writes(self) -> Iterator[None]:
        """Record what is written within the block; afterwards laws are what they were."""
        before = dict(self._storages)
        try:
            with Watcher(self, building=False):
                yield
        finally:
            self._storages = before

    def law(self, parameter: torch.Tensor) -> Law:
        """The law of a parameter; measured on its values where no initialiser was seen."""
        given = self._given.get(id(parameter))
        if given is not None and given[0]() is parameter:
            return given[1]
        tag = self.common(parameter)
        if tag is not None and tag.kind in _INDEPENDENT:
            return _independent(tag, parameter)
        if parameter in self.deferred:
            known = self._piecewise(parameter)
            if known is not None:
                return known
            self.fill(parameter)
        if tag is not None:
            return replace(_measured(parameter, tag.kind), location=tag.location, label=tag.label)
        regions, span = self._regions(parameter), _span(parameter)
        if regions is None or span is None:
            return _measured(parameter)
        parts = [(n, part) for n, part in regions.between(*span) if part is not None]
        last = regions.scattered or (parts[-1][1] if parts else None)
        if last is None or (len(parts) == 1 and regions.scattered is None):
            return replace(_measured(parameter), location=None if last is None else last.location)
        stretches = () if regions.scattered else tuple(_region(n, part) for n, part in parts)
        measured = replace(_measured(parameter, "mixed"), location=last.location, label=last.label, regions=stretches)
        if regions.scattered is None and sum(n for n, part in parts if part.known) == parameter.numel():
            mean, std = mixture(parts)
            return replace(measured, mean=mean, std=std, label="")
        return measured

    def _piecewise(self, parameter: torch.Tensor) -> Law | None:
        """The law of a parameter that was written in parts, from theirs; None where the parts are no rows and differ in mean."""
        regions, span = self._regions(parameter), _span(parameter)
        if regions is None or span is None or regions.scattered is not None or not parameter.is_contiguous():
            return None
        parts = [(n, part) for n, part in regions.between(*span) if part is not None and part.known]
        if sum(n for n, _ in parts) != parameter.numel():
            return None
        moments = _moments_of(tuple(parameter.shape), parts)
        if moments is None:
            return None
        (mean, std), last = mixture(parts), parts[-1][1]
        return Law("mixed", mean, std, moments, last.location, regions=tuple(_region(n, part) for n, part in parts))

    def give(self, parameter: torch.Tensor, law: Law, load: Callable[[], torch.Tensor]) -> None:
        """The parameter has values of its own, whatever it was drawn from.

        Args:
            load: reads them.
        """
        self._given[id(parameter)] = weakref.ref(parameter), law, load

    def fill(self, tensor: torch.Tensor) -> None:
        """Draw the values of a tensor that waits for them, or read them."""
        if tensor in self.deferred:
            self.deferred.fill(tensor, self._regions(tensor) or Regions())
            given = self._given.get(id(tensor))
            if given is not None and given[0]() is tensor:
                tensor.data.copy_(given[2]())

    def realise(self, model: nn.Module) -> None:
        """Give every parameter and buffer of ``model`` its values."""
        for tensor in (*model.parameters(), *model.buffers()):
            self.fill(tensor)

    def put_off(self) -> None:
        """Forget the values of what can be drawn again."""
        known = {key for key, (_, regions) in self._storages.items() if regions.drawable}
        self.deferred.put_off(known)

    def leaked(self, tensor: torch.Tensor) -> None:
        """Something else than torch may have written to the tensor's memory."""
        self.fill(tensor)
        regions = self._regions(tensor)
        key = storage_key(tensor)
        if key is not None and regions is not None and any(tag.kind == "uninitialised" for _, _, tag in regions.parts):
            shown = replace(Tag.unknown(), location=locate())
            parts = tuple((a, b, shown if tag.kind == "uninitialised" else tag) for a, b, tag in regions.parts)
            self._storages[key] = self._storages[key][0], replace(regions, parts=parts)

    def draws(self, tensor: torch.Tensor) -> tuple[object, ...] | None:
        """What tells apart the draws of two tensors without values; None if the tensor has values."""
        if tensor not in self.deferred:
            return None
        if id(tensor) in self._given:
            return (id(tensor),)
        regions, span = self._regions(tensor), _span(tensor)
        if regions is None or span is None:
            return (id(tensor),)
        return tuple((n, None if tag is None else (tag.kind, tag.mean, tag.std, tag.draw)) for n, tag in regions.between(*span))

    def next_draw(self, tag: Tag) -> int:
        """A number for draws that are independent of all before."""
        if tag.std == 0.0:
            return 0
        self._draws += 1
        return self._draws

    def drawn(self, tensor: torch.Tensor) -> Law | None:
        """The law of a tensor of independent random entries; None if it is anything else."""
        tag = self.common(tensor)
        return _independent(tag, tensor) if tag is not None and tag.kind in _INDEPENDENT and tag.std > 0 else None

    def common(self, tensor: torch.Tensor) -> Tag | None:
        """The one law of all entries of ``tensor``, if there is one."""
        regions, span = self._regions(tensor), _span(tensor)
        if regions is None or tensor.numel() == 0:
            return None
        if span is None:  # a view with gaps: the law of the whole storage, if that is one
            span = (0, tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1))
        return regions.common(*span)

    def source(self, tensor: torch.Tensor) -> Tag | None:
        """:meth:`common`, of the same draws only where the tensor is all of its storage."""
        tag = self.common(tensor)
        if tag is None or not tag.draw or tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes():
            return tag
        return replace(tag, draw=0)

    def whole(self, tensor: torch.Tensor) -> bool:
        """The tensor is one stretch of memory."""
        return _span(tensor) is not None

    def knows(self, tensor: torch.Tensor) -> bool:
        """Something with a law was written to the tensor's memory before."""
        return self._regions(tensor) is not None

    def write(self, tensor: torch.Tensor, tag: Tag, *, anew: bool = False) -> None:
        """``tensor`` was overwritten with draws from ``tag``.

        Args:
            anew: also note values without a law where nothing is known of the memory.
        """
        key = storage_key(tensor)
        if key is None or tensor.numel() == 0 or (not tag.known and not anew and key not in self._storages):
            return
        held, regions = self._storages.get(key) or (hold(tensor), Regions())
        span = _span(tensor)
        if span is not None:
            regions = regions.write(*span, tag)
        elif not (tag.known and (old := self.common(tensor)) is not None and old.same_law(tag)):
            regions = replace(regions, scattered=tag)
        self._storages[key] = held, regions

    def _regions(self, tensor: torch.Tensor) -> Regions | None:
        key = storage_key(tensor)
        found = self._storages.get(key) if key is not None else None
        return None if found is None else found[1]


def _span(tensor: torch.Tensor) -> tuple[int, int] | None:
    """The stretch of storage that a tensor is; None if it has gaps."""
    start, n = int(tensor.storage_offset()), tensor.numel()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (start, start + n) if n in (extent, 0) else None


def _independent(tag: Tag, tensor: torch.Tensor) -> Law:
    moments = Moments.iid(tuple(tensor.shape), tag.mean, tag.std**2)
    return Law(tag.kind, tag.mean, tag.std, moments, tag.location, tag.label, tag.low, tag.high)


def _region(entries: int, tag: Tag) -> Region:
    return Region(entries, tag.kind, tag.mean, tag.std, tag.location, tag.label)


def _moments_of(shape: tuple[int, ...], parts: list[tuple[int, Tag]]) -> Moments | None:
    """The second-order law of stretches of independent entries, as far as they are rows or have one mean."""
    mean, std = mixture(parts)
    if all(math.isclose(tag.mean, mean, rel_tol=1e-9, abs_tol=1e-12 * std) for _, tag in parts):
        return Moments.iid(shape, mean, std**2)
    row = math.prod(shape[1:])
    if any(n % row for n, _ in parts):
        return None
    rows = Moments.of_array(np.concatenate([np.full(n // row, tag.mean) for n, tag in parts]))
    noise = Moments.iid(shape, rows.mean, sum(n * tag.std**2 for n, tag in parts) / math.prod(shape))
    along = (1, *(0,) * (noise.v.ndim - 1)) if shape[0] > 1 else (0,) * noise.v.ndim
    noise.v[along] += rows.v[(-1,) * rows.v.ndim]
    return noise


def _measured(parameter: torch.Tensor, kind: str = "values") -> Law:
    values = parameter.detach().to(torch.float64).cpu().numpy()
    if values.size == 0 or (kind == "values" and (values == values.flat[0]).all()):
        value = float(values.flat[0]) if values.size else 0.0
        return Law("constant", value, 0.0, Moments.iid(values.shape, value, 0.0), low=value, high=value)
    if kind == "mixed":  # what was written in parts was drawn: the noise of the draw is no part of its law
        moments = Moments.of_sample(values)
    else:  # what does not learn is a table, such as one of sinusoids
        moments = Moments.of_array(values) if parameter.requires_grad else Moments.of_table(values)
    ends = float(values.min()), float(values.max())
    return Law(
        kind, float(values.mean()), float(values.std()), moments, low=ends[0], high=ends[1], row_spread=_row_spread(values)
    )


def _row_spread(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation over mean of the rms of rows."""
    rows = np.sqrt(np.square(values).reshape(len(values), -1).mean(1)) if values.ndim > 1 else np.zeros(1)
    return float(rows.std() / rows.mean()) if rows.mean() > 0 else 0.0


@contextmanager
def recording(file: str | None = None, seed: int = SEED, deferred: Deferred | None = None) -> Iterator[Laws]:
    """Watch how models are constructed within the block, with seeded random numbers (restored at the end).

    ``torch.compile`` returns its argument within the block.

    Args:
        file: counts as the user's source even if it is installed in ``site-packages``.
        seed: of the random numbers; laws do not depend on it.
        deferred: which tensors need no values.
    """
    laws = Laws(deferred)
    with seeded(seed), uncompiled(), owned(file), laws.watching():
        yield laws
