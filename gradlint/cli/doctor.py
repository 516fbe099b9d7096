"""``gradlint doctor``: what was found here. Names of environment variables, never their values."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import rich_click as click

from gradlint._version import __version__
from gradlint.cli.options import TWINS
from gradlint.config import discover
from gradlint.errors import UsageError
from gradlint.interpreter import project_python
from gradlint.worker.environment import allowed
from gradlint.worker.sandbox import kernel

__all__ = ["doctor"]


@click.command()
@click.option("--python", type=click.Path(path_type=Path), envvar="GRADLINT_PYTHON", metavar="PATH", help="The interpreter.")
@click.option("--cache-dir", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", envvar="GRADLINT_CACHE_DIR",
              help="The place of the cache.")  # fmt: skip
def doctor(python: Path | None, cache_dir: Path | None) -> int:
    """Tell which interpreter, torch, cache and sandbox are found. Exits with 2 where models cannot be judged."""
    click.echo(f"gradlint       {__version__}, {Path(__file__).parent.parent}")
    click.echo(f"its python     {sys.version.split()[0]}, {sys.executable}")
    found, code = _interpreter(python)
    click.echo("\n".join(_lines("models run in", found)))
    click.echo("\n".join(_lines("cache", _cache(cache_dir))))
    click.echo("\n".join(_lines("sandbox", _sandbox())))
    click.echo(f"configuration  {discover() or 'none above the working directory'}")
    seen = allowed(os.environ)
    click.echo(f"variables      {', '.join(sorted(set(seen) & set(os.environ))) or 'none'} reach models")
    click.echo(f"               {', '.join(sorted(TWINS & set(os.environ))) or 'none'} set flags")
    return code


def _lines(title: str, texts: Iterator[str] | list[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"{'' if number else title:<15}{text}"


def _interpreter(python: Path | None) -> tuple[list[str], int]:
    from gradlint.cache import interpreter

    try:
        where = project_python(python, os.environ)
        known = interpreter(where, os.environ)
    except UsageError as error:
        return [str(error)], 2
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return [f"{python} cannot be started: {error}"], 2
    version = f"python {known.version.split()[0]}, {where}"
    if known.torch is None:
        return [version, "torch is not among what is installed for it"], 2
    return [version, f"torch {known.torch}, {len(known.installed)} packages"], 0


def _cache(given: Path | None) -> Iterator[str]:
    from gradlint.cache import LIMIT, Cache, default_folder

    folder = given or default_folder(os.environ)
    if folder is None:
        yield "none: there is no home directory; --cache-dir names a folder"
        return
    use = Cache(folder.absolute(), Path(sys.executable), os.environ).use()
    yield f"{folder}"
    yield f"{use.entries} entries, {use.size / 2**20:.1f} of {LIMIT / 2**20:.0f} MB"


def _sandbox() -> Iterator[str]:
    has = kernel()
    yield f"writing files: {f'refused by Landlock {has.landlock}' if has.landlock else 'not refused: no Landlock here'}"
    yield f"network: {'refused by seccomp' if has.seccomp else 'not refused: no seccomp here'}"
    yield "damage limitation, not a security boundary"
