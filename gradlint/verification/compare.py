"""A prediction beside a measurement, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gradlint.comparison import Comparison, Entry, Errors, Place, Zero
from gradlint.verification.measure import Measured

__all__ = ["ZERO", "Predicted", "compare"]

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
        """Of outputs, by module path."""

    @property
    def inputs(self) -> Mapping[str, Facts]:
        """Of floating-point inputs, by name."""


def compare(analysis: Predicted, measured: Measured) -> Comparison:
    """Errors of a prediction, as the accuracy benchmark counts them."""
    missing: list[str] = []
    overflowed: list[str] = []
    rms: dict[str, list[Entry]] = {}
    grads: dict[str, list[Entry]] = {}
    for kind, sizes, predicted in (
        ("parameter", measured.parameters, analysis.parameters),
        ("module", measured.modules, analysis.modules),
        ("input", measured.entries, analysis.inputs),
    ):
        rms[kind], grads[kind] = [], []
        for name, size in sizes.items():
            place, facts = Place(kind, name), predicted.get(name)
            if facts is None or facts.rms is None is facts.grad_rms:
                if kind != "module" or size.grad_rms is not None:  # else a constant, such as a rotary table
                    missing.append(str(place))
                continue
            if not math.isfinite(size.rms + (size.grad_rms or 0.0)):
                overflowed.append(str(place))
                continue
            if facts.rms is None:
                missing.append(f"{place} (value)")
            else:
                rms[kind].append(Entry(name, kind, facts.rms, size.rms))
            if size.grad_rms is not None and facts.grad_rms is None:
                missing.append(f"{place} (gradient)")
            elif size.grad_rms is not None and facts.grad_rms is not None:
                grads[kind].append(Entry(name, kind, facts.grad_rms, size.grad_rms, size.noise))
    initial, _ = _split(rms["parameter"], measured.floor)
    forward, dead = _split(rms["module"], measured.floor)
    zeros = list(_zeros(rms["module"], dead, measured.floor))
    gradient: list[Entry] = []
    small: list[Entry] = []
    for kind in ("parameter", "module"):
        counted, below = _split(grads[kind], measured.floor)
        gradient += counted
        small += below
        zeros += _zeros(grads[kind], below, measured.floor)
    return Comparison(
        gradient=Errors(tuple(gradient)),
        forward=Errors(tuple(forward)),
        initial=Errors(tuple(initial)),
        small=tuple(small),
        zeros=tuple(zeros),
        missing=tuple(missing),
        overflowed=tuple(overflowed),
        inputs=tuple(grads["input"]),
        seeds=measured.seeds,
        dtype=measured.dtype,
        redrawn=measured.redrawn,
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
