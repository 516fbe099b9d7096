"""Before and after: the table of models, and what became of their findings; as text, and as Markdown for a comment."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradlint.findings import Changes, DepthFacts, Finding, Report, Severity, TargetChange, TargetReport
from gradlint.report.escaped import cell, code
from gradlint.report.view import View, relative, relative_line
from gradlint.wording import times

__all__ = ["as_markdown", "as_text", "render_markdown", "render_text"]

_HEADS = ("model", "gradient", "per block", "breaks at", "findings")
_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
_WIDTH = 100


def render_text(report: Report, view: View) -> str:
    """What changed, what could not be analysed, and the verdict."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=view.color, color_system="standard" if view.color else None, width=10**6)
    lines = [] if report.changes is None else as_text(report.changes, view)
    lines += [Text(f"failed[{failure['stage']}] {_failed(failure, view)}", "bold red") for failure in report.failures]
    for line in [*lines, Text(verdict(report))]:
        console.print(line, soft_wrap=True, highlight=False)
    return out.getvalue().rstrip("\n")


def render_markdown(report: Report, view: View) -> str:
    """The same for a comment on a change."""
    lines = ["## gradlint", "", verdict(report), ""]
    lines += [] if report.changes is None else as_markdown(report.changes, view, new=True)
    lines += ["", *(f"* could not be analysed: {cell(_failed(failure, view))}" for failure in report.failures)]
    return "\n".join(lines).rstrip()


def verdict(report: Report) -> str:
    """One line: how many are new, and how many were there."""
    changes = () if report.changes is None else report.changes.targets
    counts = {kind: sum(len(getattr(change, kind)) for change in changes) for kind in ("new", "worse", "kept", "fixed")}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none before, none now"
    return f"{'No new findings' if not counts['new'] else 'New findings'}: {told}."


def _failed(failure: Mapping[str, str], view: View) -> str:
    where = relative_line(failure["where"], view.root)
    return f"{failure['target']}: {failure['message']}{f' ({where})' if where else ''}"


def as_text(changes: Changes, view: View, *, new: bool = True) -> list[Text]:
    """The table, then every finding that is new (where asked for), worse or fixed, one line each."""
    out = io.StringIO()
    console = Console(file=out, width=view.width or _WIDTH, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in _HEADS:
        table.add_column(head, overflow="fold")
    for target in changes.targets:
        table.add_row(*(Text(text) for text in _row(target, view)))
    console.print(table)
    rows = [line.rstrip() for line in out.getvalue().splitlines()]
    lines = [Text(f"Compared with {changes.base}:", "bold"), Text(rows[0], "bold"), *map(Text, rows[1:])]
    for kind, finding in _told(changes):
        if kind == "new" and not new:
            continue
        head = f"{finding.severity}[{finding.code}]"
        style = "green" if kind == "fixed" else _STYLE[finding.severity]
        where = _where(finding, view)
        lines.append(Text.assemble((f"{kind:5} ", "bold"), (head, style), f" {where}: {finding.message}"))
    return lines


def as_markdown(changes: Changes, view: View, *, new: bool = False) -> list[str]:
    """The same as lines of Markdown; what is new only where it stands in no other table."""
    lines = [f"Compared with {code(changes.base)}:", "", f"| {' | '.join(_HEADS)} |", "|---" * len(_HEADS) + "|"]
    for target in changes.targets:
        name, *cells = _row(target, view)
        lines.append(f"| {code(name)} | {' | '.join(map(cell, cells))} |")
    told = [(kind, finding) for kind, finding in _told(changes) if new or kind != "new"]
    lines += [""] if told else []
    lines += [f"* {kind}: {f.code} {f.name}, {code(_where(f, view))}: {cell(f.message)}" for kind, f in told]
    return lines


def _told(changes: Changes) -> Iterator[tuple[str, Finding]]:
    """What a reader wants to know of; what stayed as it was is only counted."""
    for kind in ("new", "worse", "fixed"):
        for target in changes.targets:
            found: Sequence[Finding] = getattr(target, kind)
            yield from ((kind, finding) for finding in sorted(found, key=lambda finding: -finding.severity.rank))


def _row(change: TargetChange, view: View) -> list[str]:
    before, after = change.before, change.after
    name = relative(change.name, view.root)
    counts = {kind: len(getattr(change, kind)) for kind in ("new", "worse", "kept", "fixed")}
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none"
    if before is not None and after is not None:
        old, new = _alike(before, after)
        blocks = _step(_blocks(old), _blocks(new))
        rate = f"{_step(_rate(old), _rate(new))}{f' · {blocks}' if blocks else ''}"
        numbers = [_step(_gain(before), _gain(after)), rate, _step(_breaks(old), _breaks(new))]
        return [name, *numbers, found]
    here = after or before
    if here is None:
        return [name, "-", "-", "-", found]
    told = "gone" if after is None else f"before: {change.unknown}" if change.unknown else "new model"
    depth = _leading(here)
    blocks = _blocks(depth)
    return [name, f"{_gain(here)} ({told})", f"{_rate(depth)}{f' · {blocks}' if blocks else ''}", _breaks(depth), found]


def _step(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"


def _gain(target: TargetReport) -> str:
    return "none" if target.gain_log2 is None else times(target.gain_log2)


def _alike(before: TargetReport, after: TargetReport) -> tuple[DepthFacts | None, DepthFacts | None]:
    """The law of the same blocks on both sides: of those that matter most now, else then."""
    new = _leading(after)
    if new is None:
        return _leading(before), None
    same = next((depth for depth in before.depths if depth.blocks == new.blocks), None)
    return same or _leading(before), new


def _leading(target: TargetReport) -> DepthFacts | None:
    return max(target.depths, key=lambda depth: abs(depth.log2), default=None)


def _rate(depth: DepthFacts | None) -> str:
    """A factor; of an algebraic law, the power of the number of blocks."""
    if depth is None:
        return "-"
    return times(depth.rate) if depth.law == "exponential" else f"(L+1)^{depth.rate:.2g}"


def _blocks(depth: DepthFacts | None) -> str:
    return "" if depth is None else f"{depth.count} {depth.blocks.replace('{}', '*')}"


def _breaks(depth: DepthFacts | None) -> str:
    return "-" if depth is None else "never" if depth.critical is None else f"{depth.critical} blocks"


def _where(finding: Finding, view: View) -> str:
    place = finding.location
    return relative(finding.target, view.root) if place is None else f"{relative(place.path, view.root)}:{place.line}"
