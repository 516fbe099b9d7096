"""Activations and gradients over depth, as points of an SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gradlint.findings import Severity, TargetReport
from gradlint.limits import LIMITS
from gradlint.report.layers import Row
from gradlint.wording import times

__all__ = ["Chart", "Mark", "Tick"]

_LEFT, _TOP, _WIDTH, _HEIGHT = 64.0, 14.0, 900.0, 300.0
_LEAST = 12.0  # bits that the axis spans at least
_MOST = 400.0  # and at most: what lies further is drawn at the edge
_STEPS = (1, 2, 4, 8, 10, 20, 40, 50, 100)


@dataclass(frozen=True)
class Tick:
    """A line of the grid, at ``y``."""

    y: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A row that a finding blames, from ``x`` on."""

    x: float
    width: float
    severity: str


@dataclass(frozen=True)
class Chart:
    """What the template draws; lengths in units of the view box.

    Args:
        xs: of each row.
        activation: pieces of the line of the activations' rms, each a list of points as SVG takes it.
        gradient: likewise, of the gradient's norm over that at the output.
        path: through the points that all gradient passes.
        band: top and height of the region that no rule calls exploding or vanishing.
        zero: where a factor of 1 is.
    """

    left: float
    top: float
    width: float
    height: float
    xs: tuple[float, ...]
    activation: tuple[str, ...]
    gradient: tuple[str, ...]
    path: tuple[str, ...]
    band: tuple[float, float]
    zero: float
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]

    @property
    def right(self) -> float:
        """The end of the axes."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The foot of the axes."""
        return self.top + self.height

    @classmethod
    def of(cls, rows: Sequence[Row], target: TargetReport) -> Chart:
        """Lay the rows of a model out."""
        low, high = _range(rows)
        step = (_WIDTH / (len(rows) - 1)) if len(rows) > 1 else _WIDTH
        xs = [_LEFT + step * at for at in range(len(rows))]

        def y(bits: float) -> float:
            return _TOP + _HEIGHT * (high - min(max(bits, low), high)) / (high - low)

        spine = {hop.node for hop in target.path}
        passed = [(x, row.gradient) for x, row in zip(xs, rows, strict=True) if row.node in spine]
        upper, lower = y(LIMITS["explode"].warning), y(LIMITS["vanish"].warning)
        return cls(
            _LEFT,
            _TOP,
            _WIDTH,
            _HEIGHT,
            tuple(round(x, 2) for x in xs),
            tuple(_lines(xs, [row.rms for row in rows], y)),
            tuple(_lines(xs, [row.gradient for row in rows], y)),
            tuple(_lines([x for x, _ in passed], [bits for _, bits in passed], y)),
            (round(upper, 2), round(lower - upper, 2)),
            round(y(0.0), 2),
            tuple(_ticks(low, high, y)),
            tuple(_marks(rows, xs, step)),
        )


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    known = [b for row in rows for b in (row.rms, row.gradient) if b is not None and math.isfinite(b)]
    low, high = min([-1.0, *known]) - 1, max([1.0, *known]) + 1
    spare = max(_LEAST - (high - low), 0.0) / 2
    return max(low - spare, -_MOST), min(high + spare, _MOST)


def _lines(xs: Sequence[float], values: Sequence[float | None], y: Callable[[float], float]) -> Iterator[str]:
    """Runs of known values; one that stands alone is a short dash."""
    run: list[str] = []
    for x, bits in [*zip(xs, values, strict=True), (0.0, None)]:
        if bits is not None and not math.isnan(bits):
            run.append(f"{x:.1f},{y(bits):.1f}")
            continue
        if len(run) == 1:
            at, _, height = run[0].partition(",")
            run = [f"{float(at) - 2:.1f},{height}", f"{float(at) + 2:.1f},{height}"]
        if run:
            yield " ".join(run)
        run = []


def _ticks(low: float, high: float, y: Callable[[float], float]) -> Iterator[Tick]:
    step = next((s for s in _STEPS if (high - low) / s <= 8), _STEPS[-1])
    for bits in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
        yield Tick(round(y(bits), 2), "×1" if bits == 0 else times(bits))


def _marks(rows: Sequence[Row], xs: Sequence[float], step: float) -> Iterator[Mark]:
    """Neighbours of one severity in one piece."""
    runs: list[tuple[int, int, Severity]] = []
    for at, row in enumerate(rows):
        if not row.findings:
            continue
        severity = row.findings[0].severity
        if runs and runs[-1][1] == at - 1 and runs[-1][2] is severity:
            runs[-1] = (runs[-1][0], at, severity)
        else:
            runs.append((at, at, severity))
    for first, last, severity in runs:
        start, end = max(xs[first] - step / 2, _LEFT), min(xs[last] + step / 2, _LEFT + _WIDTH)
        yield Mark(round(start, 2), round(end - start, 2), str(severity))
