"""How far are the predictions from one real backward pass? Every model of fixtures/zoo, in bits.

    python -m benchmarks.accuracy                      the table and its summary
    python -m benchmarks.accuracy --only resnet        models whose name contains it (or matches the pattern)
    python -m benchmarks.accuracy --detail gpt.py:GPT  predicted beside measured, in the order of forward
    python -m benchmarks.accuracy --write              also commit the table to README.md and the plot to accuracy.svg

What is measured is kept in benchmarks/.cache, keyed by fixture, inputs and seeds: a second run only predicts and times.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import importlib.util
import json
import math
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks._tables import HEAD, Row, cells, detail, summary, text_line, write
from gradlint.analysis import Analysis
from gradlint.errors import TargetError
from gradlint.flow import propagate
from gradlint.trace import build, parse_input, recording, trace
from gradlint.verification import Measured, backward, compare, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gradlint.trace import InputSpec

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "fixtures" / "zoo"
CACHE = ROOT / "benchmarks" / ".cache"
BATCH = 2  # of the real pass that the analysis is timed against


@dataclass(frozen=True)
class Options:
    """How to measure."""

    seeds: int
    fresh: bool


def targets() -> dict[str, dict[str, Any]]:
    return tomllib.loads((ZOO / "expected.toml").read_text(encoding="utf-8"))


def load(target: str) -> Callable[[], nn.Module]:
    """The factory ``file.py:name`` of the zoo."""
    file, _, name = target.partition(":")
    unique = f"gradlint_zoo_{Path(file).stem}"
    if unique not in sys.modules:
        spec = importlib.util.spec_from_file_location(unique, ZOO / file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[unique], name)


def measured(target: str, inputs: Sequence[str], options: Options) -> Measured:
    """What real seeds give; from the cache when it is there."""
    source = (ZOO / target.partition(":")[0]).read_bytes()
    key = hashlib.sha256(source + repr((target, list(inputs), options.seeds, torch.__version__)).encode()).hexdigest()
    file = CACHE / f"{target.replace('.py:', '.')}.{key[:16]}.json"
    if file.exists() and not options.fresh:
        return Measured.from_dict(json.loads(file.read_text(encoding="utf-8"))["measured"])
    found = measure(load(target), [parse_input(text) for text in inputs], options.seeds)
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    file.write_text(json.dumps({"measured": found.to_dict()}), encoding="utf-8")
    return found


# --- time -------------------------------------------------------------------------------------------------------------


def real_seconds(
    factory: Callable[[], nn.Module], inputs: Sequence[InputSpec], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one forward and backward in float32 at batch 2, the best of two; construction is not counted.

    Where the model does not run with 2 as the first dimension of its inputs, they are as they are.
    """
    model = factory()
    small = [replace(spec, shape=(BATCH, *spec.shape[1:])) for spec in inputs]
    try:
        backward(model, small)
    except TargetError:
        small = list(inputs)
    best = math.inf
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        start = clock()
        backward(model, small)
        best = min(best, clock() - start)
    return best


def analysed(factory: Callable[[], nn.Module], inputs: Sequence[InputSpec]) -> tuple[Analysis, float]:
    """The prediction, and its seconds: of trace and flow, without imports and without building the model."""
    imported()
    with recording() as laws:
        model = build(factory)
    start = time.perf_counter()
    flowed = propagate(trace(model, list(inputs), laws=laws))
    return Analysis.of(flowed), time.perf_counter() - start


@functools.cache
def imported() -> None:
    """Whatever the first analysis of a process imports."""
    propagate(trace(lambda: nn.Linear(2, 2), [parse_input("2,2")]))


# --- models -----------------------------------------------------------------------------------------------------------


def run(target: str, inputs: Sequence[str], options: Options) -> tuple[Row, Measured | None, Analysis | None]:
    """One model: measure, predict, compare. A model that fails is a row that says so."""
    torch.set_num_threads(1)
    try:
        real = measured(target, inputs, options)
        real_s = real_seconds(load(target), real.inputs)
        analysis, analysis_s = analysed(load(target), real.inputs)
        comparison = compare(analysis, real)
    except Exception as error:  # noqa: BLE001 - the other models go on
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f" ({Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno})" if where is not None else ""
        return Row(target, error=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}{place}"), None, None
    row = Row(
        target,
        parameters=sum(math.prod(p.shape) for p in analysis.parameters.values()),
        nodes=len(analysis.nodes),
        comparison=comparison,
        coverage=analysis.coverage,
        analysis_s=analysis_s,
        real_s=real_s,
        in_interval=tuple(in_interval(analysis, real)),
    )
    return row, real, analysis


def in_interval(analysis: Analysis, real: Measured) -> Iterator[bool]:
    """Of each parameter with a gradient: does its median over seeds lie where 80 % of the draws should?"""
    for name, median in real.medians.items():
        typical = analysis.grad_typical(name) if name in analysis.parameters else None
        if typical is not None and median > 0.0:
            yield typical[1][0] <= median <= typical[1][1]


def row_of(job: tuple[str, Sequence[str], Options]) -> Row:
    return run(*job)[0]


def rows(chosen: dict[str, dict[str, Any]], options: Options, jobs: int) -> Iterator[Row]:
    work = [(target, expected["inputs"], options) for target, expected in chosen.items()]
    if jobs == 1:
        yield from map(row_of, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(row_of, work)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help="a part of the name, or a glob")
    parser.add_argument("--detail", metavar="MODEL", help="predicted beside measured for one model")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="measure again")
    parser.add_argument("--write", action="store_true", help="write the table and the plot to benchmarks/")
    given = parser.parse_args()
    options = Options(seeds=given.seeds, fresh=given.fresh)
    patterns = [given.detail] if given.detail else given.only
    chosen = {
        target: expected
        for target, expected in targets().items()
        if not patterns or any(p in target or fnmatch.fnmatch(target, p) for p in patterns)
    }
    if not chosen:
        parser.error("no model of that name")
    if given.detail:
        return max(detail(*run(target, expected["inputs"], options)) for target, expected in chosen.items())
    if given.write and patterns:
        parser.error("--write wants every model: leave --only out")
    print(text_line(HEAD))
    done = []
    say = functools.partial(print, flush=True)
    for row in rows(chosen, options, given.jobs):
        done.append(row)
        say(text_line(cells(row)))
    print("", *summary(done), sep="\n")
    if given.write:
        from benchmarks._scatter import draw  # noqa: PLC0415 - only this needs matplotlib

        write(done)
        draw([row.comparison for row in done if row.comparison is not None], ROOT / "benchmarks" / "accuracy.svg")
    return int(any(row.error for row in done))


if __name__ == "__main__":
    sys.exit(main())
