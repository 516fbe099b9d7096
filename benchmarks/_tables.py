"""The tables of the accuracy benchmark: one row per model, the summary, one model in detail."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint.findings import Coverage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradlint.analysis import Analysis
    from gradlint.verification import Comparison, Measured, Size

README = Path(__file__).resolve().parent / "README.md"


@dataclass(frozen=True)
class Row:
    """One model: the numbers of its comparison, or why there are none.

    Args:
        in_interval: of each parameter, whether the median of its measured gradients lies where 80 % of the draws should.
    """

    model: str
    parameters: int = 0
    nodes: int = 0
    comparison: Comparison | None = None
    coverage: Coverage = field(default_factory=lambda: Coverage(0))
    analysis_s: float = 0.0
    real_s: float = 0.0
    in_interval: tuple[bool, ...] = ()
    error: str = ""


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
    "known",
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
        f"{100 * row.coverage.known / row.coverage.total:.1f}%",
        f"{row.analysis_s / row.real_s:.1f}",
        worst,
    )


def text_line(values: Sequence[str]) -> str:
    widths = (54, 8, 6, 8, 6, 8, 6, 6, 6, 6, 5, 7, 6, 7)
    short = [value.removeprefix("gradient ").removeprefix("forward ") for value in values]
    first = f"{short[0]:{widths[0]}}"
    return first + " ".join(f"{v:>{w}}" for v, w in zip(short[1:-1], widths[1:], strict=True)) + "  " + short[-1]


def summary(done: Sequence[Row]) -> list[str]:
    good = [(row, row.comparison) for row in done if row.comparison is not None]
    lines = []
    if good:
        gradient = [c.gradient for _, c in good]
        typical, before = (statistics.median(e.median for e in errors) for errors in (gradient, [c.forward for _, c in good]))
        lines.append(f"median over {len(good)} models of the median gradient error: {typical:.3f} bit (forward {before:.3f})")
        for limit in (0.5, 1.0):
            within = sum(e.p95 <= limit for e in gradient)
            lines.append(
                f"95 % of the gradients within {limit:g} bit: {within} of {len(good)} models, {share(within, len(good))}"
            )
        zeros = sum(len(c.zeros) for _, c in good)
        missing = sum(len(c.missing) for _, c in good)
        lines.append(f"zero by symmetry but not predicted so: {zeros}; measured but not predicted: {missing}")
        inside = [within for row, _ in good for within in row.in_interval]
        if inside:
            text = "median draw of a parameter's gradient within the predicted 80 % interval"
            lines.append(f"{text}: {sum(inside)} of {len(inside)}, {share(sum(inside), len(inside))}")
        lines += ops([row.coverage for row, _ in good])
        ratios = [row.analysis_s / row.real_s for row, _ in good]
        fast = sum(ratio <= 0.5 for ratio in ratios)
        text = f"time of the analysis, median: {statistics.median(ratios):.1f} times one real forward and backward at batch 2"
        lines.append(f"{text}; at most half of it: {fast} of {len(good)} models")
    lines.append(f"not analysed: {len(done) - len(good)}")
    return lines


def ops(coverages: Sequence[Coverage]) -> list[str]:
    """How many op executions are known, and the names of those that are not."""
    known, total = sum(c.known for c in coverages), sum(c.total for c in coverages)
    lines = [f"op executions known: {known} of {total}, {share(known, total)}"]
    for how, counts in (("sampled", [c.sampled for c in coverages]), ("unknown", [c.opaque for c in coverages])):
        if names := added(counts):
            lines.append(f"{how}: " + ", ".join(f"{op} ({n})" for op, n in names.most_common()))
    return lines


def added(counts: Sequence[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def write(done: Sequence[Row]) -> None:
    """Put the table into README.md."""
    lines = [f"- {line}" for line in summary(done)] + [""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in done]
    between("accuracy", lines)


def committed(name: str) -> str:
    """What stands between the markers ``name`` of README.md."""
    return README.read_text(encoding="utf-8").partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0]


def between(name: str, lines: Sequence[str]) -> None:
    """Put lines between the markers ``name`` of README.md."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(start)
    after = rest.partition(end)[2]
    README.write_text(f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")


def detail(row: Row, real: Measured | None, analysis: Analysis | None) -> int:
    """Predicted beside measured in bits: parameters just before the module that holds them, in the order of forward."""
    if real is None or analysis is None or row.comparison is None:
        print(f"{row.model}: {row.error}")
        return 1
    print(f"{row.model}  {row.coverage}; measured in {real.dtype} over {real.seeds} seeds; sizes and errors in bits\n")
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
