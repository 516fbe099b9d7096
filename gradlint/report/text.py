"""The formats for people: ``full`` with code frames, ``concise`` with one line per finding."""

from __future__ import annotations

import io
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from gradlint.comparison import Place
from gradlint.findings import Confidence, Factor, Finding, Location, RecurrenceFacts, Report, Severity, TargetReport
from gradlint.report.changes import as_text
from gradlint.report.frame import frame
from gradlint.report.links import linked
from gradlint.report.statistics import statistics
from gradlint.report.view import View, relative, relative_line

__all__ = ["render_concise", "render_full"]

_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
_WORST = 5  # rows of the table of real runs, unless all are asked for
_WIDE = 1.0  # bits between the ends of an interval worth telling: a factor of two
_BLAME = "bold red"  # a target that could not be analysed
_DOUBT = {
    Confidence.MEDIUM: "medium: some ops of the model have no formula and were sampled",
    Confidence.LOW: "low: some ops of the model are unknown",
}


def render_full(report: Report, view: View) -> str:
    """Every finding with its line of source, its numbers and its fix; then failures, models and a summary."""
    lines: list[Text] = []
    for finding in report.findings:
        lines += [*linked(_finding(finding, report, view), finding, report, view), Text()]
    for failure in report.failures:
        lines += [*_failure(failure, view), Text()]
    if report.changes is not None:
        lines += [*as_text(report.changes, view, new=False), Text()]
    if view.statistics:
        lines += statistics(report)
    if not view.quiet:
        lines += _models(report, view)
        lines += _real_runs(report, view)
        lines.append(_summary(report))
    return _paint(lines, view)


def render_concise(report: Report, view: View) -> str:
    """``path:line:col: CODE severity message``, then a summary."""
    lines: list[Text] = []
    for finding in report.findings:
        place = finding.target if finding.location is None else _place(finding.location, view)
        doubt = "" if finding.confidence is Confidence.HIGH else f" ({finding.confidence} confidence)"
        severity = (str(finding.severity), _STYLE[finding.severity])
        said = {"verified": " (verified)", "contradicted": " (CONTRADICTED by real backward passes)", None: ""}[finding.verified]
        line = Text.assemble((place, "bold"), f": {finding.code} ", severity, f" {finding.message}{doubt}{said}")
        lines += linked([line], finding, report, view)
    for failure in report.failures:
        place = relative_line(failure["where"], view.root) or failure["target"]
        lines.append(Text.assemble((place, "bold"), ": ", (f"failed[{failure['stage']}]", _BLAME), f" {failure['message']}"))
    if view.statistics:
        lines += [Text(), *statistics(report)]
    if not view.quiet:
        lines.append(_summary(report))
    return _paint(lines, view)


def _finding(finding: Finding, report: Report, view: View) -> Iterator[Text]:
    style = _STYLE[finding.severity]
    head = f"{finding.severity}[{finding.code}]"
    if finding.verified == "contradicted":
        head = f"CONTRADICTED {head}"
    yield from _wrapped(f"{head} {finding.name}: {finding.message}", "  ", view, (head, style))
    indent = ""
    if finding.location is not None:
        indent = " " * len(str(finding.location.line))
        inside = f" in {_name(finding.target, view)}" if len(report.targets) > 1 else ""
        yield Text.assemble((f"{indent}--> ", "blue"), _place(finding.location, view), inside)
        yield from (shown := frame(finding.location, style))
        if shown:
            yield Text(f"{indent} |", "blue")
        if finding.location.library is not None:
            yield Text.assemble((f"{indent}::: ", "blue"), _place(finding.location.library, view))
    else:
        yield Text.assemble(("--> ", "blue"), finding.target)
    notes = [*_chain(finding.factors), *_covered(finding), *finding.notes]
    if finding.confidence is not Confidence.HIGH:
        notes.append(f"confidence is {_DOUBT[finding.confidence]}")
    for note in notes:
        yield from _wrapped(f"{indent} = note: {note}", f"{indent}         ", view, ("note:", "bold"))
    if finding.fix:
        yield from _wrapped(f"{indent} = help: {finding.fix}", f"{indent}         ", view, ("help:", "bold green"))


def _failure(failure: Mapping[str, str], view: View) -> Iterator[Text]:
    head = f"failed[{failure['stage']}]"
    yield from _wrapped(f"{head} {_name(failure['target'], view)}: {failure['message']}", "  ", view, (head, _BLAME))
    path, _, line = failure["where"].rpartition(":")
    indent = ""
    if path and line.isdigit():
        indent = " " * len(line)
        yield Text.assemble((f"{indent}--> ", "blue"), relative_line(failure["where"], view.root))
        yield from (shown := frame(Location(path, int(line)), _BLAME))
        if shown and failure["hint"]:
            yield Text(f"{indent} |", "blue")
    if failure["hint"]:
        yield from _wrapped(f"{indent} = help: {failure['hint']}", f"{indent}         ", view, ("help:", "bold green"))


def _chain(factors: tuple[Factor, ...]) -> Iterator[str]:
    """The gain as the product of its causes."""
    if factors:
        parts = [f"{_times(f.log2)} {f.cause}" + (f" ({f.detail})" if f.detail else "") for f in factors]
        total = f" = {_times(sum(f.log2 for f in factors))}" if len(factors) > 1 else ""
        yield " · ".join(parts) + total


def _covered(finding: Finding) -> Iterator[str]:
    """The places one finding stands for."""
    instances = [name for name in finding.instances or (finding.module,) if name]
    if len(instances) > 4:
        yield f"{len(instances)} places: {instances[0]}, {instances[1]} … {instances[-1]}"
    elif instances:
        yield f"in {', '.join(instances)}"


def _models(report: Report, view: View) -> Iterator[Text]:
    """What a clean model was run on and what was found; of others, what had to be guessed or was done without values.

    The assumptions when asked, or where values had to be assumed.
    """
    for target in report.targets:
        inputs = ", ".join(target.inputs) or "no inputs"
        inputs += {"given": "", "guessed": " (guessed)"}.get(target.inputs_origin, f" ({target.inputs_origin})")
        hybrid = target.rung == "hybrid"
        inputs += "; hybrid: traced without the values of large weights" if hybrid else ""
        if report.findings and not view.verbose and not (hybrid and target.assumptions):
            if hybrid or target.inputs_origin == "guessed":
                line = (
                    f"{_name(target.name, view)}: {inputs}{'; --input gives others' if target.inputs_origin == 'guessed' else ''}"
                )
                yield from _wrapped(line, "  ", view, (_name(target.name, view), "bold"))
            continue
        gain = target.gain_log2
        found = "" if gain is None else f"; gradient {_times(gain)} from the output to the input{_typical(target)}"
        yield from _wrapped(f"{_name(target.name, view)}: {inputs}{found}", "  ", view, (_name(target.name, view), "bold"))
        for recurrence in target.recurrences:
            yield from _wrapped(f"  {_recurrence(recurrence)}", "    ", view, ("", ""))
        for assumption in target.assumptions if view.verbose or hybrid else ():
            yield from _wrapped(f"  = assumed: {assumption}", "    ", view, ("assumed:", "bold"))


def _recurrence(facts: RecurrenceFacts) -> str:
    """How far back its credit reaches, or how much it grows."""
    name = facts.parameters[0] if facts.parameters else facts.module or "the model"
    what = f"{name}: {facts.steps} steps in {'time' if facts.along == 'sequence' else 'depth'}, {_times(facts.log2)} over all"
    return what if facts.half_life is None else f"{what}, half of the gradient is lost every {facts.half_life:.2g}"


def _typical(target: TargetReport) -> str:
    """What one draw of the weights gives, where draws differ."""
    typical, ends = target.gain_typical_log2, target.gain_interval_log2
    if typical is None or ends is None or ends[1] - ends[0] < _WIDE:
        return ""
    return f", in a typical draw of the weights {_times(typical)} ({_times(ends[0])} to {_times(ends[1])} in 80 % of them)"


def _real_runs(report: Report, view: View) -> Iterator[Text]:
    """What was predicted beside what was measured: the largest errors, or all when asked."""
    for target in report.targets:
        found = target.verification
        if found is None:
            continue
        name = _name(target.name, view)
        passes = f"{_count(found.seeds, 'real backward pass', 'es')} in {found.dtype}"
        yield from _wrapped(f"{name} beside {passes}: {found}", "  ", view, (name, "bold"))
        every = (*found.inputs, *found.gradient.entries, *found.small)
        shown = every if view.verbose else found.gradient.worst(_WORST)
        width = max((len(str(Place(e.kind, e.name))) for e in shown), default=0)
        if shown:
            yield Text(f"  {'gradient of':{width}}  {'predicted':>9}  {'measured':>9}  {'bits':>6}  spread", "bold")
        for e in shown:
            bits = f"{e.bits:+.2f}" if math.isfinite(e.bits) else "-"
            style = "" if abs(e.bits) <= max(1.0, 3 * e.noise) or bits == "-" else _BLAME
            place = str(Place(e.kind, e.name))
            yield Text(f"  {place:{width}}  {e.predicted:9.3g}  {e.measured:9.3g}  {bits:>6}  ±{e.noise:.2f}", style)
        if len(every) > len(shown):
            yield Text(f"  {_count(len(every) - len(shown), 'more tensor')} with smaller errors: -v")
        for what in (*map(str, found.zeros), *(f"not predicted: {n}" for n in found.missing)) if view.verbose else ():
            yield from _wrapped(f"  {what}", "    ", view, (what, _BLAME))


def _summary(report: Report) -> Text:
    models = _count(len(report.targets), "model")
    if report.failures:
        deed = "verified" if all(failure["stage"] == "verify" for failure in report.failures) else "analysed"
        failed = _count(len({failure["target"] for failure in report.failures}), "target") + f" could not be {deed}"
    if not report.findings:
        if report.failures:
            rest = f"; {models} checked without findings, {report.coverage}" if report.targets else ""
            return Text.assemble((failed[0].upper() + failed[1:], _BLAME), rest, _accepted(report))
        return Text.assemble(("All checks passed!", "bold green"), f" {models}, {report.coverage}", _accepted(report))
    counts = Counter(finding.severity for finding in report.findings)
    found = ", ".join(
        _count(counts[severity], str(severity)) for severity in (Severity.ERROR, Severity.WARNING) if counts[severity]
    )
    if counts[Severity.INFO]:
        found += (", " if found else "") + f"{counts[Severity.INFO]} info"
    if wrong := sum(finding.verified == "contradicted" for finding in report.findings):
        found += f" ({wrong} CONTRADICTED by real backward passes)"
    worst = max(report.findings, key=lambda finding: finding.severity.rank)
    style = _STYLE[worst.severity]
    tail = f" in {models} ({report.coverage}){_accepted(report)}; " + (f"{failed}; " if report.failures else "")
    return Text.assemble((f"Found {found}", style), tail, "run ", (f"gradlint explain {worst.code}", "bold"))


def _accepted(report: Report) -> str:
    """What does not count, and why."""
    counts = Counter(finding.suppressed for finding in report.suppressed)
    parts = [f"{counts['comment']} by comments"] if counts["comment"] else []
    parts += [f"{counts['baseline']} by the baseline"] if counts["baseline"] else []
    before = f"; {counts['base']} as in {report.changes.base}" if report.changes is not None and counts["base"] else ""
    return (f"; accepted: {', '.join(parts)}" if parts else "") + before


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}{plural}"


def _times(log2: float) -> str:
    """A gain in bits as a factor with two significant digits: ``×4.3e5``."""
    if not abs(log2) < 1000:
        return f"×2^{log2:.0f}"
    factor = 2.0**log2
    if 9.95e-4 <= factor < 9999.5:
        return f"×{factor:#.2g}".rstrip(".") if factor < 99.5 else f"×{factor:.0f}"
    mantissa, exponent = f"{factor:.1e}".split("e")
    return f"×{mantissa}e{int(exponent)}"


def _place(place: Location, view: View) -> str:
    return f"{relative(place.path, view.root)}:{place.line}:{place.column}"


def _name(target: str, view: View) -> str:
    """A target, its file relative."""
    path, colon, name = target.rpartition(":")
    return f"{relative(path, view.root)}{colon}{name}" if colon else relative(target, view.root)


def _wrapped(text: str, indent: str, view: View, highlight: tuple[str, str]) -> Iterator[Text]:
    """``text`` in the width of the terminal, continued at ``indent``, one word of its first line in a style."""
    width = view.width or 10**9
    lines = textwrap.wrap(text, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        shown = Text(line)
        if number == 0:
            start = line.find(highlight[0])
            shown.stylize(highlight[1], start, start + len(highlight[0]))
        yield shown


def _paint(lines: Iterable[Text], view: View) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=view.color, color_system="standard" if view.color else None, width=10**6)
    for line in lines:
        line.rstrip()
        console.print(line, soft_wrap=True, highlight=False)
    return out.getvalue().rstrip("\n")
