"""A prediction beside a measurement, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gradlint.verify.measure import Measured

__all__ = ["Comparison", "Entry", "Errors", "Predicted", "Zero", "compare"]

ZERO = 1e-3  # a gradient that is zero by symmetry must be predicted below this share of its layer's


class Facts(Protocol):
    """What is predicted of one tensor."""

    @property
    def rms(self) -> float | None:
        """Root mean square of its values."""

    @property
    def grad_rms(self) -> float | None:
        """Root mean square of its gradient."""


class Predicted(Protocol):
    """What :func:`compare` reads of an analysis."""

    @property
    def parameters(self) -> Mapping[str, Facts]:
        """By canonical name."""

    @property
    def modules(self) -> Mapping[str, Facts]:
        """By module path."""


@dataclass(frozen=True)
class Entry:
    """One number beside its prediction. ``kind`` is ``parameter`` or ``module``."""

    name: str
    kind: str
    predicted: float
    measured: float
    noise: float = 0.0

    @property
    def bits(self) -> float:
        """``log2(predicted / measured)``; infinite when the prediction is zero or not a number."""
        if not (0.0 < self.predicted < math.inf):
            return math.inf
        return math.log2(self.predicted) - math.log2(self.measured)

    def __str__(self) -> str:
        what = f"{self.kind} {self.name or '(model)'}"
        return f"{what}: {self.predicted:.4g} for {self.measured:.4g} ({self.bits:+.2f} bit)"


@dataclass(frozen=True)
class Errors:
    """The errors of one quantity, in the order of the model."""

    entries: tuple[Entry, ...]

    @property
    def median(self) -> float:
        """Median error in bits."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """95th percentile of the error in bits."""
        return self.quantile(0.95)

    @property
    def span(self) -> float:
        """Bits between the largest and the smallest measured value."""
        values = [e.measured for e in self.entries]
        return math.log2(max(values)) - math.log2(min(values)) if values else 0.0

    def quantile(self, share: float) -> float:
        """The error that ``share`` of the entries do not exceed (interpolated); 0 when there are no entries."""
        errors = sorted(abs(e.bits) for e in self.entries)
        if not errors:
            return 0.0
        place = share * (len(errors) - 1)
        low, high = errors[math.floor(place)], errors[math.ceil(place)]
        return low if low == high else low + (high - low) * (place - math.floor(place))

    def worst(self, count: int = 1) -> tuple[Entry, ...]:
        """The entries with the largest errors, the worst first."""
        return tuple(sorted(self.entries, key=lambda e: -abs(e.bits))[:count])


@dataclass(frozen=True)
class Zero:
    """A tensor measured as zero whose prediction is not: ``share`` of its layer's."""

    name: str
    kind: str
    share: float

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: measured zero, predicted {self.share:.2g} of its layer's"


@dataclass(frozen=True)
class Comparison:
    """A prediction beside a measurement.

    Args:
        gradient: errors of ``grad_rms``, parameters and module outputs together.
        forward: errors of ``rms`` of module outputs.
        initial: errors of ``rms`` of parameters: is the initialisation understood?
        small: below the floor, not counted in ``gradient``.
        zeros: measured zero, predicted otherwise.
        missing: measured but not predicted, as ``kind name``.
    """

    gradient: Errors
    forward: Errors
    initial: Errors
    small: tuple[Entry, ...]
    zeros: tuple[Zero, ...]
    missing: tuple[str, ...]


def compare(analysis: Predicted, measured: Measured) -> Comparison:
    """Errors of a prediction, as the accuracy benchmark counts them."""
    predicted = {"parameter": analysis.parameters, "module": analysis.modules}
    missing: list[str] = []
    zeros: list[Zero] = []
    small: list[Entry] = []
    gradient: list[Entry] = []
    values: dict[str, list[Entry]] = {"parameter": [], "module": []}
    for kind, sizes in (("parameter", measured.parameters), ("module", measured.modules)):
        rms: list[Entry] = []
        grads: list[Entry] = []
        for name, size in sizes.items():
            facts = predicted[kind].get(name)
            if facts is None or facts.rms is None:
                if kind == "module" and size.grad_rms is None:
                    continue  # a constant, such as a rotary table: nothing to predict
                missing.append(f"{kind} {name or '(model)'}")
                continue
            rms.append(Entry(name, kind, facts.rms, size.rms))
            if size.grad_rms is None:
                continue
            if facts.grad_rms is None:
                missing.append(f"{kind} {name or '(model)'} (gradient)")
                continue
            grads.append(Entry(name, kind, facts.grad_rms, size.grad_rms, size.noise))
        counted, below = _split(rms, measured.floor)
        values[kind] += counted
        if kind == "module":
            zeros += _zeros(rms, below, measured.floor)
        counted, below = _split(grads, measured.floor)
        gradient += counted
        small += below
        zeros += _zeros(grads, below, measured.floor)
    return Comparison(
        gradient=Errors(tuple(gradient)),
        forward=Errors(tuple(values["module"])),
        initial=Errors(tuple(values["parameter"])),
        small=tuple(small),
        zeros=tuple(zeros),
        missing=tuple(missing),
    )


def _split(entries: Sequence[Entry], floor: float) -> tuple[list[Entry], list[Entry]]:
    limit = floor * max((e.measured for e in entries), default=0.0)
    above = [e for e in entries if e.measured > limit]
    return above, [e for e in entries if e.measured <= limit]


def _zeros(entries: Sequence[Entry], below: Iterable[Entry], floor: float) -> Iterator[Zero]:
    """Those ``below`` that are zero beside the rest of their layer, and not predicted so.

    The layer is the nearest module around the tensor that holds something larger; a tensor no smaller than its layer,
    relative to ``floor``, is small because its whole layer is, which is a size like any other.
    """
    for entry in below:
        layer = entry.name
        while layer:
            layer = layer.rpartition(".")[0]
            around = [e for e in entries if not layer or e.name == layer or e.name.startswith(layer + ".")]
            largest = max(e.measured for e in around)
            if largest > 0.0 and entry.measured <= floor * largest:
                share = entry.predicted / (max(e.predicted for e in around) or 1.0)
                if not share <= ZERO:
                    yield Zero(entry.name, entry.kind, share)
                break
            if entry.measured > 0.0 and len(around) > 1:
                break


# --- one seed ---------------------------------------------------------------------------------------------------------
