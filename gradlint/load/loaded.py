"""What loading yields: a model that can be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import nn

    from gradlint.findings import Location

__all__ = ["Call", "Loaded"]


@dataclass(frozen=True)
class Call:
    """A call of a model, captured in a running script.

    Args:
        autocast: the device types whose autocast was on around it, each with its dtype.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    autocast: tuple[tuple[str, torch.dtype], ...] = ()


@dataclass(frozen=True)
class Loaded:
    """One model of a target, not built yet.

    Args:
        name: of the class, the factory or the variable in its file.
        build: constructs the model (BuildError if it cannot); for a module-level instance, returns that.
        location: where the class or factory is written; None for an instance.
        file: the file it is in.
        instance: it exists already: ``build`` returns the same object every time.
        call: where it was captured in a running script, that call.
    """

    name: str
    build: Callable[[], nn.Module]
    location: Location | None
    file: str
    instance: bool = False
    call: Call | None = None
