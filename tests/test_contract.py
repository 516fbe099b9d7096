"""What every rule owes: a page, a name, a pair of models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradlint.packs import BUILT_IN
from gradlint.rule import Rule
from gradlint.testing import broken_contract, rules_of

FIXTURES = Path(__file__).parent.parent / "fixtures"
RULES = rules_of(BUILT_IN)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_contract(rule: Rule) -> None:
    assert broken_contract(rule, FIXTURES) == []
    assert re.fullmatch(r"GL[1-69]\d\d", rule.code)


def test_no_fixture_without_a_rule() -> None:
    folders = {path.name for path in FIXTURES.glob("gl*")}
    assert folders == {rule.code.lower() for rule in RULES}
