"""Models that people train every day: what gradlint says of them, at default initialisation. fixtures/zoo.

    python -m benchmarks.healthy                 every finding of severity warning or above, and their share
    python -m benchmarks.healthy --only vit      models whose name contains it
    python -m benchmarks.healthy --write         also commit the list to README.md

An error on such a model is a false alarm. A warning is explained in benchmarks/healthy.toml, or it is one as well.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._tables import README
from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradlint.findings import Finding

HERE = Path(__file__).resolve().parent
ZOO = HERE.parent / "fixtures" / "zoo"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((ZOO / "expected.toml").read_text(encoding="utf-8"))
HEALTHY = tuple(key for key, expected in EXPECTED.items() if expected["verdict"] == "clean")
EXPLAINED: Mapping[str, Mapping[str, str]] = tomllib.loads((HERE / "healthy.toml").read_text(encoding="utf-8"))
START, END = "<!-- healthy:start -->", "<!-- healthy:end -->"

SHARE = 0.04
"""Of the models may have a warning."""


@dataclass(frozen=True)
class Outcome:
    """What gradlint says of one healthy model: findings of severity warning or above, and why it could not be analysed."""

    key: str
    findings: tuple[Finding, ...]
    failures: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity is Severity.ERROR]

    @property
    def unexplained(self) -> list[Finding]:
        return [f for f in self.findings if f.code not in EXPLAINED.get(self.key, {})]


def judged(key: str) -> Outcome:
    start = time.perf_counter()
    report = lint_targets([str(ZOO / key)], Settings(input=tuple(EXPECTED[key]["inputs"])))
    grave = tuple(f for f in report.findings if f.severity.rank >= Severity.WARNING.rank)
    return Outcome(key, grave, tuple(f["message"] for f in report.failures), time.perf_counter() - start)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    errors, noticed = sum(bool(o.errors) for o in outcomes), sum(bool(o.findings) for o in outcomes)
    return [
        f"{len(outcomes)} models that are trained every day, at default or stated initialisation",
        f"with an error: {errors}; with a warning: {noticed} ({100 * noticed / max(len(outcomes), 1):.1f} %); "
        f"not analysed: {sum(bool(o.failures) for o in outcomes)}",
    ]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    lines = ["| model | finding | why it is there |", "|---|---|---|"]
    for outcome in outcomes:
        for finding in outcome.findings:
            why = EXPLAINED.get(outcome.key, {}).get(finding.code, "")
            lines.append(f"| {outcome.key} | {finding.code} ({finding.severity}): {finding.message} | {why} |")
    return lines


def write(outcomes: Sequence[Outcome]) -> None:
    lines = [f"- {text}" for text in summary(outcomes)] + ["", *table(outcomes)]
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    README.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes = []
    for key in HEALTHY:
        if options.only in key:
            outcome = judged(key)
            outcomes.append(outcome)
            said = "; ".join(f"{f.severity} {f.code} {f.message}" for f in outcome.findings) or "clean"
            print(f"{key}  {outcome.seconds:.1f} s  {said}  {' '.join(outcome.failures)}", flush=True)
    print("\n".join(summary(outcomes)))
    if options.write and not options.only:
        write(outcomes)
    return int(any(o.errors or o.unexplained or o.failures for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
