"""Does gradlint's verdict predict training? Random networks, trained for real with three optimisers.

    python -m benchmarks.trainability label --count 1500   train what is not labelled yet of the first 1,500 configurations
    python -m benchmarks.trainability fit                  write the limits that the fit half gives to gradlint/fitted.py
    python -m benchmarks.trainability test                 judge the test half: the tables
    python -m benchmarks.trainability test --write         also commit them to benchmarks/README.md
    python -m benchmarks.trainability map                  verdict over depth and weight variance: trainability.svg

Labels are data (labels.jsonl): a later run only predicts. Even seeds are the fit half, odd ones the test half.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import torch

from benchmarks.trainability import fit, labels, phases, tables
from benchmarks.trainability.predictions import predictions
from benchmarks.trainability.scores import Case

if TYPE_CHECKING:
    from collections.abc import Sequence


def cases(half: str, *, judged: bool) -> list[Case]:
    rows = [row for row in labels.read() if (row["configuration"]["seed"] % 2 == 1) == (half == "test")]
    return [Case(row, found) for row, found in zip(rows, predictions(rows, judged=judged), strict=True)]


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("label").add_argument("--count", type=int, required=True)
    commands.add_parser("fit")
    commands.add_parser("map")
    commands.add_parser("test").add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    if options.command == "label":
        labels.extend(options.count)
    elif options.command == "fit":
        print(fit.write(cases("fit", judged=False)))
    elif options.command == "map":
        phases.draw()
    else:
        tables.show(cases("test", judged=True), write=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
