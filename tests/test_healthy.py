"""Models that people train every day never fail, and what is said of them has a reason."""

from __future__ import annotations

from benchmarks._tables import committed
from benchmarks.healthy import SHARE, outcomes, stale, summary


def test_healthy_models_never_fail() -> None:
    found = outcomes()
    assert [(o.key, o.errors) for o in found if o.errors] == []
    assert [o.key for o in found if o.failed] == []


def test_few_have_a_warning_and_each_has_its_reason() -> None:
    found = outcomes()
    assert sum(bool(o.grave) for o in found) <= SHARE * len(found)
    assert [(o.key, o.unexplained) for o in found if o.unexplained] == []
    assert stale(found) == []


def test_the_list_in_the_readme_is_the_one_that_is_kept() -> None:
    shown = committed("healthy")
    for line in summary(outcomes()):
        assert line in shown
    for outcome in outcomes():
        for line in outcome.grave:
            assert f"| {outcome.key} | {line} |" in shown
