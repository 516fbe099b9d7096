"""The model as a tree of blocks, with what the gradient gains in each."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from gradlint.findings import TargetReport
from gradlint.report.view import relative
from gradlint.wording import times

__all__ = ["tree"]


def tree(target: TargetReport, root: Path) -> list[Any]:
    """Nested lists, to be short: name, class, place, gain, rms, children. The first is the model.

    A block's gain is that of the gradient's way through it; empty where the way does not lead through.
    """
    gains: dict[str, float] = defaultdict(float)
    for hop in target.path:
        for path in _above(hop.module):
            gains[path] += hop.log2
    children: dict[str, list[str]] = defaultdict(list)
    known = {module.name: module for module in target.modules}
    for name in known:
        if name:
            parents = [path for path in _above(name)[1:] if path in known or not path]
            children[parents[0] if parents else ""].append(name)

    def entry(name: str) -> list[Any]:
        module = known.get(name)
        place = module.location if module is not None else target.location
        return [
            name.rpartition(".")[2] if name in children or name else "model",
            "" if module is None else module.type,
            "" if place is None else f"{relative(place.path, root)}:{place.line}",
            times(gains[name]) if name in gains and math.isfinite(gains[name]) else "",
            "" if module is None or not module.rms else times(math.log2(module.rms)),
            [entry(child) for child in children.get(name, ())],
        ]

    top = entry("")
    top[0] = "model"
    return top


def _above(name: str) -> list[str]:
    """A path and all that it lies in, the model last."""
    parts = name.split(".") if name else []
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
