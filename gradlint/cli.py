"""The command line: parses flags, prints, and turns every outcome into an exit code.

    0  nothing at or above --fail-on      1  findings      2  could not do it      130  interrupted

The torch side is imported by the commands that need it, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import Abort
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from gradlint._version import __version__
from gradlint.config import configure
from gradlint.errors import GradlintError, UsageError
from gradlint.findings import Severity
from gradlint.report import FORMATS, View

__all__ = ["cli", "main"]

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


@cli.command()
@click.argument("targets", nargs=-1, metavar="TARGET…")
@click.option("--input", multiple=True, metavar="SPEC", help="An input: [NAME:][DTYPE:]SHAPE, e.g. 2,3,224,224 or "
              "ids:int64<1000:2,128. Repeatable; what is not given is found in the file or guessed.")  # fmt: skip
@click.option("--capture", is_flag=True, help="TARGET is a training script: run it until it first calls its model, and check "
              "that model with those inputs. What follows are the script's arguments, after --.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Also run the models for real, forward and backward, and say where the prediction "
              "and the findings hold.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), help="Judge the parameters by these values: model.safetensors, an "
              "index of such files, or their folder.")  # fmt: skip
@click.option("--select", multiple=True, metavar="RULES", help="Only these rules: codes, prefixes or names, or ALL.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Not these rules.")
@click.option("--fail-on", type=_FAIL_ON, help="Exit with 1 for findings of this severity or worse.  [default: warning]")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 despite findings (2 stays 2); --fail-on never.")
@click.option("--output-format", type=click.Choice(list(FORMATS)), help="[default: full]")
@click.option("-o", "--output-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Only findings and failures.")
@click.option("-v", "--verbose", is_flag=True, help="Also assumptions, and tracebacks of failures.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read this configuration.")
@click.option("--isolated", is_flag=True, help="Read no configuration file.")
def check(targets: tuple[str, ...], **options: Any) -> int:
    """Check models; this is the default command.

    TARGET is a file (model.py), a name in it (model.py:build), or an importable name (package.module:Net).
    """
    arguments: tuple[str, ...] = ()
    if options["capture"]:
        targets, arguments = targets[:1], targets[1:]
        if options["input"]:
            raise click.UsageError("--capture takes the inputs from the script: --input does not go with it")
    if options["exit_zero"]:
        options["fail_on"] = "never"
    flags = {
        name: options[name]
        for name in ("input", "select", "ignore", "fail_on", "output_format", "output_file", "verify", "weights")
        if options[name]
    }
    settings = configure(targets, flags, config=options["config"], isolated=options["isolated"])
    if settings.output_format not in FORMATS:
        raise click.UsageError(f"output-format: expected one of {', '.join(FORMATS)}, got {settings.output_format!r}")
    if not targets:
        raise click.UsageError("no target given: name a file, as in `gradlint model.py`")
    view = _view(options["color"], options["quiet"], options["verbose"], plain=settings.output_file is not None)
    if options["verbose"]:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        logging.getLogger("gradlint").setLevel(logging.DEBUG)
    with _stdout_to_stderr():
        from gradlint.engine import lint_script, lint_targets

        report = lint_script(targets[0], arguments, settings) if options["capture"] else lint_targets(targets, settings)
    text = FORMATS[settings.output_format](report, view)
    if settings.output_file is not None:
        try:
            settings.output_file.write_text(text + "\n", "utf-8")
        except OSError as error:
            raise UsageError(f"cannot write the report: {error}") from error
    elif text:
        click.echo(text, color=True)
    return report.exit_code


@cli.command()
@click.argument("rule")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
def explain(rule: str, color: str) -> None:
    """Print the page of a rule, by code or name."""
    from gradlint.packs import find, load_rules
    from gradlint.report.catalogue import page

    text = page(find(load_rules(), rule))
    view = _view(color, quiet=False, verbose=False)
    if view.color:
        Console(force_terminal=True, width=view.width, highlight=False).print(Markdown(text))
    else:
        click.echo(text)


@cli.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
def rules(output_format: str, color: str) -> None:
    """List the rules of all installed packs."""
    from gradlint.packs import load_rules
    from gradlint.report.catalogue import rows

    known = rows(load_rules())
    if output_format == "json":
        click.echo(json.dumps(known, indent=2, ensure_ascii=False))
        return
    view = _view(color, quiet=False, verbose=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("code", "name", "severity", "summary"):
        table.add_column(column, no_wrap=column != "summary", overflow="fold")
    for row in known:
        table.add_row(row["code"], row["name"], row["severity"], row["summary"])
    Console(force_terminal=view.color, no_color=not view.color, width=view.width or 120, highlight=False).print(table)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. The only place where an exception becomes an exit code."""
    argv = list(sys.argv[1:] if args is None else args)
    try:
        code = cli.main(argv, prog_name="gradlint", standalone_mode=False)
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
