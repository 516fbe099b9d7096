"""How long does the analysis take? In forward and backward passes of the real model, and against the number of layers.

    python -m benchmarks.speed                   both tables
    python -m benchmarks.speed --only resnet     models whose name contains it (or matches the pattern), no scaling
    python -m benchmarks.speed --processes       what processes of their own cost, alone
    python -m benchmarks.speed --write           also commit the tables to README.md

Only ratios within one process mean anything: a pass of the real model is timed just before its analysis, on the same core.
Times are of the processor, the best of a few.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import gc
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks import _processes as processes
from benchmarks._tables import between
from benchmarks.accuracy import imported, load, real_seconds, targets
from gradlint.analysis import Analysis
from gradlint.config import Settings
from gradlint.flow import propagate
from gradlint.packs import load_rules
from gradlint.rule import Context
from gradlint.trace import build, parse_input, recording, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STAGES = ("trace", "flow", "spread", "rules")
REPEATS = 2
DEPTHS = (10, 100, 1000, 10_000)
HEAD = ("model", "nodes", "real ms", *STAGES, "× real")
SCALING = ("layers", "nodes", "seconds", *(f"{stage} ms/node" for stage in STAGES), "MB", "kB/node", "findings")


@dataclass(frozen=True)
class Timed:
    """Seconds of each stage of one analysis; the rules include the paths."""

    nodes: int
    seconds: dict[str, float]
    findings: tuple[str, ...]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def timed(factory: Callable[[], nn.Module], inputs: Sequence[Any]) -> Timed:
    """One analysis; building the model does not count."""
    rules = load_rules().choose(Settings())
    with recording() as laws:
        model = build(factory)
    gc.collect()
    marks = [time.process_time()]
    traced = trace(model, list(inputs), laws=laws)
    marks.append(time.process_time())
    analysis = Analysis.of(propagate(traced))
    marks.append(time.process_time())
    analysis.spreads  # noqa: B018 - it is worked out when it is asked for
    marks.append(time.process_time())
    context = Context(analysis, "model", Settings())
    found = [finding.code for rule in rules for finding in rule.check(context)]
    marks.append(time.process_time())
    seconds = {stage: marks[i + 1] - marks[i] for i, stage in enumerate(STAGES)}
    return Timed(len(traced.graph.nodes), seconds, tuple(sorted(set(found))))


# --- against a pass of the real model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One model of the zoo; ratios to one real forward and backward."""

    model: str
    real_s: float = 0.0
    analysis: Timed | None = None
    error: str = ""

    def ratio(self, stage: str | None = None) -> float:
        assert self.analysis is not None
        return (self.analysis.total if stage is None else self.analysis.seconds[stage]) / self.real_s


def row_of(job: tuple[str, Sequence[str]]) -> Row:
    torch.set_num_threads(1)
    target, texts = job
    try:
        inputs = [parse_input(text) for text in texts]
        imported()
        real = real_seconds(load(target), inputs, time.process_time)
        best = min((timed(load(target), inputs) for _ in range(REPEATS)), key=lambda t: t.total)
    except Exception as error:  # noqa: BLE001 - the other models go on
        return Row(target, error=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return Row(target, real, best)


def cells(row: Row) -> tuple[str, ...]:
    if row.analysis is None:
        return (row.model, *[""] * (len(HEAD) - 2), row.error)
    stages = (f"{row.ratio(stage):.2f}" for stage in STAGES)
    return (row.model, str(row.analysis.nodes), f"{1e3 * row.real_s:.1f}", *stages, f"{row.ratio():.2f}")


def summary(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if row.analysis is not None]
    if not good:
        return ["nothing was analysed"]
    ratios = [row.ratio() for row in good]
    stages = ", ".join(f"{stage} {statistics.median(row.ratio(stage) for row in good):.1f}" for stage in STAGES)
    times = f"{statistics.median(ratios):.1f} times one real forward and backward at batch 2"
    return [
        f"median over {len(good)} models: {times} ({stages})",
        f"at most half of it: {sum(ratio <= 0.5 for ratio in ratios)} of {len(good)} models",
    ]


# --- against the number of layers --------------------------------------------------------------------------------------


def tower(depth: int, width: int = 8) -> nn.Module:
    """A plain convolutional network: ``depth`` times convolution and tanh."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else 3, width, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


def scaled(depth: int) -> tuple[Timed, int]:
    """The analysis of a tower, and the bytes that the process grew by: run in a process of its own."""
    torch.set_num_threads(1)
    imported()
    timed(lambda: tower(2), [parse_input("2,3,8,8")])
    small = peak()
    found = timed(lambda: tower(depth), [parse_input("2,3,8,8")])
    return found, peak() - small


def peak() -> int:
    """The most bytes that this process has had in memory. What getrusage says on Linux is inherited from the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def scaling(depths: Sequence[int]) -> Iterator[tuple[str, ...]]:
    for depth in depths:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found, size = pool.submit(scaled, depth).result()
        stages = (f"{1e3 * found.seconds[stage] / found.nodes:.2f}" for stage in STAGES)
        numbers = (f"{size / 1e6:.0f}", f"{size / 1e3 / found.nodes:.0f}", " ".join(found.findings) or "none")
        yield (str(depth), str(found.nodes), f"{found.total:.2f}", *stages, *numbers)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help="a part of the name, or a glob")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/README.md")
    parser.add_argument("--processes", action="store_true", help="only what processes of their own cost")
    given = parser.parse_args()
    if given.processes:
        lines = []
        for line in processes.rows():
            lines.append(line)
            print("  ".join(line), flush=True)
        if given.write:
            between("processes", table(processes.HEAD, lines))
        return 0
    chosen = {
        target: expected
        for target, expected in targets().items()
        if not given.only or any(p in target or fnmatch.fnmatch(target, p) for p in given.only)
    }
    if not chosen:
        parser.error("no model of that name")
    if given.write and given.only:
        parser.error("--write wants every model: leave --only out")
    say = functools.partial(print, flush=True)
    say("  ".join(HEAD))
    rows = []
    for target, expected in chosen.items():
        rows.append(row_of((target, expected["inputs"])))
        say("  ".join(cells(rows[-1])))
    say("", *summary(rows), sep="\n")
    grown = []
    if not given.only:
        say("", "  ".join(SCALING), sep="\n")
        for line in scaling(DEPTHS):
            grown.append(line)
            say("  ".join(line))
    if given.write:
        lines = [*(f"- {line}" for line in summary(rows)), "", *table(SCALING, grown), "", *table(HEAD, list(map(cells, rows)))]
        between("speed", lines)
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
