"""The flow of a model in the terminal: activations and gradients over depth as bars on a log scale, the guilty rows marked."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradlint.findings import Finding, Report, Severity, TargetReport
from gradlint.report.layers import Row, rows
from gradlint.report.view import View, relative, relative_line
from gradlint.wording import times

__all__ = ["ROWS", "render"]

ROWS = 48
"""Rows of a model, unless the user says otherwise."""

_WIDTH = 100  # columns where there is no terminal
_NARROW, _CRAMPED = 90, 70  # below, the kinds are left out; below, the lines of source as well
_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "cyan"}
_LEAST = 2.0  # bits that a scale spans at least: a healthy model is a flat line


def render(report: Report, view: View, limit: int = ROWS) -> str:
    """A picture per model, then what could not be analysed.

    Args:
        limit: rows of a model; longer ones are shown by layer, by block, or several layers to a row.
    """
    out = io.StringIO()
    width = view.width or _WIDTH
    console = Console(
        file=out, force_terminal=view.color, color_system="standard" if view.color else None, width=width, highlight=False
    )
    for target in report.targets:
        found = [finding for finding in report.findings if finding.target == target.name]
        _target(console, target, found, view, limit)
    for failure in report.failures:
        console.print(Text.assemble((f"failed[{failure['stage']}]", "bold red"), f" {failure['target']}: {failure['message']}"))
        if failure["where"]:
            console.print(Text(f"  --> {relative_line(failure['where'], view.root)}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip("\n")


def _target(console: Console, target: TargetReport, findings: Sequence[Finding], view: View, limit: int) -> None:
    gain = "no gradient reaches the input" if target.gain_log2 is None else f"{times(target.gain_log2)} from output to input"
    inputs = ", ".join(target.inputs) or "no inputs"
    console.print(Text.assemble((relative(target.name, view.root), "bold"), f": {inputs}; gradient: {gain}"))
    shown = rows(target, findings, limit)
    if shown:
        console.print(_table(shown, console.width))
    for finding in findings:
        head = f"{finding.severity}[{finding.code}]"
        console.print(Text.assemble((head, _STYLE[finding.severity]), f" {finding.name}: {finding.message}"))
    console.print()


def _table(shown: Sequence[Row], width: int) -> Table:
    """The rows; what is left of the width belongs to the two columns of bars."""
    marks = [_mark(row) for row in shown]
    told = {"layer": [row.name for row in shown]}
    if width >= _NARROW and any(row.kind for row in shown):
        told["kind"] = [row.kind for row in shown]
    if width >= _CRAMPED:
        told["source"] = [_place(row) for row in shown]
    most = {"layer": max(width // 4, 12)}
    widest = {head: min(max(map(len, [head, *column])), most.get(head, width // 6)) for head, column in told.items()}
    numbers = [[_number(row.rms).removeprefix("×") for row in shown], [_number(row.gradient) for row in shown]]
    sizes = [max(map(len, column)) for column in numbers]
    mark = max(map(len, marks))
    taken = sum(widest.values()) + sum(sizes) + mark + len(widest) + 4
    room = max((width - taken) // 2, 8)
    scales = [_Scale.over([row.rms for row in shown], room), _Scale.over([row.gradient for row in shown], room)]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for head, size in widest.items():
        table.add_column(head, width=size, no_wrap=True)
    for head, size, scale in zip(("activation", "gradient"), sizes, scales, strict=True):
        table.add_column("", width=size, no_wrap=True, justify="right")
        table.add_column(title if len(title := f"{head}, {scale}") <= room else head, width=room, no_wrap=True)
    table.add_column("", width=mark, no_wrap=True)
    styles = [_style(row) for row in shown]
    for n, row in enumerate(shown):
        forward = Text(scales[0].bar(row.rms), "blue")
        backward = Text(scales[1].bar(row.gradient), styles[n] or "green")
        cells = [_cut(column[n], widest[head], head=head == "kind") for head, column in told.items()]
        table.add_row(*cells, numbers[0][n], forward, numbers[1][n], backward, marks[n])
    return table


@dataclass(frozen=True)
class _Scale:
    """Bits to columns, half a column at a time.

    Args:
        low: bits at the left end, 0 or less.
        high: bits at the right end, 0 or more.
        width: columns.
    """

    low: float
    high: float
    width: int

    @classmethod
    def over(cls, values: Sequence[float | None], width: int) -> _Scale:
        known = [value for value in values if value is not None and math.isfinite(value)]
        low, high = min([0.0, *known]), max([0.0, *known])
        spare = max(_LEAST - (high - low), 0.0) / 2
        return cls(low - spare, high + spare, width)

    def __str__(self) -> str:
        return f"{times(self.low)} to {times(self.high)}"

    @property
    def zero(self) -> int:
        """The column of the axis, where the factor is 1."""
        return round(-self.low / (self.high - self.low) * (self.width - 1))

    def bar(self, value: float | None) -> str:
        """From the axis to the value: right of it growth, left of it decay."""
        zero = self.zero
        if value is None:
            return " " * zero + "?"
        per_bit = (self.width - 1) / (self.high - self.low)
        halves = round(2 * min(max(value, self.low), self.high) * per_bit)
        if value >= 0:
            full, half = divmod(min(halves, 2 * (self.width - 1 - zero)), 2)
            return " " * zero + "│" + "█" * full + "▌" * half
        full, half = divmod(min(-halves, 2 * zero), 2)
        return " " * (zero - full - half) + "▐" * half + "█" * full + "│"


def _number(bits: float | None) -> str:
    if bits is None:
        return "?"
    return "0" if bits == -math.inf else times(bits)


def _place(row: Row) -> str:
    return "" if row.location is None else f"{Path(row.location.path).name}:{row.location.line}"


def _cut(text: str, size: int, *, head: bool = False) -> str:
    """The end of a path says more than its start."""
    if len(text) <= size:
        return text
    return f"{text[: size - 1]}…" if head else f"…{text[len(text) - size + 1 :]}"


def _style(row: Row) -> str:
    return _STYLE[row.findings[0].severity] if row.findings else ""


def _mark(row: Row) -> Text:
    codes = list(dict.fromkeys(finding.code for finding in row.findings))
    more = f" +{len(codes) - 2}" if len(codes) > 2 else ""
    return Text(f"◀ {' '.join(codes[:2])}{more}" if codes else "", _style(row))
