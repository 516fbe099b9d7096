"""Accepted findings as a ratchet: they pass until they get worse, and what no longer occurs is reported. No torch.

A finding is known again by what does not change when code is moved or renamed: its target, its rule, the type of the module and
the quantity it is about. Several that share these are told apart by their module's path where it is unchanged, and else by
their size: the worst of the old is compared with the worst of the new. Where the class of the module has another name, the same
numbers tell.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradlint.comparison import significant
from gradlint.errors import UsageError
from gradlint.facts import TargetReport
from gradlint.findings import Finding, Location, Severity
from gradlint.run import Stale

__all__ = ["Accepted", "accept", "collapsed", "fingerprinted", "merged", "paired", "read", "worse", "write"]

VERSION = 1
_WORSE = math.log2(1.1)  # bits: an accepted finding may get 10 % worse


@dataclass(frozen=True)
class Accepted:
    """One entry of a baseline.

    Args:
        fingerprint: of the finding when it was accepted; unique in its file.
        key: what it shares with findings that look alike.
        module: path of the module, numbers left out.
        measured: the finding's number; None where it has none.
        expected: the number that it should have been.
        reason: why it is accepted.
        line: of the reason in the file; 0 where it was not read from one.
    """

    fingerprint: str
    key: str
    code: str
    target: str
    module: str
    severity: Severity
    measured: float | None
    expected: float | None
    reason: str = ""
    line: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The entry as the file shows it."""
        return {
            "code": self.code,
            "target": self.target,
            "module": self.module,
            "severity": str(self.severity),
            "measured": significant(self.measured),
            "expected": significant(self.expected),
            "key": self.key,
            "fingerprint": self.fingerprint,
            "reason": self.reason,
        }


def fingerprinted(findings: Sequence[Finding], targets: Iterable[TargetReport], root: Path) -> list[Finding]:
    """The findings, each with its fingerprint.

    Args:
        findings: in the order of the report; of those that look alike the first is the first.
        targets: they know the types of the modules.
        root: files of targets count from here.
    """
    types = {(t.name, m.name): m.type for t in targets for m in t.modules}
    seen: dict[str, int] = {}
    out = []
    for finding in findings:
        key = _key(finding, types.get((finding.target, finding.module), ""), root)
        number = seen[key] = seen.get(key, 0) + 1
        out.append(replace(finding, fingerprint=key if number == 1 else f"{key}-{number}"))
    return out


def accept(
    findings: Sequence[Finding], accepted: Sequence[Accepted], path: Path, judged: Iterable[str], codes: Iterable[str], root: Path
) -> tuple[list[Finding], list[Finding], list[Stale]]:
    """What counts, what is accepted, and what of the baseline is stale.

    Args:
        findings: with fingerprints.
        judged: the targets that were analysed; an entry of another is not stale.
        codes: of the rules that ran, likewise.
    """
    pairs, left = paired(findings, accepted, root)
    names, codes = {_identity(target, root) for target in judged}, set(codes)
    stale = [
        Stale(Location(str(path), e.line), e.code, e.target, e.module) for e in left if e.target in names and e.code in codes
    ]
    counts: list[Finding] = []
    passes: list[Finding] = []
    for finding in findings:
        entry = pairs.get(finding.fingerprint)
        if entry is None:
            counts.append(finding)
        elif (how := worse(finding, entry)) is None:
            passes.append(replace(finding, suppressed="baseline"))
        else:
            counts.append(replace(finding, notes=(*finding.notes, f"accepted in {path.name}, but {how}")))
    return counts, passes, stale


def merged(
    findings: Sequence[Finding],
    old: Sequence[Accepted],
    judged: Iterable[str],
    root: Path,
    *,
    prune: bool = False,
    reason: str = "",
) -> list[Accepted]:
    """The entries of a new baseline: what was found, and the old entries of targets that were not analysed.

    Args:
        findings: all that a run without a baseline reports of these targets.
        prune: accept nothing new, and nothing that got worse: only leave out what no longer occurs.
        reason: why the new ones are accepted; those that were accepted before keep theirs.
    """
    names = {_identity(target, root) for target in judged}
    kept = [entry for entry in old if entry.target not in names]
    pairs, _ = paired(findings, old, root)
    found = []
    for finding in findings:
        before = pairs.get(finding.fingerprint)
        if prune and before is not None:
            found.append(before)
        elif not prune:
            found.append(replace(_entry(finding, root), reason=reason if before is None else before.reason))
    return sorted([*kept, *found], key=lambda e: (e.target, e.code, e.module, e.fingerprint))


def read(path: Path) -> list[Accepted]:
    """The entries of a file.

    Raises:
        UsageError: it cannot be read, or another version of gradlint wrote it.
    """
    try:
        text = path.read_text("utf-8")
        document = json.loads(text)
        if document["schema_version"] != VERSION:
            raise UsageError(f"baseline: {path} has version {document['schema_version']}, not {VERSION}: write it anew")
        lines = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r'\s*"reason":', line)]
        return [_parsed(item, line) for item, line in zip(document["findings"], lines, strict=True)]
    except (OSError, UnicodeDecodeError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"baseline: {path} cannot be read: {error}") from error


def write(path: Path, entries: Iterable[Accepted], version: str) -> None:
    """Write a file; the same findings give the same bytes.

    Raises:
        UsageError: it cannot be written.
    """
    document = {"schema_version": VERSION, "gradlint_version": version, "findings": [entry.to_dict() for entry in entries]}
    try:
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"baseline: {path} cannot be written: {error}") from error


def paired(findings: Iterable[Finding], accepted: Iterable[Accepted], root: Path) -> tuple[dict[str, Accepted], list[Accepted]]:
    """Each accepted finding's entry, by its fingerprint, and the entries that are left."""
    known: dict[str, list[Accepted]] = {}
    for entry in accepted:
        known.setdefault(entry.key, []).append(entry)
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_bare(finding.fingerprint), []).append(finding)
    pairs: dict[str, Accepted] = {}
    left: list[Accepted] = []
    for key, entries in known.items():
        matched, unmatched = _pair(entries, alike.get(key, []))
        pairs.update(matched)
        left += unmatched
    for finding in (f for found in alike.values() for f in found if f.fingerprint not in pairs):
        renamed = next((entry for entry in left if _renamed(entry, finding, root)), None)
        if renamed is not None:
            pairs[finding.fingerprint] = renamed
            left.remove(renamed)
    return pairs, left


def _renamed(entry: Accepted, finding: Finding, root: Path) -> bool:
    """Whether a finding is an accepted one though the class of its module has another name: the numbers are the same."""
    if (entry.code, entry.target) != (finding.code, _identity(finding.target, root)):
        return False
    return tuple(map(significant, _numbers(finding))) == (significant(entry.measured), significant(entry.expected))


def _pair(entries: list[Accepted], findings: list[Finding]) -> tuple[dict[str, Accepted], list[Accepted]]:
    """Entries and findings that look alike, paired: those at the same module first, then by size."""
    pairs: dict[str, Accepted] = {}
    entries, findings = list(entries), list(findings)
    for finding in list(findings):
        same = next((e for e in entries if e.module == collapsed(finding.module)), None)
        if same is not None:
            pairs[finding.fingerprint] = same
            entries.remove(same)
            findings.remove(finding)
    entries.sort(key=lambda e: -(_size(e.measured, e.expected) or 0.0))
    findings.sort(key=lambda f: -(_size(*_numbers(f)) or 0.0))
    pairs.update({finding.fingerprint: entry for finding, entry in zip(findings, entries, strict=False)})
    return pairs, entries[len(findings) :]


def worse(finding: Finding, entry: Accepted) -> str | None:
    """How much worse than accepted a finding is; None when it is not."""
    measured, expected = _numbers(finding)
    now, then = _size(measured, expected), _size(entry.measured, entry.expected)
    if now is None or then is None:
        return f"{entry.severity} then" if finding.severity.rank > entry.severity.rank else None
    if now <= then + _WORSE:
        return None
    return f"{measured:.4g} is {100 * (2 ** min(now - then, 1000) - 1):.3g} % worse than {entry.measured:.4g}"


def _size(measured: float | None, expected: float | None) -> float | None:
    """Bits between a number and what it should have been; None where it is none of both."""
    if measured is None or expected is None or measured < 0 or expected <= 0:
        return None
    return math.inf if measured == 0.0 else abs(math.log2(measured / expected))


def _numbers(finding: Finding) -> tuple[float | None, float | None]:
    measured, expected = (_number(finding.evidence.get(name)) for name in ("measured", "expected"))
    return measured, expected


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _entry(finding: Finding, root: Path) -> Accepted:
    measured, expected = _numbers(finding)
    target = _identity(finding.target, root)
    key = _bare(finding.fingerprint)
    return Accepted(
        finding.fingerprint, key, finding.code, target, collapsed(finding.module), finding.severity, measured, expected
    )


def _parsed(item: Mapping[str, Any], line: int) -> Accepted:
    fingerprint, key, code, target, module, reason = (
        str(item[name]) for name in ("fingerprint", "key", "code", "target", "module", "reason")
    )
    measured, expected = (_number(item[name]) for name in ("measured", "expected"))
    return Accepted(fingerprint, key, code, target, module, Severity(item["severity"]), measured, expected, reason, line)


def _key(finding: Finding, module_type: str, root: Path) -> str:
    parts = (_identity(finding.target, root), finding.code, module_type, str(finding.evidence.get("quantity", "")))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _bare(fingerprint: str) -> str:
    return fingerprint.partition("-")[0]


def collapsed(module: str) -> str:
    """The path of a module, its numbers left out.

    >>> collapsed("blocks.12.fc")
    'blocks.*.fc'
    """
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", module)


def _identity(target: str, root: Path) -> str:
    """A target as the file names it: its path from ``root``, whatever the working directory."""
    file, colon, name = target.rpartition(":")
    path, root = Path(file if colon else target).resolve(), root.resolve()
    if path.exists() and path.is_relative_to(root):
        return f"{path.relative_to(root).as_posix()}{colon}{name if colon else ''}"
    return target
