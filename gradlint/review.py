"""What the rules say: of one model after the other, and of the run. One that crashes is noted, and the others are heard."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import fx

from gradlint.config import Settings
from gradlint.errors import AnalysisError, TargetError
from gradlint.findings import Finding, Location
from gradlint.report.catalogue import page_of
from gradlint.rule import Context, Crash, Rule, Run, Segment
from gradlint.rulebook import Catalogue, Listed

__all__ = ["Review", "listed"]

_log = logging.getLogger("gradlint")


@dataclass
class Review:
    """Hears the rules.

    Args:
        settings: those of the run, with present codes.
        rules: those it asks.
        seen: path and line of everything in the user's code that the models are made of.
        crashes: the rules that raised.
        failures: what is reported of them.
    """

    catalogue: Catalogue[Rule]
    settings: Settings
    rules: tuple[Rule, ...] = ()
    seen: set[tuple[str, int]] = field(default_factory=set)
    crashes: list[Crash] = field(default_factory=list)
    failures: list[TargetError] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose the rules."""
        self.rules = self.catalogue.choose(self.settings)

    def judge(self, context: Context) -> list[Finding]:
        """What the rules find in a model and its settings do not ignore. One that crashes is noted, and the others are heard."""
        self.seen |= set(_lines(context))
        findings: list[Finding] = []
        for rule in self.rules:
            if context.settings.wants(rule.code, rule.name):  # the model may have ignores of its own
                with self._noted(rule, context):
                    findings += rule.check(context)
        return [finding for finding in findings if not context.settings.drops(finding)]

    def about(self, run: Run) -> list[Finding]:
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
            self.crashes.append(Crash(rule.code, text, target, node, location, where))
            failure = AnalysisError(
                f"rule {rule.code} failed{f' at {node}' if node else ''}: {text}",
                target=target,
                where=where,
                hint="this is a bug in the rule; -v shows the traceback to report",
            )
            failure.__cause__ = error
            self.failures.append(failure)
            _log.debug("%s: %s", target, failure.message, exc_info=error)


def listed(catalogue: Catalogue[Rule]) -> Catalogue[Listed]:
    """The rules without their code."""
    rules = (
        Listed(r.code, r.name, r.preview, r.formerly, type(r).review is not Rule.review, page_of(r)) for r in catalogue.rules
    )
    return Catalogue(tuple(rules), catalogue.removed)


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
