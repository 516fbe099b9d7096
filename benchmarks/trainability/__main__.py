"""Does gradlint's verdict predict training? Random networks, trained for real with three optimisers.

python -m benchmarks.trainability label --count 1500   train what is not labelled yet of the first 1,500 configurations
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from benchmarks.trainability import labels

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    label = commands.add_parser("label")
    label.add_argument("--count", type=int, required=True)
    options = parser.parse_args(args)
    if options.command == "label":
        labels.extend(options.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
