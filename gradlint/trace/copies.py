"""Parameters that start with the same random values: layers that are copies of one layer (``copy.deepcopy``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gradlint.trace.inits import Laws

__all__ = ["Copies"]

_LOOKED_AT = 64


class Copies:
    """Finds for every parameter the first one of equal values.

    Values are compared, not histories: two layers that were drawn apart from one seed start equal as well. Histories are, where
    the values have not been drawn.
    """

    def __init__(self, laws: Laws | None = None) -> None:
        self._laws = laws
        self._drawn: dict[tuple[object, ...], str] = {}
        self._seen: dict[tuple[object, ...], list[tuple[str, torch.Tensor]]] = {}

    def first(self, name: str, parameter: torch.Tensor) -> str:
        """Name of the first parameter seen with these values; ``name`` if there is none."""
        draws = None if self._laws is None else self._laws.draws(parameter)
        if draws is not None:
            return self._drawn.setdefault((parameter.shape, parameter.dtype, *draws), name)
        values = parameter.detach()
        some = values.reshape(-1)[:: max(values.numel() // _LOOKED_AT, 1)]
        alike = self._seen.setdefault((values.shape, values.dtype, tuple(some.tolist())), [])
        for other, known in alike:
            if torch.equal(known, values):
                return other
        alike.append((name, values))
        return name
