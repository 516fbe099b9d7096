"""Number formats: what each tensor is computed in, and what the format can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradlint.rule import Context, Op

__all__ = ["FORMATS", "SCALE", "Format", "format_of", "half", "peak"]

SCALE = 16.0
"""log2 of the loss scale that torch.amp.GradScaler starts with."""

_PRODUCTS = ("linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Args:
        high: the largest number.
        low: what rounds to zero: half the smallest subnormal number.
    """

    name: str
    high: float
    low: float


FORMATS: Mapping[str, Format] = {
    "float16": Format("float16", 65504.0, 2.0**-25),
    "bfloat16": Format("bfloat16", 3.39e38, 2.0**-134),
    "float32": Format("float32", 3.4028e38, 2.0**-150),
    "float64": Format("float64", 1.797e308, 2.0**-1075),
}


def format_of(context: Context, call: Op) -> Format | None:
    """What a call computes in: its dtype as traced, or what mixed precision makes of it."""
    given = context.steps[call.name].autocast
    mixed = given or next(iter(context.recipe.precisions), "") if context.recipe is not None else given
    name = {"fp16": "float16", "bf16": "bfloat16"}.get(mixed or "", mixed or "")
    if call.dtype == "float32" and name in FORMATS and (call.op in _PRODUCTS or call.op.startswith("conv")):
        return FORMATS[name]
    return FORMATS.get(call.dtype)


def half(context: Context) -> bool:
    """Some gradient is kept in float16."""
    calls = context.evidence.ops.calls.values()
    return any((found := format_of(context, call)) is not None and found.name == "float16" for call in calls)


def peak(rms: float, entries: int) -> float:
    """Size of the largest of so many normal entries."""
    return rms * math.sqrt(2 * math.log(max(entries, 2)))
