"""The command line: parses flags, prints, and turns every outcome into an exit code.

    0  nothing at or above --fail-on      1  findings      2  could not do it      130  interrupted

The torch side is imported by the commands that need it, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click
from click import get_current_context
from click.exceptions import Abort
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from gradlint._version import __version__
from gradlint.config import BASELINE, ENVIRONMENT, KINDS, Settings, configure, misspelt, schema
from gradlint.errors import GradlintError, UsageError
from gradlint.findings import Severity
from gradlint.interpreter import elsewhere
from gradlint.report import FORMATS, View, assign

__all__ = ["cli", "main"]

_TWINS: set[str] = set()
_FAIL_ON = click.Choice([*map(str, reversed(Severity)), "never"])


class _DefaultCheck(click.RichGroup):
    """``gradlint model.py`` is ``gradlint check model.py``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h", "--version")):
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultCheck, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="gradlint %(version)s")
def cli() -> None:
    """Predict, before training, whether the gradients of a PyTorch model explode or vanish.

    `gradlint model.py` checks every model in the file; `check` need not be typed.
    """


def _option(*names: str, **more: Any) -> Callable[[Any], Any]:
    """A setting: a flag, with its twin among the environment variables."""
    word = max(names, key=len).partition("/")[0].lstrip("-").replace("-", "_").upper()
    _TWINS.add(f"{ENVIRONMENT}{word}")
    return click.option(*names, envvar=f"{ENVIRONMENT}{word}", **more)


def _where_torch_is(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Run a command in the project's interpreter, where this one has no torch or another is asked for."""

    @functools.wraps(command)
    def run(*args: Any, python: Path | None = None, **options: Any) -> int | None:
        argv: Sequence[str] = get_current_context().find_root().obj
        code = elsewhere(argv, python, os.environ)
        return command(*args, **options) if code is None else code

    return run


def _settings(command: Any) -> Any:
    """The flags that are settings, for every command that checks models."""
    options = [
        _option("--input", multiple=True, metavar="SPEC", help="An input: [NAME:][DTYPE:]SHAPE, e.g. 2,3,224,224 or "
                "ids:int64<1000:2,128. Repeatable; what is not given is found in the file or guessed."),
        _option("--arg", multiple=True, metavar="NAME=VALUE", help="An argument of the class or function that TARGET names, or a "
                "field of a config.json to replace: a Python literal, else text. Repeatable."),
        _option("--horizon", type=click.IntRange(1), metavar="STEPS", help="How many steps back a recurrent model has to learn "
                "from."),
        _option("--sequence-length", type=click.IntRange(1), metavar="STEPS", help="Judge recurrences at this many steps, "
                "whatever the length of the inputs."),
        _option("--training-script", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The script that trains "
                "the models; it is read, not run."),
        _option("--weights", type=click.Path(path_type=Path), help="Judge the parameters by these values: model.safetensors, an "
                "index of such files, or their folder."),
        _option("--select", multiple=True, metavar="RULES", help="Only these rules: codes, prefixes or names, or ALL."),
        _option("--extend-select", multiple=True, metavar="RULES", help="These rules as well."),
        _option("--ignore", multiple=True, metavar="RULES", help="Not these rules."),
        _option("--preview/--no-preview", default=None, help="Also rules that are not stable yet."),
        _option("--max-gain", type=float, metavar="X", help="The largest gain of the gradient that is within the budget."),
        _option("--min-gain", type=float, metavar="X", help="The smallest gain of the gradient that is within the budget."),
        _option("--fp16-headroom-bits", type=float, metavar="BITS", help="Bits to keep below the largest number of half "
                "precision."),
        _option("--packs", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="A folder of rules that is "
                "not installed. Repeatable."),
        _option("--baseline", type=click.Path(dir_okay=False, path_type=Path), help="The file of accepted findings.  "
                f"[default: {BASELINE}, if there is one]"),
        click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar=f"{ENVIRONMENT}CONFIG",
                     help="Read this configuration."),
        click.option("--python", type=click.Path(dir_okay=False, path_type=Path), envvar=f"{ENVIRONMENT}PYTHON", metavar="PATH",
                     help="Run in that interpreter. Without torch here, the project's is found: in .venv or on the path."),
        click.option("--isolated", is_flag=True, help="Read no configuration file and no baseline but those given."),
        click.option("-v", "--verbose", is_flag=True, help="Also assumptions, and tracebacks of failures."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@click.option("--capture", is_flag=True, help="TARGET is a training script: run it until it first calls its model, and check "
              "that model with those inputs. What follows are the script's arguments, after --.")  # fmt: skip
@_settings
@_option("--verify", is_flag=True, default=None, help="Also run the models for real, forward and backward, and say where the "
         "prediction and the findings hold.")  # fmt: skip
@_option("--fail-on", type=_FAIL_ON, help="Exit with 1 for findings of this severity or worse.  [default: warning]")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 despite findings (2 stays 2); --fail-on never.")
@_option("--output-format", multiple=True, type=click.Choice(list(FORMATS)), help="Repeatable.  [default: full]")
@_option("-o", "--output-file", multiple=True, metavar="[FORMAT=]FILE", help="Write the report there; - is stdout. Repeatable; "
         "the format is also told by --output-format or by the suffix (.sarif, .json, .xml, .md …).")  # fmt: skip
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Only findings and failures.")
@_where_torch_is
def check(targets: tuple[str, ...], **options: Any) -> int:
    """Check models; this is the default command.

    TARGET is a file (model.py), a name in it (model.py:build), an importable name (package.module:Net), a notebook
    (net.ipynb), a config.json of Hugging Face or its folder, an exported program (net.pt2), or the name of a target of the
    configuration. Without one, these are all checked.
    """
    arguments: tuple[str, ...] = ()
    if options["capture"]:
        targets, arguments = targets[:1], targets[1:]
        if options["input"]:
            raise click.UsageError("--capture takes the inputs from the script: --input does not go with it")
    if options["exit_zero"]:
        options["fail_on"] = "never"
    settings = _configured(targets, options)
    outputs = assign(settings.output_format, settings.output_file)
    targets = _named(targets, settings)
    with _stdout_to_stderr():
        from gradlint.engine import lint_script, lint_targets

        report = lint_script(targets[0], arguments, settings) if options["capture"] else lint_targets(targets, settings)
    for style, file in outputs:
        view = _view(options["color"], options["quiet"], options["verbose"], plain=file is not None)
        text = FORMATS[style](report, view)
        if file is not None:
            try:
                file.write_text(text + "\n", "utf-8")
            except OSError as error:
                raise UsageError(f"cannot write the report: {error}") from error
        elif text:
            click.echo(text, color=True)
    return report.exit_code


@cli.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@_settings
@click.option("--prune", is_flag=True, help="Accept nothing new: only leave out what no longer occurs.")
@click.option("--reason", default="", metavar="TEXT", help="Why what is new is accepted.")
@_where_torch_is
def baseline(targets: tuple[str, ...], prune: bool, reason: str, **options: Any) -> int:
    """Accept what is found now: later runs report what is new, or more than 10 % worse.

    The file holds every finding with its number; it belongs into version control. What no longer occurs is reported (GL904) until
    this command is run again.
    """
    settings = _configured(targets, options)
    path = settings.baseline or settings.root / BASELINE
    targets = _named(targets, settings)
    with _stdout_to_stderr():
        from gradlint.baseline import merged, read, write
        from gradlint.engine import lint_targets

        old = read(path) if path.exists() else []
        report = lint_targets(targets, replace(settings, baseline=None, fail_on=None))
    failed = {failure["target"] for failure in report.failures}
    judged = {target.name for target in report.targets} - failed
    found = [finding for finding in report.findings if finding.target in judged]
    entries = merged(found, old, judged, settings.root, prune=prune, reason=reason)
    write(path, entries, __version__)
    click.echo(f"{path}: {len(entries)} accepted")
    for failure in report.failures:
        click.echo(f"gradlint: {failure['target']}: {failure['message']}; its entries are as they were", err=True)
    return report.exit_code


@cli.command()
@click.argument("rule")
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option("--packs", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folders of more rules.")
@_where_torch_is
def explain(rule: str, output_format: str, color: str, packs: tuple[Path, ...]) -> None:
    """Print the page of a rule, by code or name."""
    from gradlint.packs import load_rules
    from gradlint.report.catalogue import page, record

    found = load_rules(packs or configure().packs).find(rule)
    if output_format == "json":
        click.echo(json.dumps(record(found), indent=2, ensure_ascii=False))
        return
    view = _view(color, quiet=False, verbose=False)
    if view.color:
        Console(force_terminal=True, width=view.width, highlight=False).print(Markdown(page(found)))
    else:
        click.echo(page(found))


@cli.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option("--packs", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folders of more rules.")
@_where_torch_is
def rules(output_format: str, color: str, packs: tuple[Path, ...]) -> None:
    """List the rules of all packs."""
    from gradlint.packs import load_rules
    from gradlint.report.catalogue import rows

    known = rows(load_rules(packs or configure().packs).rules)
    if output_format == "json":
        click.echo(json.dumps(known, indent=2, ensure_ascii=False))
        return
    view = _view(color, quiet=False, verbose=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("code", "name", "severity", "summary"):
        table.add_column(column, no_wrap=column != "summary", overflow="fold")
    for row in known:
        table.add_row(row["code"], row["name"], row["severity"], row["summary"] + (" (preview)" if row["preview"] else ""))
    Console(force_terminal=view.color, no_color=not view.color, width=view.width or 120, highlight=False).print(table)


@cli.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
def config(output_format: str) -> None:
    """List the keys of the configuration; as json, its JSON Schema for editors."""
    described = schema()
    if output_format == "json":
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    for key, what in described["properties"].items():
        click.echo(f"{key}: {what['description']}")


def _configured(targets: Sequence[str], options: Mapping[str, Any]) -> Settings:
    """The settings of a command, from its flags and the configuration."""
    for warning in misspelt(os.environ, _TWINS | {f"{ENVIRONMENT}{word}" for word in ("CONFIG", "INSIDE", "PYTHON")}):
        click.echo(f"gradlint: {warning}", err=True)
    if options["verbose"]:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        logging.getLogger("gradlint").setLevel(logging.DEBUG)
    flags = {name: value for name, value in options.items() if name in KINDS and value not in (None, ())}
    return configure(targets, flags, config=options["config"], isolated=options["isolated"])


def _named(targets: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """The targets that were given, else those of the configuration."""
    targets = targets or tuple(target.name for target in settings.target)
    if not targets:
        where = "" if settings.source is None else f", and {settings.source} has none"
        raise click.UsageError(f"no target given{where}: name a file, as in `gradlint model.py`")
    return targets


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. The only place where an exception becomes an exit code."""
    argv = list(sys.argv[1:] if args is None else args)
    try:
        code = cli.main(argv, prog_name="gradlint", standalone_mode=False, obj=argv)
    except (Abort, KeyboardInterrupt):
        click.echo("gradlint: interrupted", err=True)
        sys.exit(130)
    except SystemExit:  # only click's own, for a closed pipe: nobody has read the verdict
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except GradlintError as error:
        _fail(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not exit as "findings" (1)
        if {"-v", "--verbose"} & set(argv):
            traceback.print_exc()
        _fail(f"internal error: {type(error).__name__}: {error} (this is a bug; -v shows the traceback to report)")
    sys.exit(code or 0)


def _fail(message: str) -> NoReturn:
    click.echo(f"gradlint: {message}", err=True)
    sys.exit(2)


def _view(color: str, quiet: bool, verbose: bool, *, plain: bool = False) -> View:
    """How to print, from the flags, the terminal and NO_COLOR, FORCE_COLOR, COLUMNS."""
    terminal = Console()
    automatic = not plain and terminal.is_terminal and not terminal.no_color
    wide = not plain and (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit())
    return View(
        color=color == "always" or (color == "auto" and automatic),
        width=terminal.width if wide else None,
        quiet=quiet,
        verbose=verbose,
    )


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What the user's code prints, in Python or below it, goes to stderr: stdout holds the report and nothing else."""
    sys.stdout.flush()
    saved = None
    with suppress(OSError, ValueError):  # no such descriptors: closed, or replaced by an embedding program
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
