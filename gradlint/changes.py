"""What changed between two reports: models, their numbers, and their findings as a baseline knows them again. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gradlint.baseline import fingerprinted, merged, paired, worse
from gradlint.findings import Changes, Finding, Report, TargetChange, TargetReport

__all__ = ["compare"]


def compare(old: Report, new: Report, base: str, root: Path) -> Report:
    """The new report with what changed, of which only the findings count that the old one has not.

    A finding that was there counts again where only now it is as severe as what fails the run. Models are the same by their name;
    else by the name of their class or function, where that is unambiguous; else if there is one on either side.

    Args:
        base: what the old one is called.
        root: files of targets count from here.
    """
    names = _same(old.targets, new.targets)
    was = [replace(target, name=names.get(target.name, target.name)) for target in old.targets]
    before = fingerprinted([replace(f, target=names.get(f.target, f.target)) for f in old.findings], was, root)
    after = fingerprinted(new.findings, new.targets, root)
    entries = merged(before, (), {finding.target for finding in before}, root)
    pairs, left = paired(after, entries, root)
    kept = {finding.fingerprint: finding for finding in before}
    origin = {fingerprint: kept[entry.fingerprint] for fingerprint, entry in pairs.items()}
    grown = {
        finding.fingerprint
        for finding in after
        if finding.fingerprint in pairs
        and (worse(finding, entry := pairs[finding.fingerprint]) or finding.severity.rank > entry.severity.rank)
    }
    counts = [f for f in after if f.fingerprint not in origin or _only_now(f, origin[f.fingerprint], new)]
    known = [replace(f, suppressed="base") for f in after if f not in counts]
    gone = [kept[entry.fingerprint] for entry in left]
    changes = []
    for name in _names(was, new.targets, before, after):
        mine = [finding for finding in after if finding.target == name]
        changes.append(
            TargetChange(
                name=name,
                before=next((target for target in was if target.name == name), None),
                after=next((target for target in new.targets if target.name == name), None),
                unknown=_why(old, name),
                new=tuple(f for f in mine if f.fingerprint not in origin),
                worse=tuple(f for f in mine if f.fingerprint in grown),
                kept=tuple(f for f in mine if f.fingerprint in origin and f.fingerprint not in grown),
                fixed=tuple(f for f in gone if f.target == name),
            )
        )
    return replace(new, findings=tuple(counts), suppressed=(*new.suppressed, *known), changes=Changes(base, tuple(changes)))


def _only_now(now: Finding, then: Finding, report: Report) -> bool:
    """Whether a finding fails the run now, and did not then."""
    limit = report.fail_on
    return limit is not None and then.severity.rank < limit.rank <= now.severity.rank


def _same(old: Sequence[TargetReport], new: Sequence[TargetReport]) -> dict[str, str]:
    """Names of old models to those of the new ones that they became."""
    before, after = [t.name for t in old], [t.name for t in new]
    found = {name: name for name in before if name in after}
    left, right = [n for n in before if n not in found], [n for n in after if n not in found]
    once_left, once_right = Counter(map(_model, left)), Counter(map(_model, right))
    for name in left:
        model = _model(name)
        if once_left[model] == once_right[model] == 1:
            found[name] = next(other for other in right if _model(other) == model)
    if len(before) == len(after) == 1:
        found[before[0]] = after[0]
    return found


def _model(target: str) -> str:
    return target.rpartition(":")[2]


def _names(
    was: Iterable[TargetReport], now: Iterable[TargetReport], before: Iterable[Finding], after: Iterable[Finding]
) -> list[str]:
    """Every model of either report, the new ones first."""
    names = [*(t.name for t in now), *(t.name for t in was), *(f.target for f in after), *(f.target for f in before)]
    return list(dict.fromkeys(names))


def _why(old: Report, name: str) -> str:
    """Why nothing is known of what a model was."""
    file = name.rpartition(":")[0] or name
    return next((failure["message"] for failure in old.failures if failure["target"] in (name, file)), "")
