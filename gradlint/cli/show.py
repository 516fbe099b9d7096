"""``gradlint show``: the flow of a model as a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import rich_click as click

from gradlint.cli.options import configured, named, settings_of_models, where_torch_is
from gradlint.cli.progress import progress
from gradlint.cli.streams import terminal_view
from gradlint.cli.workers import judge, options_of_workers
from gradlint.report.picture import ROWS, render

__all__ = ["show"]


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@settings_of_models
@click.option("--rows", type=click.IntRange(2), default=ROWS, show_default=True, help="The most rows that a model takes.")
@options_of_workers
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@where_torch_is
def show(targets: tuple[str, ...], rows: int, color: str, **options: Any) -> int:
    """Draw how activations and gradients grow or shrink over depth, and mark what is to blame.

    A short model is drawn op by op, a longer one layer by layer, a long one block by block. The bars are logarithmic; their axis
    is an rms of 1 for activations and the norm at the output for gradients. Exits with 0 whatever is found.
    """
    given, settings = targets, configured(targets, options)
    targets = named(targets, settings)
    with progress(targets):
        report = judge(targets, replace(settings, fail_on=None), options, given)
    click.echo(render(report, terminal_view(color, quiet=False, verbose=options["verbose"]), rows), color=True)
    return report.exit_code
