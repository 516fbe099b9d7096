"""Models that people train every day: what gradlint says of them, at default or stated initialisation. fixtures/zoo.

    python -m benchmarks.healthy                 every finding of severity warning or above, and their share
    python -m benchmarks.healthy --write         also commit the list to README.md

Read from fixtures/zoo/findings.txt, which ``benchmarks.findings`` writes and the tests keep true. An error on such a model is a
false alarm; a warning has its reason in benchmarks/healthy.toml, or is one as well.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._tables import between
from benchmarks.findings import EXPECTED, kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXPLAINED: Mapping[str, Mapping[str, str]] = tomllib.loads(Path(__file__).with_name("healthy.toml").read_text(encoding="utf-8"))

SHARE = 0.04
"""Of the models may have a warning."""


@dataclass(frozen=True)
class Outcome:
    """What gradlint says of one healthy model.

    Args:
        grave: a line for each finding of severity warning or above: ``GL101 exploding-path error at blocks``.
        failed: the model, or a rule on it, could not be judged.
    """

    key: str
    grave: tuple[str, ...]
    failed: bool

    @property
    def errors(self) -> list[str]:
        return [line for line in self.grave if " error at " in line]

    @property
    def unexplained(self) -> list[str]:
        return [line for line in self.grave if line.partition(" ")[0] not in EXPLAINED.get(self.key, {})]


def outcomes() -> list[Outcome]:
    found = kept()
    healthy = [key for key, expected in EXPECTED.items() if expected["verdict"] == "clean"]
    return [
        Outcome(
            key,
            tuple(line for line in found[key] if " warning at " in line or " error at " in line),
            any(line.startswith("failed[") for line in found[key]),
        )
        for key in healthy
    ]


def stale(found: Sequence[Outcome]) -> list[str]:
    """Explanations of what is no longer said."""
    said = {(outcome.key, line.partition(" ")[0]) for outcome in found for line in outcome.grave}
    return [f"{key} {code}" for key, codes in EXPLAINED.items() for code in codes if (key, code) not in said]


def summary(found: Sequence[Outcome]) -> list[str]:
    errors, noticed = sum(bool(o.errors) for o in found), sum(bool(o.grave) for o in found)
    return [
        f"{len(found)} models that are trained every day, at default or stated initialisation",
        f"with an error: {errors}; with a warning: {noticed} ({100 * noticed / len(found):.1f} %)",
        f"not judged: {sum(o.failed for o in found)}",
    ]


def write(found: Sequence[Outcome]) -> None:
    lines = [f"- {text}" for text in summary(found)] + ["", "| model | finding | why it is there |", "|---|---|---|"]
    for outcome in found:
        why = EXPLAINED.get(outcome.key, {})
        lines += [f"| {outcome.key} | {line} | {why.get(line.partition(' ')[0], '')} |" for line in outcome.grave]
    between("healthy", lines)


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    found = outcomes()
    for outcome in found:
        for line in outcome.grave:
            print(f"{outcome.key}: {line}{'  (not explained)' if line in outcome.unexplained else ''}")
    print("\n".join([*summary(found), *(f"explained, but no longer said: {text}" for text in stale(found))]))
    if options.write:
        write(found)
    return int(any(o.errors or o.unexplained or o.failed for o in found) or bool(stale(found)))


if __name__ == "__main__":
    sys.exit(main())
