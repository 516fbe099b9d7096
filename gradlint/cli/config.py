"""``gradlint config``: the keys of the configuration."""

from __future__ import annotations

import json

import rich_click as click

from gradlint.config import schema

__all__ = ["config"]


@click.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
def config(output_format: str) -> None:
    """List the keys of the configuration; as json, its JSON Schema for editors."""
    described = schema()
    if output_format == "json":
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    for key, what in described["properties"].items():
        click.echo(f"{key}: {what['description']}")
