"""How alike different samples, and different positions of one sample, become on the way to the output.

Where ``1 − ρ`` goes to zero, a network hears one direction of the loss (the answer that all samples share) and next to nothing of
the others: correlation collapse of samples in deep stacks (Schoenholz et al. 2017, arXiv:1611.01232, §3; Hayou et al. 2019,
arXiv:1902.06853) and of tokens under attention without skips (Dong et al. 2021, arXiv:2103.03404).

Inputs are white noise, so the mean over many positions makes samples alike that are not: what lies behind one is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.paths import Segment

__all__ = ["Alike", "apart", "likeness"]

_LEAST = 1e-30
_POOLED = 16
"""Entries of which one is made by a mean that hides what samples have of their own."""


@dataclass(frozen=True)
class Alike:
    """Entries along one axis of a tensor on the spine.

    Args:
        node: whose output it is.
        axis: ``samples`` (the first) or ``positions`` (the second of three).
        log2: of ``1 − ρ``, ρ the correlation about zero of two entries that differ in that axis only.
    """

    node: str
    axis: str
    log2: float


def likeness(flowed: Flowed, segments: Sequence[Segment]) -> tuple[Alike, ...]:
    """Along the spine, from the input to the output, until positions are averaged over."""
    return tuple(_along(flowed, segments))


def _along(flowed: Flowed, segments: Sequence[Segment]) -> Iterator[Alike]:
    batch = next((spec.shape[0] for spec in flowed.traced.inputs if spec.shape), 0)
    for segment in reversed(segments):
        inner = flowed.forward.get(segment.end)
        outer = flowed.forward.get(segment.start)
        if isinstance(inner, Moments) and len(inner.dims) > 1 and inner.shape[0] == batch:
            for axis, name in ((0, "samples"), (1, "positions")):
                share = apart(inner, axis) if axis == 0 or len(inner.dims) == 3 else None
                if share is not None:
                    yield Alike(segment.end, name, math.log2(max(share, _LEAST)))
        if segment.cause == "pooling" and _size(outer) * _POOLED <= _size(inner):
            return


def _size(x: Moments | None) -> int:
    return math.prod(x.shape) if isinstance(x, Moments) else 0


def apart(x: Moments, axis: int) -> float | None:
    """``1 − ρ``: the share of the mean square that is another in two entries along an axis; None of a tensor of zeros.

    Args:
        axis: of the tensor; None is returned where it has one entry.
    """
    atoms = x.atoms(axis)
    if not atoms or not 0 < x.q < math.inf:
        return None
    common = x.v[tuple(0 if a in atoms else slice(None) for a in range(x.v.ndim))]
    return max(float(x.v.sum() - common.sum()), 0.0) / x.q
