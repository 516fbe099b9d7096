"""What every rule owes: a page, a name, a pair of models."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gradlint.findings import Severity
from gradlint.packs import BUILT_IN, load_pack
from gradlint.rule import Rule

FIXTURES = Path(__file__).parent.parent / "fixtures"
SECTIONS = ["What it finds", "Why it matters", "How it is computed", "What to do", "When to ignore it", "References"]
RULES = load_pack(BUILT_IN)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
class TestContract:
    def test_the_page_has_a_summary_and_its_sections_in_order(self, rule: Rule) -> None:
        page = inspect.getdoc(type(rule)) or ""
        summary, _, rest = page.partition("\n")
        assert 10 < len(summary) <= 100
        assert summary.endswith(".")
        assert rest.startswith("\n")
        assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
        for section in re.split(r"^## .+$", page, flags=re.MULTILINE)[1:]:
            assert len(section.split()) >= 4, "a section says something"

    def test_the_name_is_what_is_wrong_and_not_an_instruction(self, rule: Rule) -> None:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.name)
        assert not rule.name.startswith(("no-", "use-", "avoid-", "prefer-"))

    def test_the_code_the_file_and_the_class_agree(self, rule: Rule) -> None:
        assert re.fullmatch(r"GL[1-69]\d\d", rule.code)
        stem = type(rule).__module__.rpartition(".")[2]
        assert stem == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"
        assert type(rule).__name__ == rule.name.title().replace("-", "")
        assert isinstance(rule.severity, Severity)

    def test_it_has_a_bad_and_a_good_model(self, rule: Rule) -> None:
        folder = FIXTURES / rule.code.lower()
        assert f"# {rule.code}" in (folder / "bad.py").read_text("utf-8")
        assert f"# {rule.code}" not in (folder / "good.py").read_text("utf-8")


def test_no_fixture_without_a_rule() -> None:
    folders = {path.name for path in FIXTURES.glob("gl*")}
    assert folders == {rule.code.lower() for rule in RULES}
