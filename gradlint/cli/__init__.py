"""The command line: turns every outcome into an exit code. A file per command; what they share is in ``options`` and ``streams``.

    0  nothing at or above --fail-on      1  findings      2  could not do it      130  interrupted

The torch side is imported by the commands that need it, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import rich_click as click
from click.exceptions import Abort

from gradlint._version import __version__
from gradlint.cli import baseline, check, config, diff, rules, show
from gradlint.errors import GradlintError

__all__ = ["cli", "main"]


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


for _command in (check.check, show.show, diff.diff, baseline.baseline, rules.explain, rules.rules, config.config):
    cli.add_command(_command)


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
