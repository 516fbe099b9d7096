"""``gradlint diff``: two models, or two reports, side by side; and what ``check --diff-base`` shares with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from gradlint.changes import compare
from gradlint.cli.options import FAIL_ON, configured, option, settings_of_models, where_torch_is
from gradlint.cli.progress import progress
from gradlint.cli.streams import terminal_view
from gradlint.cli.workers import judge, options_of_workers
from gradlint.config import KINDS, Settings
from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.interpreter import project_python
from gradlint.report.changes import render_markdown, render_text
from gradlint.revision import Tree, checked, checked_out
from gradlint.saved import is_report, read_report

__all__ = ["at", "diff"]

_NOT = ("baseline", "output_file", "output_format", "fail_on", "verify")  # of this run, not of the other
_ALSO = ("config", "isolated", "jobs", "timeout", "max_memory", "sandbox", "pass_env")


@click.command()
@click.argument("old")
@click.argument("new")
@settings_of_models
@option("--fail-on", type=FAIL_ON, help="Exit with 1 for new findings of this severity or worse.  [default: warning]")
@click.option("--output-format", type=click.Choice(["full", "markdown", "json"]), default="full", show_default=True)
@options_of_workers
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@where_torch_is
def diff(old: str, new: str, output_format: str, color: str, **options: Any) -> int:
    """Compare two models, or two JSON reports: gradient, law of depth and findings, before and after.

    OLD and NEW are targets, as of `gradlint check`, or files that `--output-format json` wrote. Only findings that are new fail:
    a finding is known again after lines moved and names changed. For what a change does to your models, see `check --diff-base`.
    """
    settings = configured([name for name in (old, new) if not is_report(Path(name))], options)
    before, after = (_report(name, settings, options) for name in (old, new))
    if not before.targets and before.failures:
        raise UsageError(f"{old} could not be analysed: {before.failures[0]['message']}")
    report = compare(before, after, old, settings.root)
    view = terminal_view(color, quiet=False, verbose=options["verbose"])
    if output_format == "json":
        document = {"ok": report.ok, "exit_code": report.exit_code, "failures": [dict(f) for f in report.failures]}
        changes = {} if report.changes is None else report.changes.to_dict()
        click.echo(json.dumps({**document, **changes}, indent=2, ensure_ascii=False))
    else:
        render = {"full": render_text, "markdown": render_markdown}[output_format]
        click.echo(render(report, view), color=True)
    return report.exit_code


def at(revision: str, targets: Sequence[str], python: Path | None) -> tuple[Report, str]:
    """What a revision was found to be, and its name.

    Raises:
        UsageError: there is no such revision, or it could not be checked.
    """
    with checked_out(revision) as tree:
        there = [_there(target, tree) for target in targets if _exists(target, tree)]
        if not there:
            return Report(), tree.name
        text = checked(tree, [*_flags(tree), "--", *there], project_python(python, os.environ))
        return read_report(text, tree.name), tree.name


def _report(name: str, settings: Settings, options: Mapping[str, Any]) -> Report:
    if not is_report(Path(name)):
        with progress([name]):
            return judge([name], settings, options, [name])
    return replace(read_report(Path(name).read_text("utf-8"), name), fail_on=settings.fail_on)


def _exists(target: str, tree: Tree) -> bool:
    """Whether a target can have been there: a file that is here and was not there is new."""
    file = Path(target.partition(":")[0])
    return not file.exists() or tree.there(file).exists()


def _there(target: str, tree: Tree) -> str:
    """The target as the copy knows it: a relative path counts from the folder's counterpart."""
    file, colon, name = target.partition(":")
    return f"{tree.there(Path(file))}{colon}{name}" if Path(file).is_absolute() else target


def _flags(tree: Tree) -> list[str]:
    """The settings of the command line, for another process. A file that the revision has is taken from there."""
    context = get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        known = (name in KINDS and name not in _NOT) or name in _ALSO
        if not known or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        flag = max(parameter.opts, key=len)
        if isinstance(value, bool):
            words.append(flag if value else parameter.secondary_opts[0])
            continue
        for item in value if isinstance(value, tuple) else (value,):
            words += [flag, str(_file(item, tree) if isinstance(item, Path) else item)]
    return words


def _file(path: Path, tree: Tree) -> Path:
    copy = tree.there(path)
    return copy if copy.exists() else path.absolute()
