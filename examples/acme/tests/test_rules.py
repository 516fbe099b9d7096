"""The contract of every rule, and its pair of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Settings
from gradlint.rule import Rule
from gradlint.testing import broken_contract, broken_fixtures, rules_of

HERE = Path(__file__).parent.parent
PACK = Settings(packs=(HERE / "acme_rules",))


@pytest.mark.parametrize("rule", rules_of("acme_rules"), ids=lambda rule: rule.code)
def test_rule(rule: Rule) -> None:
    assert broken_contract(rule, HERE / "fixtures") == []
    assert broken_fixtures(rule, HERE / "fixtures", PACK) == []
