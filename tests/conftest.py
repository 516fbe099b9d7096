"""What several test files share: the command line in this process, and snapshots of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the snapshots instead of comparing with them")


class Outcome(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def gradlint(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line as `main` does, without a terminal."""
    from gradlint.cli import main

    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRADLINT_JOBS", "0")  # in this process, where tests can replace a part; tests/worker tests the others

    def run(*args: object) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file `snapshots/NAME` beside the test; --update writes it."""

    def compare(text: str, name: str) -> None:
        path = request.path.parent / "snapshots" / name
        if request.config.getoption("--update"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", "utf-8")
        assert path.exists(), f"no snapshot {name}: run pytest --update and review the file"
        assert text + "\n" == path.read_text("utf-8")

    return compare
