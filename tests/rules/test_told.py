"""What every rule says of its bad model, word for word: severity, confidence, place, numbers, causes, notes, fix, claim.

Reviewed when it changes (`pytest tests/rules --update`): this is what a user reads. Numbers are rounded to two digits, so that
another build of torch says the same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradlint.config import Settings, configure
from gradlint.engine import lint_targets
from gradlint.packs import BUILT_IN
from gradlint.testing import rules_of

ROOT = Path(__file__).parent.parent.parent


def settings_of(folder, rule):
    config = folder / "gradlint.toml"
    settings = configure([], config=config) if config.exists() else Settings()
    if "def train(" in (folder / "bad.py").read_text("utf-8"):
        settings = replace(settings, training_script=folder / "bad.py")
    about_the_run = rule.code.startswith("GL9")  # what other rules did is what they judge
    return settings if about_the_run else replace(settings, select=(rule.code,))


def told(finding):
    """A finding as lines of text."""
    line = "" if finding.location is None else f"{Path(finding.location.path).name}:{finding.location.line}"
    yield f"{finding.code} {finding.name}: {finding.severity}, confidence {finding.confidence}"
    yield f"at {line or '-'}, in {finding.module or '-'}, of {finding.target.rpartition('/')[2] or '-'}"
    yield finding.message
    for key, value in finding.evidence.items():
        yield f"  {key}: {value:.2g}" if isinstance(value, float) else f"  {key}: {value}"
    for factor in finding.factors:
        yield f"  factor {factor.cause}: {round(factor.log2, 2) + 0.0:+.2f} bits, {factor.detail}"
    yield from (f"  covers {name}" for name in finding.instances)
    yield from (f"  note: {note}" for note in finding.notes)
    yield f"  fix: {finding.fix}"
    if finding.claim is not None:
        gained = f"{finding.claim.log2:+.1f} bits, from {finding.claim.start or 'the output'}"
        yield f"  claim: {gained} to {', '.join(str(place) for place in finding.claim.end)}"


@pytest.mark.parametrize("rule", rules_of(BUILT_IN), ids=lambda rule: rule.code)
def test_what_a_rule_says_of_its_bad_model(rule, snapshot, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path("fixtures") / rule.code.lower()
    report = lint_targets([str(folder / "bad.py")], settings_of(folder, rule))
    found = [finding for finding in report.findings if finding.code == rule.code]
    assert [failure["message"] for failure in report.failures if rule.code in failure["message"]] == []
    text = "\n\n".join("\n".join(told(finding)) for finding in found).replace(f"{ROOT}/", "")
    snapshot(re.sub(r"(sampling it failed) \(.*", r"\1", text), f"{rule.code}.txt")  # what torch says is torch's
