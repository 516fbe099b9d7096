"""The zoo's verdicts: known-bad models fail on the guilty line, healthy ones pass."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.findings import Report, Severity

ZOO = Path(__file__).parents[1] / "fixtures" / "zoo"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((ZOO / "expected.toml").read_text(encoding="utf-8"))


def _lint(key: str) -> Report:
    return lint_targets([str(ZOO / key)], Settings(input=tuple(EXPECTED[key].get("inputs", ()))))


def _expected(*verdicts: str) -> list[Any]:
    """Keys of the zoo; of known misses it is expected, strictly, that they are still missed."""
    return [
        pytest.param(key, marks=pytest.mark.xfail(reason=expected["miss"], strict=True) if "miss" in expected else ())
        for key, expected in EXPECTED.items()
        if expected["verdict"] in verdicts
    ]


@pytest.mark.parametrize("key", _expected("clean"))
def test_healthy_model_passes(key: str) -> None:
    report = _lint(key)
    assert not report.failures
    assert [str(f.code) + " " + f.message for f in report.findings if f.severity.rank >= Severity.WARNING.rank] == []
    assert report.exit_code == 0


@pytest.mark.parametrize("key", _expected("explodes", "vanishes"))
def test_bad_model_fails_on_the_guilty_line(key: str) -> None:
    report, expected = _lint(key), EXPECTED[key]
    assert report.exit_code == 1
    for code in expected["codes"]:
        places = [f.location for f in report.findings if f.code == code]
        lines = [Path(p.path).read_text(encoding="utf-8").splitlines()[p.line - 1] for p in places if p is not None]
        assert any(expected["line"] in line for line in lines), (code, lines)
    kinds = {"explodes": {"GL101", "GL401"}, "vanishes": {"GL102"}}[expected["verdict"]]
    assert {f.code for f in report.findings} & kinds


def test_the_same_weights_get_opposite_verdicts() -> None:
    """He-initialised layers are right in a plain stack and wrong on residual branches without normalisation."""
    assert _lint("residual_mlp.py:build_plain").ok
    assert not _lint("residual_mlp.py:build_residual").ok
