"""``gradlint explain`` and ``gradlint rules``: the pages of the rules."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table

from gradlint.cli.options import where_torch_is
from gradlint.cli.streams import terminal_view
from gradlint.config import configure

__all__ = ["explain", "rules"]

_packs = click.option("--packs", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folders of more rules.")


@click.command()
@click.argument("rule")
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@_packs
@where_torch_is
def explain(rule: str, output_format: str, color: str, packs: tuple[Path, ...]) -> None:
    """Print the page of a rule, by code or name."""
    from gradlint.packs import load_rules
    from gradlint.report.catalogue import page, record

    found = load_rules(packs or configure().packs).find(rule)
    if output_format == "json":
        click.echo(json.dumps(record(found), indent=2, ensure_ascii=False))
        return
    view = terminal_view(color, quiet=False, verbose=False)
    if view.color:
        from rich.markdown import Markdown  # a parser, of which --help needs nothing

        Console(force_terminal=True, width=view.width, highlight=False).print(Markdown(page(found)))
    else:
        click.echo(page(found))


@click.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@_packs
@where_torch_is
def rules(output_format: str, color: str, packs: tuple[Path, ...]) -> None:
    """List the rules of all packs."""
    from gradlint.packs import load_rules
    from gradlint.report.catalogue import rows

    known = rows(load_rules(packs or configure().packs).rules)
    if output_format == "json":
        click.echo(json.dumps(known, indent=2, ensure_ascii=False))
        return
    view = terminal_view(color, quiet=False, verbose=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("code", "name", "severity", "summary"):
        table.add_column(column, no_wrap=column != "summary", overflow="fold")
    for row in known:
        table.add_row(row["code"], row["name"], row["severity"], row["summary"] + (" (preview)" if row["preview"] else ""))
    Console(force_terminal=view.color, no_color=not view.color, width=view.width or 120, highlight=False).print(table)
