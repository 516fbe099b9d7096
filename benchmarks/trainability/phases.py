"""Verdict beside measurement over depth and weight variance, as in figure 5 of Schoenholz et al. 2017 (arXiv:1611.01232).

Plain networks of 64 units on the digits, trained with SGD (0.1): tanh with biases of variance 0.05, ReLU without biases. What
training did is kept in phases.jsonl; the verdict is drawn over it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.lines
import matplotlib.patches
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from benchmarks._scatter import SAME_FILE_EVERY_TIME
from benchmarks.trainability.configurations import Configuration
from benchmarks.trainability.networks import build
from benchmarks.trainability.predictions import predict
from benchmarks.trainability.tasks import task_of
from benchmarks.trainability.training import OPTIMISERS, train

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).resolve().parent / "phases.jsonl"
PLOT = Path(__file__).resolve().parents[1] / "trainability.svg"
DEPTHS = (4, 8, 16, 32, 64)
STDS = {
    "tanh": (0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2.0, 2.6, 3.5),
    "relu": (0.7, 0.9, 1.1, 1.25, 1.414, 1.6, 1.8, 2.2, 2.8),
}
BIASES = {"tanh": 0.05**0.5, "relu": 0.0}
WIDTH = 64
COLOURS = {"trained": "#e8f1e4", "stuck": "#c9c4dd", "diverged": "#f0c9b8"}
MARKS = {"": ("", ""), "warning": ("o", "#8a6d00"), "error": ("X", "#8f1d14")}


@dataclass(frozen=True)
class Point:
    """One network of the map."""

    activation: str
    depth: int
    std: float

    @property
    def configuration(self) -> Configuration:
        return Configuration(
            seed=0,
            family="mlp",
            task="digits",
            depth=self.depth - 1,  # the first layer is one of them
            width=WIDTH,
            activation=self.activation,
            initialiser="normal",
            gain=self.std,
            bias=BIASES[self.activation],
            norm="none",
            place="plain",
            scale=1.0,
            learned=False,
            head=1.0,
            radius=0.0,
            forget=0.0,
            unrolled=False,
        )


def points() -> Iterator[Point]:
    for activation, stds in STDS.items():
        for depth in DEPTHS:
            for std in stds:
                yield Point(activation, depth, std)


def measured() -> dict[Point, str]:
    """The label of every point; those that are not in the file are trained now."""
    known: dict[Point, str] = {}
    if FILE.exists():
        for line in FILE.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            known[Point(row["activation"], row["depth"], row["std"])] = row["sgd"]
    torch.set_flush_denormal(True)
    for point in points():
        if point in known:
            continue
        c = point.configuration
        torch.manual_seed(c.seed)
        known[point] = train(build(c), task_of(c), OPTIMISERS["sgd"], c.seed).label
        row = {"activation": point.activation, "depth": point.depth, "std": point.std, "sgd": known[point]}
        with FILE.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
    return known


def draw() -> None:
    """Write the plot."""
    labels = measured()
    verdicts = {point: worst(point) for point in points()}
    with mpl.rc_context(SAME_FILE_EVERY_TIME):
        figure = Figure(figsize=(8.4, 3.8), layout="constrained")
        for axes, activation in zip(figure.subplots(1, 2), STDS, strict=True):
            stds = STDS[activation]
            grid = [[list(COLOURS).index(labels[Point(activation, depth, std)]) for std in stds] for depth in DEPTHS]
            axes.imshow(grid, cmap=ListedColormap(list(COLOURS.values())), vmin=-0.5, vmax=2.5, origin="lower", aspect="auto")
            for row, depth in enumerate(DEPTHS):
                for column, std in enumerate(stds):
                    marker, colour = MARKS[verdicts[Point(activation, depth, std)]]
                    if marker:
                        axes.plot(column, row, marker, color=colour, markersize=7)
            axes.set_xticks(range(len(stds)), [f"{std:g}" for std in stds])
            axes.set_yticks(range(len(DEPTHS)), [str(depth) for depth in DEPTHS])
            axes.set_xlabel("σ_w")
            axes.set_ylabel("layers")
            axes.set_title(activation, fontsize="medium")
        handles = [mpl.patches.Patch(color=colour, label=f"{label} (SGD)") for label, colour in COLOURS.items()]
        handles += [
            mpl.lines.Line2D([], [], linestyle="", marker=mark, color=colour, label=f"verdict: {name}")
            for name, (mark, colour) in MARKS.items()
            if mark
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
        figure.savefig(PLOT, metadata={"Date": None})


def worst(point: Point) -> str:
    """The worst severity of a finding; empty without one."""
    found = set((predict(point.configuration, judged=True).findings or {}).values())
    return "error" if "error" in found else "warning" if found else ""
