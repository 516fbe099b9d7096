"""Which function of ``torch.nn.init`` wrote a weight, and with what: read from the label of its law."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gradlint.rule import Context, Layer

__all__ = ["Initialiser", "initialiser"]


@dataclass(frozen=True)
class Initialiser:
    """An initialiser and the arguments that differ from their defaults, as text."""

    name: str
    arguments: Mapping[str, str]

    def number(self, name: str, default: float) -> float:
        """A numeric argument."""
        text = self.arguments.get(name, "")
        return float(text) if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text) else default

    @property
    def constructor(self) -> bool:
        """What ``nn.Linear`` and ``nn.Conv2d`` do by themselves: ``kaiming_uniform_(a=√5)``."""
        return self.name == "kaiming_uniform_" and self.arguments.get("a") == "2.236"


def initialiser(context: Context, layer: Layer) -> Initialiser | None:
    """What wrote a layer's weight; None where it was no function of ``torch.nn.init``."""
    match = re.fullmatch(r"(\w+_)(?:\((.*)\))?", context.parameters[layer.weight].law.label)
    if match is None:
        return None
    pairs = (part.partition("=") for part in (match[2] or "").split(", ") if "=" in part)
    return Initialiser(match[1], {name.strip(): value.strip() for name, _, value in pairs})
