"""A prediction beside what real backward passes gave: what is compared, in bits. Frozen, JSON-able, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Claim", "Comparison", "Entry", "Errors", "Place", "Zero", "significant"]


class Place(NamedTuple):
    """A tensor that a real run can look at: ``kind`` is ``parameter``, ``module`` (its output) or ``input``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name or '(model)'}"


@dataclass(frozen=True)
class Claim:
    """What a finding says of gradients, in terms that a real backward pass can check.

    Args:
        end: the tensors whose gradient is meant.
        log2: bits of gradient norm gained from ``start`` to ``end``; ``-inf``: no gradient arrives at any ``end``.
        start: the tensor nearer the loss; None is the model's output, where the gradient is drawn.
        usual: of a gradient that is zero: the rms whose rounding noise counts as zero.
    """

    end: tuple[Place, ...]
    log2: float
    start: Place | None = None
    usual: float = 0.0


@dataclass(frozen=True)
class Entry:
    """One number beside its prediction.

    Args:
        kind: ``parameter``, ``module`` or ``input``, as in :class:`Place`.
        predicted: root mean square.
        measured: the same over entries and seeds.
        noise: standard error of ``log2(measured)``, in bits, from the spread between seeds.
    """

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
        if self.measured <= 0.0:
            return math.inf
        return math.log2(self.predicted) - math.log2(self.measured)

    def __str__(self) -> str:
        return f"{Place(self.kind, self.name)}: {self.predicted:.4g} for {self.measured:.4g} ({self.bits:+.2f} bit)"

    def to_dict(self) -> dict[str, Any]:
        """The entry as the JSON report shows it; ``bits`` is null where either number is zero."""
        bits = self.bits
        return {
            "kind": self.kind,
            "name": self.name,
            "predicted": significant(self.predicted),
            "measured": significant(self.measured),
            "bits": significant(bits) if math.isfinite(bits) else None,
            "noise": significant(self.noise),
        }


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
        small: below the floor of the precision, not counted in ``gradient``: measured zero, or next to it.
        zeros: measured zero, predicted otherwise.
        missing: measured but not predicted, as ``kind name``.
        overflowed: what the real run made infinite or not a number, as ``kind name``; not counted.
        inputs: gradients of the model's floating-point inputs, not counted in ``gradient``.
        seeds: real backward passes.
        dtype: the precision they ran in.
        redrawn: each seed drew the weights anew; else they are those of an instance.
    """

    gradient: Errors
    forward: Errors
    initial: Errors
    small: tuple[Entry, ...]
    zeros: tuple[Zero, ...]
    missing: tuple[str, ...]
    overflowed: tuple[str, ...] = ()
    inputs: tuple[Entry, ...] = ()
    seeds: int = 0
    dtype: str = ""
    redrawn: bool = True

    def __str__(self) -> str:
        errors = f"off by {self.gradient.median:.2f} bit in the median, {self.gradient.p95:.2f} bit at the 95th percentile"
        text = f"{len(self.gradient.entries)} gradients {errors}"
        for what, where in (
            ("measured zero but not predicted so", self.zeros),
            ("not predicted", self.missing),
            ("overflowed", self.overflowed),
        ):
            if where:
                text += f"; {len(where)} {what}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """The comparison as the JSON report shows it."""
        return {
            "seeds": self.seeds,
            "dtype": self.dtype,
            "redrawn": self.redrawn,
            "gradient": {"median": significant(self.gradient.median), "p95": significant(self.gradient.p95)},
            "forward": {"median": significant(self.forward.median), "p95": significant(self.forward.p95)},
            "entries": [e.to_dict() for e in (*self.inputs, *self.gradient.entries, *self.small)],
            "zeros": [f"{z.kind} {z.name}" for z in self.zeros],
            "missing": list(self.missing),
            "overflowed": list(self.overflowed),
        }


def significant(value: float | str | None, digits: int = 6) -> float | int | str | None:
    """Round to ``digits`` significant digits so that reports are the same bytes on every machine."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}")
