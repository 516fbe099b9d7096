"""The pair of models of every rule: the bad one fires exactly on its marked lines, the good one is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.packs import BUILT_IN
from gradlint.testing import broken_fixtures, rules_of

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.mark.parametrize("rule", rules_of(BUILT_IN), ids=lambda rule: rule.code)
def test_bad_fires_exactly_on_the_marked_lines_and_good_is_silent(rule):
    assert broken_fixtures(rule, FIXTURES) == []
