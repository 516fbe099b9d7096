"""The plot of the accuracy benchmark: predicted beside measured gradients of all models, on logarithmic axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradlint.verification import Comparison

SAME_FILE_EVERY_TIME = {"svg.hashsalt": "gradlint", "svg.fonttype": "none", "font.family": "sans-serif"}
LOW, HIGH = -40, 40  # bits: what lies outside is drawn at the edge


def draw(comparisons: Sequence[Comparison], file: Path) -> None:
    """Write the plot as SVG. A tensor whose gradient is predicted zero or not at all lies on the lower edge."""
    entries = [entry for comparison in comparisons for entry in comparison.gradient.entries]
    measured = [within(entry.measured) for entry in entries]
    predicted = [within(entry.predicted) for entry in entries]
    with mpl.rc_context(SAME_FILE_EVERY_TIME):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.add_subplot()
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        cells = axes.hexbin(
            measured, predicted, gridsize=80, bins="log", mincnt=1, linewidths=0, cmap="viridis", extent=(LOW, HIGH, LOW, HIGH)
        )
        figure.colorbar(cells, label="tensors")
        axes.set(xlim=(LOW - 1, HIGH + 1), ylim=(LOW - 1, HIGH + 1), aspect="equal")
        axes.set_xlabel("measured gradient rms (bits)")
        axes.set_ylabel("predicted gradient rms (bits)")
        axes.set_title(f"{len(entries)} parameters and module outputs of {len(comparisons)} models", fontsize="medium")
        figure.savefig(file, metadata={"Date": None})


def within(value: float) -> float:
    """The value in bits, moved to the edge of the plot if it lies outside."""
    if not value > 0.0:
        return LOW
    return min(max(math.log2(value), LOW), HIGH) if value < math.inf else HIGH
