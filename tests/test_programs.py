"""The small research programs of fixtures/programs: they run as their authors call them, and their inputs are guessed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.errors import InputError
from gradlint.load import load
from gradlint.report.text import render_full
from gradlint.report.view import View
from gradlint.trace import recording
from gradlint.trace.arguments import Arguments
from gradlint.trace.inputs import resolve
from gradlint.trace.state import seeded
from gradlint.trace.tree import first_floating, tensors_in

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


@pytest.fixture(scope="module")
def guesses():
    """What each program is guessed to take; the error where nothing is found."""
    found = {}
    for target in CALLS:
        try:
            found[target] = resolve(build(target).train(), None)
        except InputError as error:
            found[target] = error
    return found


def test_inputs_are_guessed(guesses):
    refused = {target: str(found) for target, found in guesses.items() if isinstance(found, InputError)}
    assert len(refused) <= 0.05 * len(CALLS), refused


def test_guesses_are_of_the_kind_that_the_author_gives(guesses):
    """As many tensors of the same types and numbers of dimensions; options that the author leaves out may be left out."""
    alike = [target for target, found in guesses.items() if kinds_of(found) == kinds_of(CALLS[target]())]
    assert len(alike) >= 0.75 * len(CALLS), sorted(set(CALLS) - set(alike))


def kinds_of(given):
    args, kwargs = (given.args, given.kwargs) if isinstance(given, Arguments) else given
    return [(t.is_floating_point(), t.dtype == torch.bool, t.dim()) for t in tensors_in((args, kwargs))]


@pytest.mark.slow
def test_every_program_is_linted_and_its_guess_printed(guesses):
    report = lint_targets([str(path) for path in sorted(PROGRAMS.glob("*.py"))], Settings())
    assert not report.failures
    assert len(report.targets) == len(CALLS)
    text = render_full(report, View(root=PROGRAMS))
    for target, found in guesses.items():
        assert f"{target}: {', '.join(map(str, found.specs))} (guessed)" in text
