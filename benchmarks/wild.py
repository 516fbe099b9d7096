"""Published failures, and the networks that repaired them: does gradlint say what happened? fixtures/wild.

    python -m benchmarks.wild                    the table and its summary
    python -m benchmarks.wild --only messages    cases whose name contains it
    python -m benchmarks.wild --write            also commit the table to README.md

The cases are rebuilt from what was published (fixtures/wild/cases.toml); nothing in gradlint was fitted to them.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tomllib
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gradlint
from benchmarks._tables import between
from gradlint.findings import Severity
from gradlint.packs import load_rules
from gradlint.rule import Context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from gradlint.findings import Finding

WILD = Path(__file__).resolve().parent.parent / "fixtures" / "wild"
CASES: dict[str, dict[str, Any]] = tomllib.loads((WILD / "cases.toml").read_text(encoding="utf-8"))
HEAD = ("case", "published", "tier", "verdict", "codes", "gain measured", "predicted", "as published")

DECADES = 0.5
"""How far a predicted gain may be from the measured one, in powers of ten."""


@dataclass(frozen=True)
class Outcome:
    """What gradlint says of one case.

    Args:
        findings: the gravest first.
        gain: predicted, from the output to the input, in bits; None where no gradient arrives.
    """

    key: str
    findings: tuple[Finding, ...]
    gain: float | None

    @property
    def case(self) -> dict[str, Any]:
        return CASES[self.key]

    @property
    def verdict(self) -> str:
        """The gravest severity, or ``clean``; findings of severity info do not count."""
        grave = [f.severity for f in self.findings if f.severity.rank >= Severity.WARNING.rank]
        return str(max(grave, key=lambda s: s.rank)) if grave else "clean"

    @property
    def blames(self) -> bool:
        """A finding among the first three is on the guilty line."""
        return any(self.case["blamed"] in line(f) for f in self.findings[:3])

    @property
    def decades(self) -> float | None:
        """Predicted over measured gain, in powers of ten; None where either is zero or not known."""
        measured = self.case.get("gain", 0.0)
        return None if self.gain is None or measured == 0.0 else self.gain * math.log10(2) - math.log10(measured)

    def misses(self) -> list[str]:
        """What is not as published."""
        case, found = self.case, []
        if case["tier"] == "core" and case["expected"] == "healthy" and self.verdict != "clean":
            found.append("a finding on a model that trains")
        if case["tier"] == "core" and case["expected"] in {"explode", "vanish"} and self.verdict != "error":
            found.append("no error")
        if case["tier"] == "core" and case["expected"] == "nan" and self.verdict == "clean":
            found.append("no finding")
        if case["tier"] == "core" and self.verdict != "clean" and case.get("blamed") and not self.blames:
            found.append("another line blamed")
        if case["tier"] == "config" and self.verdict == "error":
            found.append("an error")
        if case["tier"] == "boundary" and "trained" in case.get("trained", ()) and self.verdict == "error":
            found.append("an error on a model that trains")
        if self.decades is not None and abs(self.decades) > DECADES:
            found.append(f"gain {self.decades:+.1f} decades")
        return found


def line(finding: Finding) -> str:
    """The source line of a finding."""
    place = finding.location
    return "" if place is None else Path(place.path).read_text(encoding="utf-8").splitlines()[place.line - 1]


@cache
def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"wild_{name}", WILD / name)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@cache
def judged(key: str) -> Outcome:
    """Analyse one case and hear every rule."""
    file, _, name = key.partition(":")
    context = Context(gradlint.analyze(getattr(module(file), name), CASES[key]["inputs"]), key)
    findings = [finding for rule in load_rules().rules for finding in rule.check(context)]
    findings.sort(key=lambda f: (-f.severity.rank, -abs(float(f.evidence.get("log2", 0.0))), f.code))
    paths = context.paths
    return Outcome(key, tuple(findings), paths.gains.get(paths.entries[0]) if paths.entries else None)


def cells(outcome: Outcome) -> tuple[str, ...]:
    case = outcome.case
    codes = dict.fromkeys(f.code for f in outcome.findings if f.severity.rank >= Severity.WARNING.rank)
    measured = f"{case['gain']:.3g}" if "gain" in case else ""
    predicted = "0" if outcome.gain is None else f"{2.0**outcome.gain:.3g}"
    misses = "; ".join(outcome.misses()) or "yes"
    return outcome.key, case["expected"], case["tier"], outcome.verdict, " ".join(codes), measured, predicted, misses


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for tier in ("core", "boundary", "config"):
        of = [o for o in outcomes if o.case["tier"] == tier]
        right = [o for o in of if not any("gain" not in miss for miss in o.misses())]
        lines.append(f"{tier}: the verdict as published on {len(right)} of {len(of)}")
    known = [abs(o.decades) for o in outcomes if o.decades is not None]
    close = sum(d <= DECADES for d in known)
    lines.append(f"gain within {DECADES:g} decades of the measured one: {close} of {len(known)}")
    return lines


def write(outcomes: Sequence[Outcome]) -> None:
    lines = [f"- {text}" for text in summary(outcomes)] + ["", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(cells(outcome))} |" for outcome in outcomes]
    between("wild", lines)


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes = []
    for key in CASES:
        if options.only in key:
            outcomes.append(judged(key))
            print("  ".join(cells(outcomes[-1])), flush=True)
    print("\n".join(summary(outcomes)))
    if options.write and not options.only:
        write(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
