"""From what the rules say to what is reported: rules that crash, ignores, comments, the baseline, and the rules about the run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import fx

from gradlint import baseline
from gradlint.config import Settings
from gradlint.errors import AnalysisError, TargetError
from gradlint.findings import Finding, Location, TargetReport
from gradlint.packs import Catalogue
from gradlint.rule import Context, Crash, Rule, Run, Segment, Stale, Unused
from gradlint.suppression import Suppression, suppressions, unused_of

__all__ = ["Review", "Verdict"]

_log = logging.getLogger("gradlint")


@dataclass(frozen=True)
class Verdict:
    """What is reported of a run.

    Args:
        findings: those that count.
        suppressed: those that a comment or the baseline accepts.
        failures: rules that crashed.
    """

    findings: tuple[Finding, ...]
    suppressed: tuple[Finding, ...]
    failures: tuple[TargetError, ...]


@dataclass
class Review:
    """Hears the rules about one model after the other, then judges the run."""

    catalogue: Catalogue
    settings: Settings
    rules: tuple[Rule, ...] = ()
    _seen: set[tuple[str, int]] = field(default_factory=set)
    _crashes: list[Crash] = field(default_factory=list)
    _failures: list[TargetError] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose the rules; what no rule is called is refused before any work is done."""
        self.settings = self.catalogue.current(self.settings)
        self.rules = self.catalogue.choose(self.settings)

    def judge(self, context: Context) -> list[Finding]:
        """What the rules find in a model and its settings do not ignore. One that crashes is noted, and the others are heard."""
        self._seen |= set(_lines(context))
        findings: list[Finding] = []
        for rule in self.rules:
            if context.settings.wants(rule.code, rule.name):  # the model may have ignores of its own
                with self._noted(rule, context):
                    findings += rule.check(context)
        return [finding for finding in findings if not context.settings.drops(finding)]

    def conclude(self, findings: Sequence[Finding], targets: Sequence[TargetReport]) -> Verdict:
        """What counts of all that was found.

        Args:
            findings: of all models.
            targets: the models that were analysed.
        """
        root = self.settings.root
        left, by_comment, unused = self._without_comments(sorted(findings, key=_order))
        left = baseline.fingerprinted(left, targets, root)
        by_baseline: list[Finding] = []
        stale: list[Stale] = []
        if self.settings.baseline is not None:
            entries = baseline.read(self.settings.baseline)
            names, codes = [t.name for t in targets], [rule.code for rule in self.rules]
            left, by_baseline, stale = baseline.accept(left, entries, self.settings.baseline, names, codes, root)
        about = self._about(Run(tuple(self._crashes), unused, tuple(stale)))
        left += baseline.fingerprinted(sorted(about, key=_order), (), root)
        suppressed = [*baseline.fingerprinted(by_comment, targets, root), *by_baseline]
        return Verdict(tuple(sorted(left, key=_order)), tuple(sorted(suppressed, key=_order)), tuple(self._failures))

    def _without_comments(self, findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding], tuple[Unused, ...]]:
        files = sorted({path for path, _ in self._seen} | {f.location.path for f in findings if f.location is not None})
        prefixes = {rule.code.rstrip("0123456789") for rule in self.catalogue.rules}
        comments = [comment for path in files for comment in suppressions(path, prefixes)]
        former = {rule.code: rule.formerly for rule in self.rules}
        used: set[tuple[Suppression, str]] = set()
        left: list[Finding] = []
        accepted: list[Finding] = []
        for finding in findings:
            hits = [(c, s) for c in comments if (s := c.selector_of(finding, former[finding.code])) is not None]
            used.update(hits)
            if hits:
                accepted.append(replace(finding, suppressed="comment"))
            else:
                left.append(finding)
        ran = [(rule.code, name) for rule in self.rules for name in (rule.name, *rule.formerly)]
        return left, accepted, unused_of(comments, used, self._seen, ran, self.catalogue.words)

    def _about(self, run: Run) -> list[Finding]:
        """What the rules say about the run."""
        findings: list[Finding] = []
        for rule in self.rules:
            with self._noted(rule, None):
                findings += [finding for finding in rule.review(run) if not self.settings.drops(finding)]
        return findings

    @contextmanager
    def _noted(self, rule: Rule, context: Context | None) -> Iterator[None]:
        """A rule that raises is a failure of the model, and known to the rules about the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a bug in one rule must not lose the others
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            node, location, where = _caught(error.__traceback__, rule, context)
            target = "" if context is None else context.target
            self._crashes.append(Crash(rule.code, text, target, node, location, where))
            failure = AnalysisError(
                f"rule {rule.code} failed{f' at {node}' if node else ''}: {text}",
                target=target,
                where=where,
                hint="this is a bug in the rule; -v shows the traceback to report",
            )
            failure.__cause__ = error
            self._failures.append(failure)
            _log.debug("%s: %s", target, failure.message, exc_info=error)


def _lines(context: Context) -> Iterator[tuple[str, int]]:
    """Path and line of everything in the user's code that the model is made of."""
    traced = context.analysis.flowed.traced
    places: list[Location | None] = [traced.location]
    places += [record.constructed for record in traced.modules.values()]
    places += [step.location for step in context.steps.values()]
    for record in context.parameters.values():
        places += [record.location, record.law.location]
    return ((place.path, place.line) for place in places if place is not None)


def _caught(trace: TracebackType | None, rule: Rule, context: Context | None) -> tuple[str, Location | None, str]:
    """What a rule was looking at when it raised: the op or parameter, its line, and the line in the rule."""
    own = Path(inspect.getfile(type(rule))).parent
    node, location, where = "", None, ""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    for frame, line in reversed(frames):
        if Path(frame.f_code.co_filename).parent != own:
            continue
        where = where or f"{frame.f_code.co_filename}:{line}"
        if context is not None and not node:
            node, location = _looked_at(reversed(frame.f_locals.values()), context)
    if location is None and context is not None:
        location = context.constructed("")
    return node, location, where


def _looked_at(values: Iterable[Any], context: Context) -> tuple[str, Location | None]:
    """The first of some values that names an op or a parameter of the model."""
    for value in values:
        name = value.end if isinstance(value, Segment) else value.name if isinstance(value, fx.Node) else value
        if isinstance(name, str) and name in context.steps:
            return name, context.steps[name].location
        if isinstance(name, str) and name in context.parameters:
            return name, context.guilty_line(name)
    return "", None


def _order(finding: Finding) -> tuple[Any, ...]:
    place = finding.location
    where = (1, "", 0, 0) if place is None else (0, place.path, place.line, place.column)
    return (*where, finding.code, finding.target, finding.module, finding.message)
