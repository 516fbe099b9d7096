"""What gradlint says of every model of the zoo, as plain text that is kept: a change of it is a change for users.

    python -m benchmarks.findings            what differs from fixtures/zoo/findings.txt
    python -m benchmarks.findings --write    write that file, and say what the CHANGELOG has to explain

Numbers are left out: they move with every better formula. Lines of source are too: they move with every edit of a model.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from gradlint.baseline import collapsed
from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.findings import Report

__all__ = ["EXPECTED", "KEPT", "digest", "judged", "kept", "told"]

ROOT = Path(__file__).parent.parent
ZOO = ROOT / "fixtures" / "zoo"
KEPT = ZOO / "findings.txt"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((ZOO / "expected.toml").read_text("utf-8"))


@cache
def judged(key: str) -> Report:
    """The report of one model, by its key in ``expected.toml``."""
    return lint_targets([str(ZOO / key)], Settings(input=tuple(EXPECTED[key].get("inputs", ()))))


def told(report: Report) -> list[str]:
    """The findings of a report, one line each, and its failures."""
    lines = [f"{f.code} {f.name} {f.severity} at {collapsed(f.module) or 'the model'}" for f in report.findings]
    return sorted({*lines, *(f"failed[{failure['stage']}] {failure['message']}" for failure in report.failures)})


def kept() -> dict[str, list[str]]:
    """What was said when the file was written."""
    found: dict[str, list[str]] = {}
    for line in KEPT.read_text("utf-8").splitlines():
        if line.startswith("    "):
            found[next(reversed(found))].append(line.strip())
        elif line:
            found[line] = []
    return found


def digest() -> str:
    """What the CHANGELOG names a state of the file by."""
    return hashlib.sha256(KEPT.read_bytes()).hexdigest()[:8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    text = "".join(f"{key}\n" + "".join(f"    {line}\n" for line in told(judged(key))) for key in EXPECTED)
    before = KEPT.read_text("utf-8") if KEPT.exists() else ""
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), text.splitlines(True), "kept", "now", n=1))
    if write:
        KEPT.write_text(text, "utf-8")
        print(f"CHANGELOG.md has to say, under 'Findings of the zoo', what changed for users: `{digest()}`")
    return int(text != before)


if __name__ == "__main__":
    sys.exit(main())
