"""The law recorder: which distribution each parameter was drawn from, by watching what writes it.

Below ``torch.nn.init`` and below ``tensor.normal_()`` there are aten operators; a dispatch mode sees each of them. For
every storage the recorder keeps :class:`~gradlint.trace.tags.Regions`: the laws of its stretches, updated under affine
operators and copies. What has no closed form is measured on the real values.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from gradlint.moments import Moments
from gradlint.trace.initialisers import Initialiser
from gradlint.trace.law import Law
from gradlint.trace.private import DispatchMode, StorageWeakRef, hold, operator_name, storage_key
from gradlint.trace.source import Construction, locate, owned, transparent
from gradlint.trace.state import SEED, seeded, uncompiled
from gradlint.trace.tags import Regions, Tag, mixture
from gradlint.trace.tree import tensors_in
from gradlint.trace.writes import LAWFUL, Write, law_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Laws", "recording"]

_INDEPENDENT = ("normal", "uniform", "constant", "orthogonal", "bernoulli")


class Laws:
    """What construction told: the laws of parameters and the lines of modules. Made by :func:`recording`."""

    def __init__(self) -> None:
        self.construction = Construction()
        self._storages: dict[int, tuple[StorageWeakRef, Regions]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what is constructed and written within the block."""
        with self.construction.watching(), self.writes():
            yield

    @contextmanager
    def writes(self) -> Iterator[None]:
        """Record what is written within the block."""
        with _Watcher(self):
            yield

    def law(self, parameter: torch.Tensor) -> Law:
        """The law of a parameter; measured on its values where no initialiser was seen."""
        tag = self.common(parameter)
        if tag is not None and tag.kind in _INDEPENDENT:
            return _independent(tag, parameter)
        if tag is not None:
            return replace(_measured(parameter, tag.kind), location=tag.location, label=tag.label)
        regions, span = self._regions(parameter), _span(parameter)
        if regions is None or span is None:
            return _measured(parameter)
        parts = [(n, part) for n, part in regions.between(*span) if part is not None]
        last = regions.scattered or (parts[-1][1] if parts else None)
        if last is None or (len(parts) == 1 and regions.scattered is None):
            return replace(_measured(parameter), location=None if last is None else last.location)
        measured = replace(_measured(parameter, "mixed"), location=last.location, label=last.label)
        if regions.scattered is None and sum(n for n, part in parts if part.known) == parameter.numel():
            mean, std = mixture(parts)
            return replace(measured, mean=mean, std=std, label="")
        return measured

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

    def knows(self, tensor: torch.Tensor) -> bool:
        """Something with a law was written to the tensor's memory before."""
        return self._regions(tensor) is not None

    def write(self, tensor: torch.Tensor, tag: Tag) -> None:
        """``tensor`` was overwritten with draws from ``tag``."""
        key = storage_key(tensor)
        if key is None or tensor.numel() == 0 or (not tag.known and key not in self._storages):
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
    return Law(tag.kind, tag.mean, tag.std, moments, tag.location, tag.label)


def _measured(parameter: torch.Tensor, kind: str = "values") -> Law:
    values = parameter.detach().to(torch.float64).cpu().numpy()
    if values.size == 0 or (kind == "values" and (values == values.flat[0]).all()):
        value = float(values.flat[0]) if values.size else 0.0
        return Law("constant", value, 0.0, Moments.iid(values.shape, value, 0.0))
    if kind == "mixed":  # what was written in parts was drawn: the noise of the draw is no part of its law
        moments = Moments.of_sample(values)
    else:  # what does not learn is a table, such as one of sinusoids
        moments = Moments.of_array(values) if parameter.requires_grad else Moments.of_table(values)
    return Law(kind, float(values.mean()), float(values.std()), moments)


class _Watcher(DispatchMode):
    def __init__(self, laws: Laws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._laws = laws

    @transparent
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = operator_name(func)
        out = kwargs.get("out")
        written = out if out is not None else args[0] if name.endswith("_") and args else None
        if written is None and name not in LAWFUL and Initialiser.running() is None:
            return result  # new memory, of which nothing is known
        if isinstance(written, torch.Tensor):
            self._update(name, args, kwargs, written)
        elif name == "linalg_qr":
            self._laws.write(result[0], self._orthonormal(args[0], result[0]))
        else:
            for tensor in tensors_in(result):
                if not self._is_view(tensor, args):
                    self._update(name, args, kwargs, tensor)
        return result

    def _update(self, name: str, args: Any, kwargs: Mapping[str, Any], result: torch.Tensor) -> None:
        """Write the new law of ``result``, with the user's line and the initialiser's name."""
        tag = law_after(Write(name.removesuffix("_"), args, kwargs, result, self._laws.common))
        initialiser = Initialiser.running()
        if initialiser is not None:
            tag = initialiser.law(result) or tag
        if tag is None:
            tag = Tag.unknown()
        if tag.known or self._laws.knows(result):
            label = "" if initialiser is None else initialiser.label
            tag = replace(tag, location=locate() or tag.location, label=label)
        self._laws.write(result, tag)

    def _is_view(self, tensor: torch.Tensor, args: Any) -> bool:
        key = storage_key(tensor)
        return any(storage_key(t) == key for t in tensors_in(args))

    def _orthonormal(self, source: torch.Tensor, q: torch.Tensor) -> Tag:
        """The law of the orthonormal factor of a Gaussian matrix: uniform over rotations."""
        drawn = self._laws.common(source)
        if drawn is None or drawn.kind != "normal" or drawn.mean != 0.0:
            return Tag.unknown()
        return Tag("orthogonal", 0.0, 1 / math.sqrt(max(q.shape[-2:])))


@contextmanager
def recording(file: str | None = None, seed: int = SEED) -> Iterator[Laws]:
    """Watch how models are constructed within the block, with seeded random numbers (restored at the end).

    ``torch.compile`` returns its argument within the block.

    Args:
        file: counts as the user's source even if it is installed in ``site-packages``.
        seed: of the random numbers; laws do not depend on it.
    """
    laws = Laws()
    with seeded(seed), uncompiled(), owned(file), laws.watching():
        yield laws
