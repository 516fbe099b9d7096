"""Which function of ``torch.nn.init`` is running, what it is called with, and the law that it states."""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.trace.private import storage_key
from gradlint.trace.tags import Tag, truncated_normal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

__all__ = ["Initialiser"]

_FILE = nn.init.kaiming_uniform_.__code__.co_filename
_NEAR = 16  # frames between an initialiser and the operators it runs


@dataclass(frozen=True)
class Initialiser:
    """A call of a function of ``torch.nn.init``."""

    name: str
    arguments: Mapping[str, Any]

    @staticmethod
    def running() -> Initialiser | None:
        """The outermost public initialiser on the stack, if any.

        Libraries replace and wrap the functions of ``torch.nn.init``; frames are what is left of them.
        """
        frame: FrameType | None = sys._getframe(1)
        found = None
        for _ in range(_NEAR):
            if frame is None:
                break
            code = frame.f_code
            if code.co_filename == _FILE:
                if code.co_name.endswith("_") and not code.co_name.startswith("_"):
                    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
                    found = Initialiser(code.co_name, {n: frame.f_locals.get(n) for n in names})
            elif found is not None:
                break
            frame = frame.f_back
        return found

    @property
    def label(self) -> str:
        """As the user would write it, without the tensor and what is left at its default: ``normal_(std=0.02)``."""
        shown = [
            f"{name}={value:.4g}" if isinstance(value, int | float) else f"{name}={value}"
            for name, value in self.arguments.items()
            if name not in ("tensor", "generator") and _defaults(self.name).get(name) != value
        ]
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def law(self, written: torch.Tensor) -> Tag | None:
        """The law that ``written`` has in the end, where the initialiser takes several writes to get there."""
        tensor = self.arguments.get("tensor")
        if not isinstance(tensor, torch.Tensor) or storage_key(tensor) != storage_key(written):
            return None
        match self.name:
            case "trunc_normal_":
                return truncated_normal(*(float(self.arguments[name]) for name in ("mean", "std", "a", "b")))
            case "orthogonal_":
                size = max(tensor.shape[0], tensor.numel() // max(tensor.shape[0], 1), 1)
                return Tag("orthogonal", 0.0, float(self.arguments["gain"]) / math.sqrt(size))
            case "eye_" | "dirac_":
                return Tag("identity", 0.0, 0.0)
        return None


@cache
def _defaults(name: str) -> dict[str, Any]:
    function = getattr(nn.init, name, None)
    if function is None:
        return {}
    return {p.name: p.default for p in inspect.signature(inspect.unwrap(function)).parameters.values()}
