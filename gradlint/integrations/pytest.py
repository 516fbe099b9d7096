"""A plugin of pytest: ``assert_stable`` in a test, and ``pytest --gradlint`` with a test for each model.

    def test_my_model_is_stable(assert_stable):
        assert_stable(Net, inputs=["x:2,3,32,32"], max_gain=30)

``pytest --gradlint`` adds the models that the configuration names (``[[tool.gradlint.target]]``), ``pytest --gradlint net.py``
those of a file. Without ``--gradlint`` the plugin imports nothing but pytest until ``assert_stable`` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from gradlint.config import Settings
    from gradlint.findings import Report

__all__ = ["assert_stable"]

_SUFFIXES = (".py", ".ipynb", ".json", ".pt2")


def assert_stable(model: nn.Module | Callable[[], nn.Module], inputs: Any = None, **settings: Any) -> Report:
    """Fail with the findings, as text, where :func:`gradlint.lint` finds something at or above ``fail_on``.

    Args:
        model: a module, judged by its values; or a callable that builds one, judged by the laws of its initialisers.
        inputs: as for :func:`gradlint.lint`.
        settings: fields of :class:`~gradlint.config.Settings`, such as ``max_gain=30``; no configuration file is read.

    Returns:
        The report, for what else a test wants to know.

    Raises:
        AssertionError: there are such findings.
        TargetError: the model cannot be analysed.
        UsageError: a setting makes no sense.
    """
    __tracebackhide__ = True
    from gradlint.engine import lint  # noqa: PLC0415 - imports torch

    report = lint(model, inputs, **settings)
    if not report.ok:
        raise AssertionError(_text(report))
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--gradlint``."""
    parser.getgroup("gradlint").addoption(
        "--gradlint",
        action="store_true",
        help="also check models: those of the files that are named, else those of the configuration ([[tool.gradlint.target]])",
    )


@pytest.fixture(name="assert_stable")
def _assert_stable() -> Callable[..., Report]:
    """Fail with gradlint's findings where a model's gradients explode or vanish: ``assert_stable(model, inputs, …)``."""
    return assert_stable


@pytest.hookimpl(tryfirst=True)  # -k and -m choose among the models, too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the models of the configuration, unless files of models were named."""
    if not config.getoption("gradlint") or any(isinstance(item, _Model) for item in items):
        return
    from gradlint.config import configure  # noqa: PLC0415 - only where it is asked for

    with _usage():
        settings = configure([str(config.rootpath)])
    if not settings.target:
        raise pytest.UsageError("--gradlint: no file of models is named, and the configuration has no [[tool.gradlint.target]]")
    items += [
        _Model.from_parent(session, name=target.name, nodeid=f"gradlint::{target.name}", target=target.name, settings=settings)
        for target in settings.target
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A Python file of models that is named on the command line is no file of tests."""
    return _file(module_path, parent)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The same for files that are no Python."""
    return None if file_path.suffix == ".py" else _file(file_path, parent)


def _file(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    named = parent.config.getoption("gradlint") and parent.session.isinitpath(path) and path.suffix in _SUFFIXES
    if not named or any(path.match(pattern) for pattern in parent.config.getini("python_files")):
        return None
    file: pytest.Collector = _File.from_parent(parent, path=path)
    return file


class _File(pytest.File):
    """A file that holds models."""

    def collect(self) -> Iterator[pytest.Item]:
        from gradlint.config import configure  # noqa: PLC0415 - only where it is asked for

        with _usage():
            settings = configure([str(self.path)])
        yield _Model.from_parent(self, name="gradlint", target=str(self.path), settings=settings)


class _Model(pytest.Item):
    """A target of gradlint as a test: it fails with the findings."""

    def __init__(self, *, target: str, settings: Settings, **more: Any) -> None:
        super().__init__(**more)
        self._target, self._settings = target, settings

    def runtest(self) -> None:
        from gradlint.engine import lint_targets  # noqa: PLC0415 - imports torch

        report = lint_targets([self._target], self._settings)
        if not report.ok:
            raise _UnstableError(report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, _UnstableError):
            return _text(excinfo.value.report)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self._settings.source or self.path, None, f"gradlint {self._target}"


class _UnstableError(Exception):
    """A model has findings, or could not be judged."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def _text(report: Report) -> str:
    from gradlint.report import FORMATS, View  # noqa: PLC0415 - only where there is something to say

    return FORMATS["full"](report, View(quiet=True))


@contextmanager
def _usage() -> Iterator[None]:
    """A mistake in the configuration is one of how pytest was called."""
    from gradlint.errors import GradlintError  # noqa: PLC0415 - only where it is asked for

    try:
        yield
    except GradlintError as error:
        raise pytest.UsageError(f"gradlint: {error}") from error
