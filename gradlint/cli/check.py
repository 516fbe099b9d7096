"""``gradlint check``: judge models and write the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich_click as click

from gradlint.changes import compare
from gradlint.cli.diff import at
from gradlint.cli.options import FAIL_ON, configured, in_this_process, named, option, settings_of_models, where_torch_is
from gradlint.cli.progress import progress
from gradlint.cli.streams import terminal_view
from gradlint.cli.watch import Watched, watch
from gradlint.cli.workers import judge, options_of_workers
from gradlint.errors import UsageError
from gradlint.report import FORMATS, assign

__all__ = ["check"]


class _Shard(click.ParamType[tuple[int, int]]):
    """``2/5``."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Which, and of how many."""
        number, _, of = str(value).partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            self.fail(f"{value!r} is no shard, such as 2/5", param, ctx)
        return int(number), int(of)


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@click.option("--capture", is_flag=True, help="TARGET is a training script: run it until it first calls its model, and check "
              "that model with those inputs. What follows are the script's arguments, after --.")  # fmt: skip
@click.option("--shard", type=_Shard(), metavar="I/N", help="Only the I-th of N shares of the targets: one for each job of a CI.")
@click.option("--watch", "watching", is_flag=True, help="Check again whenever a file changes that the last run was made from.")
@settings_of_models
@option("--verify", is_flag=True, default=None, help="Also run the models for real, forward and backward, and say where the "
         "prediction and the findings hold.")  # fmt: skip
@click.option("--diff-base", metavar="REV", help="Compare with a git revision, checked in a copy of its files; only new findings "
              "count.")  # fmt: skip
@option("--fail-on", type=FAIL_ON, help="Exit with 1 for findings of this severity or worse.  [default: warning]")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 despite findings (2 stays 2); --fail-on never.")
@option("--output-format", multiple=True, type=click.Choice(list(FORMATS)), help="Repeatable.  [default: full]")
@option("-o", "--output-file", multiple=True, metavar="[FORMAT=]FILE", help="Write the report there; - is stdout. Repeatable; "
         "the format is also told by --output-format or by the suffix (.sarif, .json, .xml, .md …).")  # fmt: skip
@options_of_workers
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option("--statistics", is_flag=True, help="Also how often each rule found something (full, concise).")
@click.option("-q", "--quiet", is_flag=True, help="Only findings and failures.")
@where_torch_is
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
        if options["diff_base"]:
            raise click.UsageError("--capture runs a script, --diff-base compares models: name them as targets")
    if options["exit_zero"]:
        options["fail_on"] = "never"
    if options.pop("watching"):
        if in_this_process(options):
            raise click.UsageError("--watch needs processes of their own: not with -j 0")
        files = targets or tuple(target.model for target in configured(targets, options).target)
        return watch(lambda watched: _once(targets, arguments, options, watched), files)
    return _once(targets, arguments, options)


def _once(
    targets: tuple[str, ...], arguments: tuple[str, ...], options: Mapping[str, Any], watched: Watched | None = None
) -> int:
    """One run."""
    given, settings = targets, configured(targets, options)
    outputs = assign(settings.output_format, settings.output_file)
    targets = named(targets, settings)
    if options["shard"]:
        from gradlint.fleet import share

        targets = share(targets, *options["shard"])
        if not targets:
            click.echo(f"gradlint: no target is in shard {options['shard'][0]}/{options['shard'][1]}", err=True)
            return 0
    base = None
    if options["diff_base"]:
        with progress([f"{options['diff_base']}, to compare with"], quiet=options["quiet"]):
            base = at(options["diff_base"], targets, options["python"])
    with progress(targets, quiet=options["quiet"]):
        report = judge(targets, settings, options, given, arguments if options["capture"] else None, watched)
    if base is not None:
        report = compare(base[0], report, base[1], settings.root)
    for style, file in outputs:
        shown = {"statistics": options["statistics"], "plain": file is not None}
        view = terminal_view(options["color"], options["quiet"], options["verbose"], **shown)
        text = FORMATS[style](report, view)
        if file is not None:
            try:
                file.write_text(text + "\n", "utf-8")
            except OSError as error:
                raise UsageError(f"cannot write the report: {error}") from error
        elif text:
            click.echo(text, color=True)
    return report.exit_code
