"""The gradient's gain as a waterfall: what each cause multiplies it by, down to the total."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradlint.findings import Hop
from gradlint.wording import times

__all__ = ["Bar", "Waterfall"]

_SPAN = 400.0


@dataclass(frozen=True)
class Bar:
    """One cause.

    Args:
        x: where it starts, whichever way it goes.
        text: its factor.
        kind: ``grows``, ``shrinks`` or ``total``.
    """

    cause: str
    count: int
    x: float
    width: float
    text: str
    kind: str


@dataclass(frozen=True)
class Waterfall:
    """The bars, and where a factor of 1 is."""

    bars: tuple[Bar, ...]
    zero: float
    span: float = _SPAN

    @classmethod
    def of(cls, path: Sequence[Hop]) -> Waterfall | None:
        """Hops by cause, the largest first; their bits add up to the last bar. None without a path."""
        sums: dict[str, list[float]] = {}
        for hop in path:
            if math.isfinite(hop.log2):
                sums.setdefault(hop.cause, []).append(hop.log2)
        causes = sorted(((cause, sum(all_), len(all_)) for cause, all_ in sums.items()), key=lambda c: (-abs(c[1]), c[0]))
        if not causes:
            return None
        ends = [0.0]
        for _, log2, _ in causes:
            ends.append(ends[-1] + log2)
        low, high = min(ends), max(ends)
        scale = _SPAN / max(high - low, 1.0)

        def bar(cause: str, count: int, start: float, end: float, kind: str) -> Bar:
            x = (min(start, end) - low) * scale
            return Bar(cause, count, round(x, 2), round(max(abs(end - start) * scale, 1.0), 2), times(end - start), kind)

        bars = [
            bar(cause, count, start, start + log2, "grows" if log2 >= 0 else "shrinks")
            for (cause, log2, count), start in zip(causes, ends, strict=False)
        ]
        return cls((*bars, bar("end to end", len(path), 0.0, ends[-1], "total")), round(-low * scale, 2))
