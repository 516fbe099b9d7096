"""The small research programs of fixtures/programs: they run as their authors call them, and their inputs are guessed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradlint.load import load
from gradlint.trace import recording
from gradlint.trace.state import seeded
from gradlint.trace.tree import first_floating

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what torch says of the programs

FIXTURES = Path(__file__).parent.parent / "fixtures"
PROGRAMS = FIXTURES / "programs"
sys.path.insert(0, str(FIXTURES))
try:
    from programs_called import CALLS
finally:
    sys.path.remove(str(FIXTURES))


def build(target):
    with recording():
        (found,) = load(str(PROGRAMS / target))
        return found.build()


def test_every_program_is_called():
    found = {f"{path.name}:{item.name}" for path in PROGRAMS.glob("*.py") for item in load(str(path))}
    assert found == set(CALLS)


@pytest.mark.parametrize("target", CALLS)
def test_program_runs_as_its_author_calls_it(target):
    with seeded():
        args, kwargs = CALLS[target]()
        output = first_floating(build(target).train()(*args, **kwargs))
    assert output is not None
    assert output.requires_grad
    assert output.isfinite().all()
