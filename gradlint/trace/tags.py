"""Closed-form laws of one stretch of memory, and what affine writes do to them. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradlint.findings import Location

__all__ = ["Regions", "Tag", "erfinv_of_uniform", "mixture", "truncated_normal"]

_UNIT = NormalDist()


@dataclass(frozen=True)
class Tag:
    """The law of entries that are independent draws (or one constant).

    Args:
        low: end of the support.
        high: end of the support.
        core: mean and standard deviation of the Gaussian of which this is the part within the support.
        draw: tags with the same number describe the same draws; 0 is none of them.
    """

    kind: str
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf
    location: Location | None = None
    label: str = ""
    core: tuple[float, float] | None = None
    draw: int = 0

    @staticmethod
    def constant(value: float) -> Tag:
        """All entries are ``value``."""
        return Tag("constant", value, 0.0, value, value)

    @staticmethod
    def uniform(low: float, high: float) -> Tag:
        """Uniform over an interval."""
        return Tag("uniform", (low + high) / 2, (high - low) / math.sqrt(12), low, high)

    @staticmethod
    def normal(mean: float, std: float) -> Tag:
        """Gaussian."""
        return Tag("normal", mean, std)

    @staticmethod
    def bernoulli(p: float) -> Tag:
        """1 with probability p, else 0."""
        return Tag("bernoulli", p, math.sqrt(p * (1 - p)), 0.0, 1.0)

    @staticmethod
    def uninitialised() -> Tag:
        """Memory as it was handed out; whatever is made of it is no better."""
        return Tag("uninitialised", 0.0, 0.0)

    @staticmethod
    def unknown() -> Tag:
        """No closed form."""
        return Tag("values", math.nan, math.nan)

    @property
    def known(self) -> bool:
        """There is a closed form."""
        return self.kind != "values"

    def affine(self, scale: float, shift: float = 0.0) -> Tag:
        """The law of ``scale·x + shift``."""
        if self.kind == "uninitialised":
            return self
        if scale == 0.0:
            return Tag.constant(shift)
        ends = sorted((self.low * scale + shift, self.high * scale + shift))
        kind = "identity" if self.kind == "identity" and shift == 0.0 else self.kind
        mean, std = self.mean * scale + shift, self.std * abs(scale)
        core = None if self.core is None else (self.core[0] * scale + shift, self.core[1] * abs(scale))
        return replace(self, kind=kind, mean=mean, std=std, low=ends[0], high=ends[1], label="", core=core)

    def same_law(self, other: Tag) -> bool:
        """Both describe the same distribution (wherever and however it was written)."""
        return (
            self.kind == other.kind
            and math.isclose(self.mean, other.mean, rel_tol=1e-9, abs_tol=1e-15)
            and math.isclose(self.std, other.std, rel_tol=1e-9, abs_tol=1e-15)
        )


@dataclass(frozen=True)
class Regions:
    """The laws of consecutive stretches ``(start, stop, tag)`` of one storage; one may be unknown.

    Args:
        scattered: something in it was written through a view that is not one stretch, last by ``scattered``.
    """

    parts: tuple[tuple[int, int, Tag], ...] = ()
    scattered: Tag | None = None

    @property
    def drawable(self) -> bool:
        """New draws from these laws are as good as those that were made."""
        drawable = ("normal", "uniform", "constant", "orthogonal", "bernoulli", "uninitialised")
        return self.scattered is None and all(tag.kind in drawable for _, _, tag in self.parts)

    def write(self, start: int, stop: int, tag: Tag) -> Regions:
        """After ``[start, stop)`` was overwritten."""
        parts: list[tuple[int, int, Tag]] = [(start, stop, tag)]
        whole = True
        for first, last, old in self.parts:
            for a, b in ((first, min(last, start)), (max(first, stop), last)):
                if a < b:
                    parts.append((a, b, old))
                    whole = False
        return Regions(tuple(sorted(parts, key=lambda part: part[:2])), None if whole else self.scattered)

    def between(self, start: int, stop: int) -> list[tuple[int, Tag | None]]:
        """Lengths and laws of the stretches of ``[start, stop)``; what was never written has no law."""
        found: list[tuple[int, Tag | None]] = []
        at = start
        for first, last, tag in self.parts:
            a, b = max(first, at), min(last, stop)
            if a < b:
                if a > at:
                    found.append((a - at, None))
                found.append((b - a, tag))
                at = b
        if at < stop:
            found.append((stop - at, None))
        return found

    def common(self, start: int, stop: int) -> Tag | None:
        """The one law of ``[start, stop)``, if it has one."""
        if self.scattered is not None:
            return None
        tags = [tag for _, tag in self.between(start, stop)]
        first = tags[0] if tags else None
        if first is None or not first.known or any(tag is None or not tag.same_law(first) for tag in tags):
            return None
        return first


def mixture(parts: Sequence[tuple[int, Tag]]) -> tuple[float, float]:
    """Mean and standard deviation over the entries of stretches of the given lengths."""
    total = sum(n for n, _ in parts)
    mean = sum(n * tag.mean for n, tag in parts) / total
    square = sum(n * (tag.std**2 + tag.mean**2) for n, tag in parts) / total
    return mean, math.sqrt(max(square - mean**2, 0.0))


def truncated_normal(mean: float, std: float, low: float, high: float) -> Tag:
    """A Gaussian conditioned on ``[low, high]``."""
    if std <= 0:
        return Tag.constant(min(max(mean, low), high))
    a, b = (low - mean) / std, (high - mean) / std
    mass = _UNIT.cdf(b) - _UNIT.cdf(a)
    if mass < 1e-12:
        return Tag.uniform(low, high)
    at_a, at_b = _UNIT.pdf(a), _UNIT.pdf(b)
    first = (at_a - at_b) / mass
    second = 1 + ((a * at_a if math.isfinite(a) else 0.0) - (b * at_b if math.isfinite(b) else 0.0)) / mass
    return Tag("normal", mean + std * first, std * math.sqrt(max(second - first**2, 0.0)), low, high, core=(mean, std))


def erfinv_of_uniform(low: float, high: float) -> Tag:
    """``erfinv(u)`` for uniform u: a Gaussian of variance 1/2 (of which ``low``, ``high`` cut the tails)."""
    ends = [_UNIT.inv_cdf((1 + u) / 2) if -1 < u < 1 else math.copysign(math.inf, u) for u in (low, high)]
    return truncated_normal(0.0, 1.0, ends[0], ends[1]).affine(1 / math.sqrt(2))
