"""Blocks that repeat, the gain of each, and the law by which it adds up with depth.

Blocks are found by their module paths: ``layers.0``, ``layers.1``, … are one block repeated if the gradient passes the output of
each. Two laws of depth are told apart:

* *exponential*: each block multiplies the gradient by the same factor (plain stacks, residual sums without a norm; Schoenholz et
  al. 2017, arXiv:1611.01232, eq. 11);
* *algebraic*: block l multiplies it by ``((l + 1)/l)^a`` from the input on, so that L blocks give ``(L + 1)^a`` (a stream of
  normalised branches, a = ½; De & Smith 2020, arXiv:2002.10444, §3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradlint.facts import DepthFacts
from gradlint.limits import LIMITS
from gradlint.trace.graph import ModuleRecord

__all__ = ["DepthLaw", "Repeat", "depth_law", "find_repeats"]

_FEWEST = 3
_DEEPEST = 1e9


@dataclass(frozen=True)
class DepthLaw:
    """How the gain depends on the number of blocks.

    Args:
        kind: ``exponential`` or ``algebraic``.
        rate: bits per block, or bits per doubling of ``blocks + 1``.
        error: root mean square difference from the gains of the single blocks, in bits.
    """

    kind: str
    rate: float
    error: float

    def at(self, blocks: int) -> float:
        """Bits of gain over that many blocks."""
        return self.rate * (blocks if self.kind == "exponential" else math.log2(blocks + 1))

    def critical(self, limit: float) -> int | None:
        """The largest number of blocks whose gain stays within a limit (in bits, of either sign); None: any number does."""
        if self.rate * limit <= 0:
            return None
        depth = limit / self.rate
        depth = depth if self.kind == "exponential" else 2.0 ** min(depth, 64) - 1
        return None if depth > _DEEPEST else int(depth + 1e-9)


@dataclass(frozen=True)
class Repeat:
    """One block, repeated.

    Args:
        pattern: module path with ``{}`` for the number: ``layers.{}``.
        modules: the paths, from the input to the loss.
        log2: bits that the gradient gains in each, from the block's output to that of the block before, the first left out.
        law: of depth.
    """

    pattern: str
    modules: tuple[str, ...]
    log2: tuple[float, ...]
    law: DepthLaw

    @property
    def typical(self) -> float:
        """Bits per block, on average."""
        return sum(self.log2) / len(self.log2)

    @property
    def facts(self) -> DepthFacts:
        """The law as it is reported, for all of the blocks."""
        count = len(self.modules)
        limit = LIMITS["explode" if self.law.rate > 0 else "vanish"].warning
        return DepthFacts(self.pattern, count, self.law.kind, self.law.rate, self.law.at(count), self.law.critical(limit))


def depth_law(gains: Sequence[float]) -> DepthLaw:
    """The law that fits the gains of single blocks better, by least squares.

    Args:
        gains: from the input to the loss, the first block left out.
    """
    count = len(gains)
    steps = [math.log2((i + 1) / i) for i in range(2, count + 2)]
    found = []
    for kind, shape in (("exponential", [1.0] * count), ("algebraic", steps)):
        rate = sum(g * s for g, s in zip(gains, shape, strict=True)) / sum(s * s for s in shape)
        error = math.sqrt(sum((g - rate * s) ** 2 for g, s in zip(gains, shape, strict=True)) / count)
        found.append(DepthLaw(kind, rate, error))
    return min(found, key=lambda law: law.error)


def find_repeats(
    modules: Mapping[str, ModuleRecord], spine: Sequence[str], bits: Mapping[str, float], weighted: Iterable[str]
) -> tuple[Repeat, ...]:
    """Blocks that repeat along the spine, the outermost first.

    Args:
        modules: that were called.
        spine: nodes that all gradient passes, from the loss to the input.
        bits: log2 of the energy of every node's gradient.
        weighted: names of parameters: a block has some.
    """
    place = {name: i for i, name in enumerate(reversed(spine))}
    owners = {prefix for name in weighted for prefix in _prefixes(name)}
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for path, record in modules.items():
        pattern = _pattern(path)
        if pattern and record.output in place and record.output in bits and path in owners:
            groups.setdefault((pattern, record.type), {})[path] = place[record.output]
    found = [repeat for (pattern, _), at in groups.items() for repeat in _repeat(pattern, at, modules, bits)]
    return tuple(r for r in found if not any(_inside(r.pattern, other.pattern) for other in found))


def _repeat(
    pattern: str, at: Mapping[str, int], modules: Mapping[str, ModuleRecord], bits: Mapping[str, float]
) -> Iterator[Repeat]:
    paths = sorted(at, key=lambda path: at[path])
    if len(paths) < _FEWEST:
        return
    energies = [bits[str(modules[path].output)] for path in paths]
    gains = tuple((early - late) / 2 for early, late in pairwise(energies))
    yield Repeat(pattern, tuple(paths), gains, depth_law(gains))


def _pattern(path: str) -> str:
    """``blocks.3.attention`` as ``blocks.{}.attention``; empty without a number."""
    parts = path.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if first is None else ".".join("{}" if i == first else part for i, part in enumerate(parts))


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def _inside(pattern: str, other: str) -> bool:
    return pattern.startswith(f"{other}.")
