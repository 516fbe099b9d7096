"""How often each rule found something: ``--statistics``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from gradlint.findings import Finding, Report

__all__ = ["statistics"]


def statistics(report: Report) -> Iterator[Text]:
    """One line per rule, the most frequent first: how many findings, on how many models, how many more are accepted."""
    every = (*report.findings, *report.suppressed)
    counts = {code: [f for f in report.findings if f.code == code] for code in {finding.code for finding in every}}
    names = {finding.code: finding.name for finding in every}
    rows = []
    for code, found in sorted(counts.items(), key=lambda item: (-len(item[1]), item[0])):
        accepted = sum(finding.code == code for finding in report.suppressed)
        rows.append((str(len(found)), code, names[code], _told(found, accepted)))
    sizes = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for count, code, name, told in rows:
        yield Text.assemble((f"{count:>{sizes[0]}}  ", "bold"), f"{code:{sizes[1]}}  {name:{sizes[2]}}  {told}")
    if rows:
        yield Text()


def _told(found: list[Finding], accepted: int) -> str:
    models = len({finding.target for finding in found})
    parts = [f"in {models} model{'' if models == 1 else 's'}"] if found else []
    return ", ".join([*parts, f"{accepted} accepted"] if accepted else parts)
