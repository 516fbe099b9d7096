"""Are inputs guessed that a model accepts, and of the kind that its author gives it? fixtures/programs and fixtures/zoo.

    python -m benchmarks.inputs                    the table and its summary
    python -m benchmarks.inputs --only unet        targets whose name contains it
    python -m benchmarks.inputs --write            also commit the table to README.md

Nothing is declared to the guesser: the inputs in expected.toml and programs_called.py are only compared with.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._tables import between
from gradlint.errors import TargetError
from gradlint.load import load
from gradlint.trace import parse_input, recording
from gradlint.trace.inputs import resolve
from gradlint.trace.tree import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
HEAD = ("target", "guessed", "kind", "s")

Kinds = list[tuple[str, int]]


@dataclass(frozen=True)
class Row:
    """One model: the guess or why there is none, whether it is of its author's kind, and how long it took."""

    group: str
    target: str
    guess: str
    accepted: bool
    alike: bool
    seconds: float

    def cells(self) -> tuple[str, ...]:
        alike = "as its author's" if self.alike else "another" if self.accepted else ""
        return self.target, self.guess, alike, f"{self.seconds:.1f}"


def authors() -> Iterator[tuple[str, str, Kinds]]:
    """Group, target, and the kinds of the tensors that the author gives."""
    spec = importlib.util.spec_from_file_location("programs_called", FIXTURES / "programs_called.py")
    assert spec is not None
    assert spec.loader is not None
    calls = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(calls)
    for target, call in calls.CALLS.items():
        yield "programs", target, kinds(call())
    for target, expected in tomllib.loads((FIXTURES / "zoo" / "expected.toml").read_text(encoding="utf-8")).items():
        specs = [parse_input(text) for text in expected["inputs"]]
        yield "zoo", target, [(kind(getattr(torch, s.dtype)), len(s.shape)) for s in specs]


def kinds(given: Any) -> Kinds:
    return [(kind(t.dtype), t.dim()) for t in tensors_in(given)]


def kind(dtype: torch.dtype) -> str:
    return "bool" if dtype == torch.bool else "float" if dtype.is_floating_point else "int"


def guess(group: str, target: str, wanted: Kinds) -> Row:
    with recording():
        (found,) = load(str(FIXTURES / group / target))
        model = found.build().train()
    start = time.perf_counter()
    try:
        arguments = resolve(model, None)
    except TargetError as error:
        return Row(group, target, str(error), accepted=False, alike=False, seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    alike = kinds((arguments.args, arguments.kwargs)) == wanted
    text = f"{arguments}" + ("" if arguments.origin == "guessed" else f" ({arguments.origin})")
    return Row(group, target, text, accepted=True, alike=alike, seconds=seconds)


def summary(rows: Sequence[Row]) -> list[str]:
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        of = [row for row in rows if row.group == group]
        accepted, alike = sum(r.accepted for r in of), sum(r.alike for r in of)
        slow = max(of, key=lambda r: r.seconds)
        lines.append(
            f"fixtures/{group}: guessed for {accepted} of {len(of)} models ({100 * accepted / len(of):.0f} %), types and numbers "
            f"of dimensions as its author's for {alike} ({100 * alike / len(of):.0f} %); {sum(r.seconds for r in of):.0f} s, "
            f"at most {slow.seconds:.1f} ({slow.target})"
        )
    return lines


def write(rows: Sequence[Row]) -> None:
    lines = [f"- {line}" for line in summary(rows)] + ["", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells()) + " |" for row in rows]
    between("inputs", lines)


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for group, target, wanted in authors():
        if options.only in target:
            rows.append(guess(group, target, wanted))
            print("  ".join(rows[-1].cells()), flush=True)
    print("\n".join(summary(rows)))
    if options.write and not options.only:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
