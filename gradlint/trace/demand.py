"""What a call asks of one of its operands."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.trace.probe import Operand

__all__ = ["Bound", "Demand", "Entries", "Field", "Kind", "Least", "Number", "Rank", "Shape", "Size"]


@dataclass(frozen=True)
class Size:
    """Dimension ``dim`` (negative) should be ``size``."""

    operand: Operand
    dim: int
    size: int


@dataclass(frozen=True)
class Least:
    """Dimension ``dim`` (negative) should be at least ``size``."""

    operand: Operand
    dim: int
    size: int


@dataclass(frozen=True)
class Entries:
    """Each row of the first dimension should have ``count`` entries."""

    operand: Operand
    count: int


@dataclass(frozen=True)
class Rank:
    """It should have ``rank`` dimensions."""

    operand: Operand
    rank: int


@dataclass(frozen=True)
class Shape:
    """It should have exactly this shape."""

    operand: Operand
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """It should be ``float``, ``int`` or ``bool``."""

    operand: Operand
    kind: str


@dataclass(frozen=True)
class Bound:
    """Its integers should be below ``high``."""

    operand: Operand
    high: int


@dataclass(frozen=True)
class Field:
    """It should be no tensor, but have a field of this name."""

    operand: Operand
    name: str


@dataclass(frozen=True)
class Number:
    """It should be no tensor, but a plain number."""

    operand: Operand


Demand = Size | Least | Entries | Rank | Shape | Kind | Bound | Field | Number
