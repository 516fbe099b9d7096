"""The zoo's verdicts: known-bad models fail on the guilty line, healthy ones pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.findings import EXPECTED, digest, judged, kept, told
from benchmarks.healthy import EXPLAINED
from gradlint.findings import Severity

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def _expected(*verdicts: str) -> list[Any]:
    """Keys of the zoo; of known misses it is expected, strictly, that they are still missed."""
    return [
        pytest.param(key, marks=pytest.mark.xfail(reason=expected["miss"], strict=True) if "miss" in expected else ())
        for key, expected in EXPECTED.items()
        if expected["verdict"] in verdicts
    ]


@pytest.mark.parametrize("key", _expected("clean"))
def test_healthy_model_passes(key: str) -> None:
    """Nothing of severity warning or above is said of it, but what has its reason in benchmarks/healthy.toml."""
    report = judged(key)
    assert not report.failures
    grave = [f for f in report.findings if f.severity.rank >= Severity.WARNING.rank]
    assert [f"{f.code} {f.message}" for f in grave if f.code not in EXPLAINED.get(key, {})] == []
    assert [f.message for f in grave if f.severity is Severity.ERROR] == []


@pytest.mark.parametrize("key", _expected("explodes", "vanishes"))
def test_bad_model_fails_on_the_guilty_line(key: str) -> None:
    report, expected = judged(key), EXPECTED[key]
    assert report.exit_code == 1
    for code in expected["codes"]:
        places = [f.location for f in report.findings if f.code == code]
        lines = [Path(p.path).read_text(encoding="utf-8").splitlines()[p.line - 1] for p in places if p is not None]
        assert any(expected["line"] in line for line in lines), (code, lines)
    kinds = {"explodes": {"GL101", "GL401"}, "vanishes": {"GL102"}}[expected["verdict"]]
    assert {f.code for f in report.findings} & kinds


def test_the_same_weights_get_opposite_verdicts() -> None:
    """He-initialised layers are right in a plain stack and wrong on residual branches without normalisation."""
    assert judged("residual_mlp.py:build_plain").ok
    assert not judged("residual_mlp.py:build_residual").ok


@pytest.mark.parametrize("key", EXPECTED)
def test_what_is_said_of_a_model_is_what_was_said_before(key: str) -> None:
    """`./dev bench findings --write` after a change that is meant; the CHANGELOG then says what it means for users."""
    assert told(judged(key)) == kept().get(key)


def test_the_changelog_explains_every_change_of_the_findings() -> None:
    section = CHANGELOG.read_text("utf-8").partition("### Findings of the zoo\n")[2].partition("\n###")[0]
    assert f"`{digest()}`" in section, "`./dev bench findings` says what changed; explain it there, with this digest"
    assert list(kept()) == list(EXPECTED)
