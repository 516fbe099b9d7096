"""Gradients that have met, in floats of a range of their own.

Squares of gradients leave the range of floats after some hundred layers that halve them. So each is kept times a power of two,
its *unit*, which changes where the number itself would become very large or very small; elsewhere the unit is what it was.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable
from typing import Any, Generic, SupportsIndex, TypeVar

from gradlint.moments import Moments

__all__ = ["Gathered", "in_units"]

K = TypeVar("K", bound=Hashable)

_FAR = 2.0**400
"""Mean squares between 1/this and this stay as they are; their squares are floats, too."""


class Gathered(Generic[K]):
    """What has arrived at every key.

    Args:
        meet: adds two gradients.
    """

    def __init__(self, meet: Callable[[Any, Any], Any]) -> None:
        self.grads: dict[K, Any] = {}
        self.units: dict[K, int] = {}
        self._meet = meet

    def add(self, key: K, grad: Any, unit: int) -> None:
        """``grad·2^unit`` has arrived (None: nothing has); a tuple where the tensor is one."""
        if grad is None:
            return
        if key in self.grads:
            had, unit = unit, max(unit, self.units[key])
            grad = self._meet(in_units(self.grads[key], self.units[key] - unit), in_units(grad, had - unit))
        self.grads[key], self.units[key] = grad, unit

    def add_member(self, key: K, member: tuple[SupportsIndex, int], grad: Any, unit: int) -> None:
        """The gradient of one member of a tuple (its number, and how many there are) waits in a tuple."""
        index, width = member
        at = operator.index(index) % width
        self.add(key, tuple(grad if i == at else None for i in range(width)), unit)

    def repeat(self, key: K, like: K, bits: float, unit: int) -> None:
        """What has arrived is what has at another key, times ``2^(bits + unit)``."""
        if like in self.grads:
            self.grads[key], self.units[key] = in_units(self.grads[like], bits), self.units[like] + unit

    def settle(self, key: K) -> Any:
        """What has arrived, if anything has; in another unit where it has left the range."""
        grad = self.grads.get(key)
        if isinstance(grad, Moments) and grad.q > 0 and not 1 / _FAR < grad.q < _FAR and math.isfinite(grad.q):
            shift = math.frexp(grad.q)[1] // 2
            self.grads[key], self.units[key] = in_units(grad, -shift), self.units[key] + shift
        return self.grads.get(key)


def in_units(grad: Any, shift: float) -> Any:
    """``grad·2^shift``, of every member of a tuple."""
    if shift == 0 or grad is None:
        return grad
    if isinstance(grad, tuple):
        return tuple(in_units(member, shift) for member in grad)
    return grad.scale(2.0**shift)
