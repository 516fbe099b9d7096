"""From what was found in every target to what is reported: comments, the baseline, the rules about the run. No torch.

Each target is judged by itself (:class:`Judged`), in this process or in one of its own; a run is concluded once all are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from gradlint import baseline
from gradlint._version import __version__
from gradlint.config import Settings
from gradlint.findings import Finding, Report, TargetReport
from gradlint.rulebook import Catalogue, Listed
from gradlint.run import Crash, Run, Stale, Unused
from gradlint.suppression import Suppression, suppressions, unused_of

__all__ = ["Asked", "Judged", "conclude"]


@dataclass(frozen=True)
class Judged:
    """What is known of one target before the run is concluded.

    Args:
        targets: its models that were analysed.
        findings: of these, without those that the configuration ignores.
        failures: what could not be done, as ``TargetError.to_dict()`` gives it.
        crashes: rules that raised.
        broken: the failures of these.
        seen: path and line of everything in the user's code that the models are made of.
        sources: the text of what the above names as a file and is none: the cells of a notebook.
    """

    targets: tuple[TargetReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Mapping[str, str], ...] = ()
    crashes: tuple[Crash, ...] = ()
    broken: tuple[Mapping[str, str], ...] = ()
    seen: tuple[tuple[str, int], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the rules about the run say of it.

    Args:
        failures: those that crashed.
    """

    findings: tuple[Finding, ...] = ()
    failures: tuple[Mapping[str, str], ...] = ()


def conclude(judged: Sequence[Judged], settings: Settings, catalogue: Catalogue[Listed], ask: Callable[[Run], Asked]) -> Report:
    """What counts of all that was found.

    Args:
        judged: one for each target, in the order in which they were asked for.
        settings: with present codes (:meth:`~gradlint.rulebook.Catalogue.current`).
        ask: hears the rules about the run; called only where there is something to say of it.
    """
    rules, root = catalogue.choose(settings), settings.root
    targets = tuple(chain.from_iterable(one.targets for one in judged))
    findings = sorted(chain.from_iterable(one.findings for one in judged), key=_order)
    left, by_comment, unused = _without_comments(findings, judged, catalogue, rules)
    left = baseline.fingerprinted(left, targets, root)
    by_baseline: list[Finding] = []
    stale: list[Stale] = []
    if settings.baseline is not None:
        entries = baseline.read(settings.baseline)
        names, codes = [t.name for t in targets], [rule.code for rule in rules]
        left, by_baseline, stale = baseline.accept(left, entries, settings.baseline, names, codes, root)
    run = Run(tuple(chain.from_iterable(one.crashes for one in judged)), unused, tuple(stale))
    asked = ask(run) if run != Run() and any(rule.reviews for rule in rules) else Asked()
    left += baseline.fingerprinted(sorted(asked.findings, key=_order), (), root)
    suppressed = [*baseline.fingerprinted(by_comment, targets, root), *by_baseline]
    failures = chain(*(one.failures for one in judged), *(one.broken for one in judged), asked.failures)
    return Report(
        targets=targets,
        findings=tuple(sorted(left, key=_order)),
        failures=tuple(failures),
        fail_on=settings.fail_on,
        version=__version__,
        suppressed=tuple(sorted(suppressed, key=_order)),
        pages=tuple(rule.page for rule in rules),
    )


def _without_comments(
    findings: Sequence[Finding], judged: Sequence[Judged], catalogue: Catalogue[Listed], rules: Sequence[Listed]
) -> tuple[list[Finding], list[Finding], tuple[Unused, ...]]:
    """The findings that no comment accepts, those that one does, and the comments that accept nothing."""
    seen = set(chain.from_iterable(one.seen for one in judged))
    files = sorted({path for path, _ in seen} | {f.location.path for f in findings if f.location is not None})
    prefixes = {rule.code.rstrip("0123456789") for rule in catalogue.rules}
    comments = [comment for path in files for comment in suppressions(path, prefixes)]
    former = {rule.code: rule.formerly for rule in rules}
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
    ran = [(rule.code, name) for rule in rules for name in (rule.name, *rule.formerly)]
    return left, accepted, unused_of(comments, used, seen, ran, catalogue.words)


def _order(finding: Finding) -> tuple[Any, ...]:
    place = finding.location
    where = (1, "", 0, 0) if place is None else (0, place.path, place.line, place.column)
    return (*where, finding.code, finding.target, finding.module, finding.message)
