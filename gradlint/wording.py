"""Numbers and names as a reader of findings knows them. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["bits", "collapse", "covered", "times"]

_GAP = re.compile(r"\{(\d+)…(\d+)\}")


def bits(gain: float) -> float:
    """log2."""
    return math.log2(gain)


def times(log2: float) -> str:
    """A gain in bits as the factor a reader knows: ``×4.3e5``."""
    if abs(log2) > 1000:
        return f"×2^{log2:.0f}"
    factor = 2.0**log2
    if 100 <= factor < 1e4:
        text = f"{factor:.0f}"
    elif 1e-3 <= factor < 100:
        text = f"{factor:.2g}"
    else:
        mantissa, _, exponent = f"{factor:.1e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return f"×{text}"


def collapse(names: Iterable[str]) -> str:
    """``blocks.0.fc, blocks.1.fc, …`` as ``blocks.{0…47}.fc``."""
    patterns: dict[str, list[int]] = {}
    for name in names:
        match = re.search(r"\d+", name)
        key = name if match is None else name[: match.start()] + "{}" + name[match.end() :]
        patterns.setdefault(key, []).append(-1 if match is None else int(match.group()))
    shown = []
    for key, numbers in patterns.items():
        if numbers == [-1] * len(numbers):
            shown.append(key)
        elif len(numbers) == 1:
            shown.append(key.replace("{}", str(numbers[0])))
        else:
            shown.append(key.replace("{}", f"{{{min(numbers)}…{max(numbers)}}}"))
    return ", ".join(shown)


def covered(name: str, pattern: str) -> bool:
    """Whether a name is one of those that :func:`collapse` wrote as ``pattern``.

    >>> covered("blocks.12.fc", "blocks.{0…47}.fc")
    True
    """
    shape, spans = _parsed(pattern)
    found = shape.fullmatch(name)
    return found is not None and all(int(number) in span for number, span in zip(found.groups(), spans, strict=True))


@lru_cache
def _parsed(pattern: str) -> tuple[re.Pattern[str], tuple[range, ...]]:
    """What a pattern looks like, and which numbers each of its gaps may hold."""
    texts, ends = _GAP.split(pattern), _GAP.findall(pattern)
    shape = r"(\d+)".join(re.escape(text) for text in texts[::3])
    return re.compile(shape), tuple(range(int(first), int(last) + 1) for first, last in ends)
