"""How far are the predictions from one real backward pass? Every model of fixtures/zoo, in bits.

    python -m benchmarks.accuracy                      the table and its summary
    python -m benchmarks.accuracy --only resnet        models whose name contains it (or matches the pattern)
    python -m benchmarks.accuracy --detail gpt.py:GPT  predicted beside measured, in the order of forward
    python -m benchmarks.accuracy --write              also commit the table to benchmarks/README.md

What is measured is kept in benchmarks/.cache, keyed by fixture, inputs and seeds: a second run only predicts.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import importlib.util
import json
import math
import statistics
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gradlint
from gradlint.trace import parse_input
from gradlint.verify import Comparison, Measured, backward, compare, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from gradlint.trace import InputSpec
    from gradlint.verify import Size

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "fixtures" / "zoo"
CACHE = ROOT / "benchmarks" / ".cache"
README = ROOT / "benchmarks" / "README.md"
START, END = "<!-- accuracy:start -->", "<!-- accuracy:end -->"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    seeds: int
    fresh: bool
    timed: bool


@dataclass(frozen=True)
class Row:
    """One model: the numbers of its comparison, or why there are none."""

    model: str
    parameters: int = 0
    nodes: int = 0
    comparison: Comparison | None = None
    coverage: str = ""
    analysis_s: float = 0.0
    real_s: float = 0.0
    error: str = ""


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


def measured(target: str, inputs: Sequence[str], options: Options) -> tuple[Measured, float]:
    """What real seeds give, and the seconds of one forward and backward; from the cache when it is there."""
    source = (ZOO / target.partition(":")[0]).read_bytes()
    key = hashlib.sha256(source + repr((target, list(inputs), options.seeds, torch.__version__)).encode()).hexdigest()
    file = CACHE / f"{target.replace('.py:', '.')}.{key[:16]}.json"
    if file.exists() and not options.fresh:
        data = json.loads(file.read_text(encoding="utf-8"))
        found, seconds = Measured.from_dict(data["measured"]), data["seconds"]
        if not options.timed:
            return found, seconds
    else:
        found = measure(load(target), [parse_input(text) for text in inputs], options.seeds)
    seconds = clock(load(target), found.inputs)
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    file.write_text(json.dumps({"measured": found.to_dict(), "seconds": seconds}), encoding="utf-8")
    return found, seconds


def clock(build: Callable[[], nn.Module], inputs: Sequence[InputSpec]) -> float:
    """Seconds of one forward and backward in float32, the best of two; construction is not counted."""
    model = build()
    best = math.inf
    for _ in range(2):
        start = time.perf_counter()
        backward(model, inputs)
        best = min(best, time.perf_counter() - start)
    return best


def run(target: str, inputs: Sequence[str], options: Options) -> tuple[Row, Measured | None, Any]:
    """One model: measure, predict, compare. A model that fails is a row that says so."""
    torch.set_num_threads(1)
    try:
        real, seconds = measured(target, inputs, options)
        start = time.perf_counter()
        analysis = gradlint.analyze(load(target), list(real.inputs))
        analysis_s = time.perf_counter() - start
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
        coverage=str(analysis.coverage),
        analysis_s=analysis_s,
        real_s=seconds,
    )
    return row, real, analysis


def row_of(job: tuple[str, Sequence[str], Options]) -> Row:
    return run(*job)[0]


def rows(chosen: dict[str, dict[str, Any]], options: Options, jobs: int) -> Iterator[Row]:
    work = [(target, expected["inputs"], options) for target, expected in chosen.items()]
    if jobs == 1:
        yield from map(row_of, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(row_of, work)


# --- tables -----------------------------------------------------------------------------------------------------------

HEAD = (
    "model",
    "params M",
    "nodes",
    "gradient median",
    "p95",
    "forward median",
    "p95",
    "init worst",
    "noise",
    "span",
    "zeros",
    "missing",
    "× real",
    "worst gradient",
)


def cells(row: Row) -> tuple[str, ...]:
    c = row.comparison
    if c is None:
        return (row.model, *[""] * (len(HEAD) - 2), row.error)
    worst = "".join(f"{e.name or '(model)'} {e.bits:+.2f}" for e in c.gradient.worst())
    initial = "".join(f"{abs(e.bits):.2f}" for e in c.initial.worst())
    noise = statistics.median(e.noise for e in c.gradient.entries) if c.gradient.entries else 0.0
    return (
        row.model,
        f"{row.parameters / 1e6:.2f}",
        str(row.nodes),
        f"{c.gradient.median:.3f}",
        f"{c.gradient.p95:.2f}",
        f"{c.forward.median:.3f}",
        f"{c.forward.p95:.2f}",
        initial,
        f"{noise:.2f}",
        f"{c.gradient.span:.1f}",
        str(len(c.zeros)),
        str(len(c.missing)),
        f"{row.analysis_s / row.real_s:.1f}",
        worst,
    )


def text_line(values: Sequence[str]) -> str:
    widths = (40, 8, 6, 8, 6, 8, 6, 6, 6, 6, 5, 7, 7)
    short = [value.removeprefix("gradient ").removeprefix("forward ") for value in values]
    first = f"{short[0]:{widths[0]}}"
    return first + " ".join(f"{v:>{w}}" for v, w in zip(short[1:-1], widths[1:], strict=True)) + "  " + short[-1]


def summary(done: Sequence[Row]) -> list[str]:
    good = [(row, row.comparison) for row in done if row.comparison is not None]
    failed = len(done) - len(good)
    lines = []
    if good:
        gradient = [c.gradient for _, c in good]
        forward = [c.forward for _, c in good]
        p95 = sum(e.p95 <= 1.0 for e in gradient)
        zeros = sum(len(c.zeros) for _, c in good)
        missing = sum(len(c.missing) for _, c in good)
        ratio = statistics.median(row.analysis_s / row.real_s for row, _ in good)
        typical, before = (statistics.median(e.median for e in errors) for errors in (gradient, forward))
        lines += [
            f"median over {len(good)} models of the median gradient error: {typical:.3f} bit (forward {before:.3f})",
            f"models with 95 % of their gradients within 1 bit: {p95} of {len(good)}",
            f"zero by symmetry but not predicted so: {zeros}; measured but not predicted: {missing}",
            f"analysis time, median: {ratio:.1f} times one real forward and backward on the same single core",
        ]
    if failed:
        lines.append(f"not analysed: {failed}")
    return lines


def write(done: Sequence[Row]) -> None:
    """Put the table between the markers of README.md."""
    lines = [f"- {line}" for line in summary(done)] + [""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in done]
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def detail(target: str, inputs: Sequence[str], options: Options) -> int:
    """Predicted beside measured in bits: parameters just before the module that holds them, in the order of forward."""
    row, real, analysis = run(target, inputs, options)
    if real is None or row.comparison is None:
        print(f"{target}: {row.error}")
        return 1
    print(f"{target}  {row.coverage}; measured in {real.dtype} over {real.seeds} seeds; sizes and errors in bits\n")
    head = ("name", "rms", "predicted", "error", "gradient", "predicted", "error", "noise")
    line = "{:58} {:>8} {:>9} {:>7}   {:>8} {:>9} {:>7} {:>6}"
    print(line.format(*head))
    left = dict(real.parameters)
    for path, size in real.modules.items():
        for name in [name for name in left if name.rpartition(".")[0] == path]:
            print(line.format(f"    {name}", *numbers(left.pop(name), analysis.parameters.get(name))))
        print(line.format(f"[{path or 'model'}]", *numbers(size, analysis.modules.get(path))))
    for name, size in left.items():
        print(line.format(f"    {name}", *numbers(size, analysis.parameters.get(name))))
    print()
    for zero in row.comparison.zeros:
        print(f"not zero: {zero}")
    for name in row.comparison.missing:
        print(f"not predicted: {name}")
    print(f"gradient median {row.comparison.gradient.median:.3f} p95 {row.comparison.gradient.p95:.2f}")
    print(f"forward  median {row.comparison.forward.median:.3f} p95 {row.comparison.forward.p95:.2f}")
    for entry in row.comparison.gradient.worst(8):
        print(f"worst: {entry}")
    return 0


def numbers(size: Size, facts: Any) -> tuple[str, ...]:
    rms, grad = (None, None) if facts is None else (facts.rms, facts.grad_rms)
    return (*triple(size.rms, rms), *triple(size.grad_rms, grad), f"{size.noise:.2f}")


def triple(real: float | None, predicted: float | None) -> tuple[str, str, str]:
    known = bool(real) and bool(predicted) and math.isfinite(predicted or 0.0)
    error = f"{math.log2(predicted) - math.log2(real):+.2f}" if known else ""
    return bits(real), bits(predicted), error


def bits(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{math.log2(value):.2f}" if 0.0 < value < math.inf else f"{value:g}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help="a part of the name, or a glob")
    parser.add_argument("--detail", metavar="MODEL", help="predicted beside measured for one model")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="measure again")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/README.md")
    given = parser.parse_args()
    options = Options(seeds=given.seeds, fresh=given.fresh, timed=given.write)
    patterns = [given.detail] if given.detail else given.only
    chosen = {
        target: expected
        for target, expected in targets().items()
        if not patterns or any(p in target or fnmatch.fnmatch(target, p) for p in patterns)
    }
    if not chosen:
        parser.error("no model of that name")
    if given.detail:
        return max(detail(target, expected["inputs"], options) for target, expected in chosen.items())
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
        write(done)
    return int(any(row.error for row in done))


if __name__ == "__main__":
    sys.exit(main())
