"""The house: imports go downward, rooms stay small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUDGETS = {"gradlint": 350, "rules": 150}
FORBIDDEN = {"utils", "common", "helpers", "core", "base", "misc"}
# Longer than the budget, each for a reason.
EXEMPT: dict[str, str] = {}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_import_contracts():
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("folder", BUDGETS)
def test_no_file_is_longer_than_its_budget(folder):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources(folder)}
    too_long = {name: n for name, n in lengths.items() if n > BUDGETS[folder] and name not in EXEMPT}
    assert not too_long
    assert not {name for name in EXEMPT if name.startswith(folder) and lengths.get(name, 0) <= BUDGETS[folder]}


def test_no_room_for_what_belongs_nowhere():
    names = {path.stem.strip("_") for folder in BUDGETS for path in sources(folder)}
    assert not names & FORBIDDEN


def test_op_families_are_independent_of_one_another():
    shared = {
        "apart", "attend", "labels", "maximum", "packed", "partition", "places", "primitives", "registry", "sampled", "sight",
        "simulated", "softmax", "steps",
    }  # fmt: skip
    for path in (ROOT / "gradlint" / "ops").glob("*.py"):
        if path.stem in {"__init__", *shared}:
            continue
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if "gradlint.ops" in line]
        imported = {line.split("gradlint.ops.")[1].split()[0] for line in lines if line.startswith(("from", "import"))}
        assert imported <= shared, f"{path.name} imports {imported - shared}"


def test_everything_public_says_what_it_exports():
    for path in [*sources("gradlint"), *sources("rules")]:
        registers = path.parent.name in ("ops", "gradlint_rules")  # reached through a table or by discovery
        if path.stem == "__main__" or registers:
            continue
        assert "__all__" in path.read_text("utf-8"), f"{path.relative_to(ROOT)} has no __all__"
