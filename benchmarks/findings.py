"""What gradlint says of every model of the zoo, as plain text that is kept: a change of it is a change for users.

    python -m benchmarks.findings                 what differs from fixtures/zoo/findings.txt
    python -m benchmarks.findings --write         write that file, and say what the CHANGELOG has to explain
    python -m benchmarks.findings --only vit      some models

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
    parser.add_argument("--only", default="", help="models whose name contains it; of the others the old text is kept")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    old, changed = kept() if KEPT.exists() else {}, False
    new = {key: old.get(key, []) for key in EXPECTED}
    for key in EXPECTED:
        if options.only in key:
            new[key] = told(judged(key))
            if new[key] != old.get(key):
                changed = True
                lines = difflib.unified_diff(old.get(key, []), new[key], lineterm="", n=0)
                print(
                    "\n".join([key, *(f"    {line}" for line in lines if line[:3] not in ("---", "+++") and line[0] != "@")]),
                    flush=True,
                )
            if options.write:  # at once: a run that is stopped has not been for nothing
                KEPT.write_text("".join(f"{k}\n" + "".join(f"    {line}\n" for line in v) for k, v in new.items()), "utf-8")
    if options.write:
        print(f"CHANGELOG.md has to say, under 'Findings of the zoo', what changed for users: `{digest()}`")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
