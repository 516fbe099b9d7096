"""Flags that are settings, each with its twin among the environment variables, and what commands make of them."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context

from gradlint.config import BASELINE, ENVIRONMENT, KINDS, Settings, misspelt
from gradlint.findings import Severity
from gradlint.interpreter import elsewhere
from gradlint.worker.protocol import Request

__all__ = [
    "FAIL_ON",
    "TWINS",
    "configured",
    "in_this_process",
    "named",
    "option",
    "request_of",
    "settings_of_models",
    "where_torch_is",
]

FAIL_ON = click.Choice([*map(str, reversed(Severity)), "never"])

TWINS: set[str] = set()
"""The environment variables that are read, as far as commands were defined."""


def option(*names: str, **more: Any) -> Callable[[Any], Any]:
    """A setting: a flag, with its twin among the environment variables."""
    word = max(names, key=len).partition("/")[0].lstrip("-").replace("-", "_").upper()
    TWINS.add(f"{ENVIRONMENT}{word}")
    return click.option(*names, envvar=f"{ENVIRONMENT}{word}", **more)


def where_torch_is(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Run a command in the project's interpreter, where this one has no torch or another is asked for."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> int | None:
        argv: Sequence[str] = get_current_context().find_root().obj
        alone = "jobs" not in options or in_this_process(options)  # else only the workers need torch
        code = elsewhere(argv, options.get("python"), os.environ) if alone else None
        return command(*args, **options) if code is None else code

    return run


def in_this_process(options: Mapping[str, Any]) -> bool:
    """Whether models are judged here: it was asked for, or this system cannot fork."""
    return options["jobs"] == 0 or not hasattr(os, "fork")


def settings_of_models(command: Any) -> Any:
    """The flags that are settings, for every command that checks models."""
    options = [
        option("--input", multiple=True, metavar="SPEC", help="An input: [NAME:][DTYPE:]SHAPE, e.g. 2,3,224,224 or "
                "ids:int64<1000:2,128. Repeatable; what is not given is found in the file or guessed."),
        option("--arg", multiple=True, metavar="NAME=VALUE", help="An argument of the class or function that TARGET names, or a "
                "field of a config.json to replace: a Python literal, else text. Repeatable."),
        option("--horizon", type=click.IntRange(1), metavar="STEPS", help="How many steps back a recurrent model has to learn "
                "from."),
        option("--sequence-length", type=click.IntRange(1), metavar="STEPS", help="Judge recurrences at this many steps, "
                "whatever the length of the inputs."),
        option("--training-script", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The script that trains "
                "the models; it is read, not run."),
        option("--weights", type=click.Path(path_type=Path), help="Judge the parameters by these values: model.safetensors, an "
                "index of such files, or their folder."),
        option("--select", multiple=True, metavar="RULES", help="Only these rules: codes, prefixes or names, or ALL."),
        option("--extend-select", multiple=True, metavar="RULES", help="These rules as well."),
        option("--ignore", multiple=True, metavar="RULES", help="Not these rules."),
        option("--preview/--no-preview", default=None, help="Also rules that are not stable yet."),
        option("--max-gain", type=float, metavar="X", help="The largest gain of the gradient that is within the budget."),
        option("--min-gain", type=float, metavar="X", help="The smallest gain of the gradient that is within the budget."),
        option("--fp16-headroom-bits", type=float, metavar="BITS", help="Bits to keep below the largest number of half "
                "precision."),
        option("--packs", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="A folder of rules that is "
                "not installed. Repeatable."),
        option("--baseline", type=click.Path(dir_okay=False, path_type=Path), help="The file of accepted findings.  "
                f"[default: {BASELINE}, if there is one]"),
        click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar=f"{ENVIRONMENT}CONFIG",
                     help="Read this configuration."),
        click.option("--python", type=click.Path(dir_okay=False, path_type=Path), envvar=f"{ENVIRONMENT}PYTHON", metavar="PATH",
                     help="Run in that interpreter. Without torch here, the project's is found: in .venv or on the path."),
        click.option("--isolated", is_flag=True, help="Read no configuration file and no baseline but those given."),
        click.option("-v", "--verbose", is_flag=True, help="Also assumptions, and tracebacks of failures."),
    ]  # fmt: skip
    for add in reversed(options):
        command = add(command)
    return command


def configured(targets: Sequence[str], options: Mapping[str, Any]) -> Settings:
    """The settings of a command, from its flags and the configuration."""
    for warning in misspelt(os.environ, TWINS | {f"{ENVIRONMENT}{word}" for word in ("CONFIG", "INSIDE", "PYTHON")}):
        click.echo(f"gradlint: {warning}", err=True)
    if options["verbose"]:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        logging.getLogger("gradlint").setLevel(logging.DEBUG)
    return request_of(targets, options).settings()


def request_of(targets: Sequence[str], options: Mapping[str, Any]) -> Request:
    """What was asked for, as it can be told to another process."""
    flags = {name: value for name, value in options.items() if name in KINDS and value not in (None, ())}
    config = None if options["config"] is None else str(options["config"])
    return Request(tuple(targets), flags, config, options["isolated"], options["verbose"])


def named(targets: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """The targets that were given, else those of the configuration."""
    targets = targets or tuple(target.name for target in settings.target)
    if not targets:
        where = "" if settings.source is None else f", and {settings.source} has none"
        raise click.UsageError(f"no target given{where}: name a file, as in `gradlint model.py`")
    return targets
