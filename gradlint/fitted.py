"""Thresholds fitted on the fit half of the trainability benchmark.

Written by ``python -m benchmarks.trainability fit``, not by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FITTED", "SOURCE"]

SOURCE = "bound set by healthy models; a fit on 500 networks asks for nothing laxer (python -m benchmarks.trainability fit)"

FITTED: Mapping[str, tuple[float, float]] = {
    "explode": (9.0, 11.0),
    "vanish": (-10.5, -13.0),
    "memory": (-6.5, -8.0),
    "steep": (14.0, 17.0),
}
"""Warning and error by quantity, in bits."""
