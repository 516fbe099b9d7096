"""The pair of models of every rule: the bad one fires exactly on its marked lines, the good one is silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.findings import Severity

FIXTURES = Path(__file__).parent.parent / "fixtures"


def settings(path: Path) -> Settings:
    """A file that trains its model is the training script as well."""
    return Settings(training_script=path if "def train(" in path.read_text("utf-8") else None)


CODES = sorted(path.name for path in FIXTURES.glob("gl*"))


@pytest.mark.parametrize("code", CODES)
def test_bad_fires_exactly_on_the_marked_lines(code):
    path = FIXTURES / code / "bad.py"
    lines = path.read_text("utf-8").splitlines()
    marked = {n for n, line in enumerate(lines, 1) if re.search(rf"# .*\b{code.upper()}\b", line)}
    report = lint_targets([str(path)], settings(path))
    assert not report.failures
    found = [finding for finding in report.findings if finding.code == code.upper()]
    assert {finding.location.line for finding in found if finding.location} == marked
    assert all(finding.location and Path(finding.location.path) == path for finding in found)
    for finding in found:
        assert finding.fix
        assert finding.evidence
        assert finding.instances or finding.module


@pytest.mark.parametrize("code", CODES)
def test_good_is_silent(code):
    path = FIXTURES / code / "good.py"
    report = lint_targets([str(path)], settings(path))
    assert not report.failures
    assert [f for f in report.findings if f.severity.rank >= Severity.WARNING.rank] == []
