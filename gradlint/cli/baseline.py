"""``gradlint baseline``: accept what is found now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import rich_click as click

from gradlint._version import __version__
from gradlint.baseline import merged, read, write
from gradlint.cli.options import configured, named, settings_of_models, where_torch_is
from gradlint.cli.workers import judge, options_of_workers
from gradlint.config import BASELINE

__all__ = ["baseline"]


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@settings_of_models
@options_of_workers
@click.option("--prune", is_flag=True, help="Accept nothing new: only leave out what no longer occurs.")
@click.option("--reason", default="", metavar="TEXT", help="Why what is new is accepted.")
@where_torch_is
def baseline(targets: tuple[str, ...], prune: bool, reason: str, **options: Any) -> int:
    """Accept what is found now: later runs report what is new, or more than 10 % worse.

    The file holds every finding with its number; it belongs into version control. What no longer occurs is reported (GL904) until
    this command is run again.
    """
    given, settings = targets, configured(targets, options)
    path = settings.baseline or settings.root / BASELINE
    targets = named(targets, settings)
    old = read(path) if path.exists() else []
    report = judge(targets, replace(settings, baseline=None, fail_on=None), options, given)
    failed = {failure["target"] for failure in report.failures}
    judged = {target.name for target in report.targets} - failed
    found = [finding for finding in report.findings if finding.target in judged]
    entries = merged(found, old, judged, settings.root, prune=prune, reason=reason)
    write(path, entries, __version__)
    click.echo(f"{path}: {len(entries)} accepted")
    for failure in report.failures:
        click.echo(f"gradlint: {failure['target']}: {failure['message']}; its entries are as they were", err=True)
    return report.exit_code
