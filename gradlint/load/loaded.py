"""What loading yields: a model that can be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from gradlint.findings import Location

__all__ = ["Call", "Loaded"]

_DEVICES = ("cpu", "cuda", "mps", "xpu")


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

    @classmethod
    def now(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The call that is about to be made, under the autocast that is on."""
        on = (device for device in _DEVICES if torch.is_autocast_enabled(device))
        return cls(model, args, kwargs, tuple((device, torch.get_autocast_dtype(device)) for device in on))


@dataclass(frozen=True)
class Loaded:
    """One model of a target, not built yet.

    Args:
        name: of the class, the factory or the variable in its file.
        build: constructs the model (BuildError if it cannot); for a module-level instance, returns that.
        location: where the class or factory is written; None for an instance.
        file: the file it is in; empty where a running program made it.
        instance: it exists already: ``build`` returns the same object every time.
        call: where it was captured in a running script, that call.
    """

    name: str
    build: Callable[[], nn.Module]
    location: Location | None
    file: str
    instance: bool = False
    call: Call | None = None
