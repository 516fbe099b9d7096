"""What loading yields: a model that can be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from gradlint.findings import Location

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded:
    """One model of a target, not built yet.

    Args:
        name: of the class, the factory or the variable in its file.
        build: constructs the model (BuildError if it cannot); for a module-level instance, returns that.
        location: where the class or factory is written; None for an instance.
        file: the file it is in.
        instance: it exists already: ``build`` returns the same object every time.
        call: the positional and keyword arguments that it was called with, where it was captured in a running script.
    """

    name: str
    build: Callable[[], nn.Module]
    location: Location | None
    file: str
    instance: bool = False
    call: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
