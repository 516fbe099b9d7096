"""Published cases come out as they did: the verdict, the line to blame, the gain."""

from __future__ import annotations

import pytest

from benchmarks.wild import CASES, DECADES, WILD, judged, module
from gradlint.findings import Severity

SLOW = {"recurrent.py", "convolutional.py"}
"""Files whose cases take more than ten seconds."""


def cases(**wanted: tuple[str, ...]):
    """Keys whose facts are among the wanted."""
    for key, case in CASES.items():
        if all(case.get(name) in values for name, values in wanted.items()):
            yield key


def marked(keys, *about: str):
    """What gradlint is known to miss has to be missed still."""
    found = []
    for key in keys:
        marks = [pytest.mark.slow] if key.partition(":")[0] in SLOW else []
        if any(word in CASES[key].get("miss", ()) for word in about):
            marks.append(pytest.mark.xfail(reason=CASES[key]["why"], strict=True))
        found.append(pytest.param(key, marks=marks))
    return found


def test_the_cases_are_whole() -> None:
    assert len(CASES) == len({case["id"] for case in CASES.values()}) == 45
    for key, case in CASES.items():
        file, _, name = key.partition(":")
        assert callable(getattr(module(file), name))
        assert case["tier"] in {"core", "boundary", "config"}
        assert case["recorded"]
        if "blamed" in case:
            assert sum(case["blamed"] in line for line in (WILD / file).read_text("utf-8").splitlines()) == 1
        if case["tier"] == "core" and case["expected"] != "healthy":
            assert case["blamed"]
        assert case.get("repaired", key) in CASES
        assert ("miss" in case) == ("why" in case)


@pytest.mark.parametrize("key", marked(cases(tier=("core",), expected=("explode", "vanish", "nan")), "verdict"))
def test_what_failed_is_found_on_the_guilty_line(key: str) -> None:
    outcome = judged(key)
    if CASES[key]["expected"] != "nan":
        assert outcome.verdict == "error"
    assert outcome.verdict != "clean"
    assert outcome.blames, [(f.code, f.location) for f in outcome.findings]


@pytest.mark.parametrize("key", marked(cases(tier=("core",), expected=("healthy",)), "verdict"))
def test_what_trained_passes(key: str) -> None:
    assert [f.message for f in judged(key).findings if f.severity.rank >= Severity.WARNING.rank] == []


@pytest.mark.parametrize("key", marked((k for k, c in CASES.items() if "repaired" in c and c["tier"] == "core"), "twins"))
def test_twins_get_opposite_verdicts(key: str) -> None:
    assert judged(key).verdict != "clean"
    twin = CASES[key]["repaired"]
    assert judged(twin).verdict == ("warning" if CASES[twin]["tier"] == "boundary" else "clean")


@pytest.mark.parametrize("key", marked(cases(tier=("config", "boundary")), "verdict"))
def test_no_error_where_the_model_is_not_to_blame(key: str) -> None:
    case = CASES[key]
    if case["tier"] == "config" or "trained" in case.get("trained", ()):
        assert judged(key).verdict != "error"


@pytest.mark.parametrize("key", marked((k for k, c in CASES.items() if c.get("gain")), "gain"))
def test_the_gain_is_the_measured_one(key: str) -> None:
    decades = judged(key).decades
    if CASES[key]["gain"] > 0:
        assert decades is not None
        assert abs(decades) <= DECADES
