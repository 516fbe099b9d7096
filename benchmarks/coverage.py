"""How far does gradlint get with models that nobody has shown it? Built, inputs found, traced, analysed.

    python -m benchmarks.coverage                        fixtures/zoo, fixtures/programs and the architectures of transformers
    python -m benchmarks.coverage --only bert --only vit targets of these names (or patterns)
    python -m benchmarks.coverage --again                only those that have failed before
    python -m benchmarks.coverage --write                also commit the table to README.md
    python -m benchmarks.coverage --verify --only olmo   the error of the prediction as well

Nothing is declared: inputs are guessed. The architectures are those of the installed transformers, their default configurations
made small by one rule for all (:mod:`benchmarks._architectures`). Each model runs in a process of its own; outcomes are kept in
benchmarks/.cache/coverage.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from benchmarks._architectures import architectures, small
from benchmarks._tables import between, share
from gradlint import verify
from gradlint.analysis import Analysis
from gradlint.errors import TargetError
from gradlint.flow import propagate
from gradlint.load import load
from gradlint.packs import load_rules
from gradlint.rule import Context
from gradlint.trace import recording, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache" / "coverage.json"
STAGES = ("build", "inputs", "trace", "analyse")
SECONDS, MEMORY = 200, 5 << 30


@dataclass(frozen=True)
class Outcome:
    """How far one model came.

    Args:
        failed: the stage that failed; empty: none.
        internal: the failure is gradlint's own: anything but a reason that a user is told.
        known: op executions with a formula, of ``total``; ``sampled`` and ``opaque`` by name are the rest.
        error: the 95th percentile of the errors of gradients, in bits, where it was asked for; ``worst`` names the largest.
    """

    group: str
    target: str
    failed: str = ""
    message: str = ""
    internal: bool = False
    inputs: str = ""
    nodes: int = 0
    known: int = 0
    total: int = 0
    sampled: dict[str, int] = field(default_factory=dict)
    opaque: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: float | None = None
    worst: str = ""


Builders = Callable[[], Iterable[Callable[[], nn.Module]]]


def targets() -> Iterator[tuple[str, str, Builders]]:
    """Group, name, and what yields builders: of the same architecture in several sizes, of which one is to be judged."""
    for group in ("zoo", "programs"):
        for path in sorted((ROOT / "fixtures" / group).glob("*.py")):
            with recording():
                names = [item.name for item in load(str(path))]
            for name in names:
                yield group, f"{path.name}:{name}", partial(_fixture, f"{path}:{name}")
    for architecture in architectures():
        yield "transformers", architecture.kind, partial(small, architecture)


def _fixture(target: str) -> list[Callable[[], nn.Module]]:
    return [load(target)[0].build]


def judge(
    group: str, target: str, builders: Builders, *, measured: bool, reached: Callable[[str], None] = lambda _: None
) -> Outcome:
    """The outcome of the first size that can be traced; that of the smallest if none can."""
    first: Outcome | None = None
    try:
        for build in builders():
            reached("trace")
            outcome = judged(group, target, build, measured=measured, reached=reached)
            if outcome.failed not in ("build", "inputs", "trace"):
                return outcome
            first = first if first is not None and first.failed != "build" else outcome
    except Exception as error:  # noqa: BLE001 - the reason is the result
        return Outcome(group, target, failed="build", message=f"{type(error).__name__}: {error}")
    assert first is not None
    return first


def judged(group: str, target: str, build: Callable[[], nn.Module], *, measured: bool, reached: Callable[[str], None]) -> Outcome:
    """Take one model through all stages."""
    made = partial(Outcome, group, target)
    start = time.perf_counter()
    stage, inputs, nodes = "trace", "", 0
    try:
        traced = trace(build)
        inputs, nodes, stage = str(traced.arguments), len(traced.graph.nodes), "analyse"
        reached(stage)
        context = Context(Analysis.of(propagate(traced)), target)
        context.analysis.to_target_report(target, context.paths.log2, context.paths.entry)
        for rule in load_rules(()).rules:
            list(rule.check(context))
    except TargetError as error:
        where = f"{error.message} ({error.where})" if error.where else error.message
        return made(failed=error.stage, message=where, seconds=time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001 - as above
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return made(failed=stage, message=message, internal=True, nodes=nodes, seconds=time.perf_counter() - start)
    coverage, seconds = context.analysis.coverage, time.perf_counter() - start
    ops = {"sampled": dict(coverage.sampled), "opaque": dict(coverage.opaque)}
    found: dict[str, Any] = {}
    if measured:
        comparison = verify(build, traced.arguments).comparison
        worst = comparison.gradient.worst()
        found = {"error": comparison.gradient.p95, "worst": "".join(f"{e.name or '(model)'} {e.bits:+.2f}" for e in worst)}
    return made(inputs=inputs, nodes=nodes, known=coverage.known, total=coverage.total, seconds=seconds, **ops, **found)


def _child(answer: Connection, job: Callable[..., Outcome]) -> None:
    warnings.simplefilter("ignore")
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    answer.send(job(reached=answer.send))


def apart(group: str, target: str, builders: Builders, *, measured: bool) -> Outcome:
    """The same in a process of its own, which may crash or hang."""
    context = get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, partial(judge, group, target, builders, measured=measured)))
    process.start()
    theirs.close()
    reason, stage = f"more than {SECONDS} s", "build"
    try:
        for _ in range(SECONDS):
            if mine.poll(1):
                answer = mine.recv()
                if isinstance(answer, Outcome):
                    return answer
                stage = answer
            if _resident(process.pid) > MEMORY:
                reason = f"more than {MEMORY >> 30} GB"
                break
    except EOFError:
        reason = "the process ended without an answer"
    finally:
        process.kill()
        process.join()
    return Outcome(group, target, failed=stage, message=reason, internal=True)


def _resident(process: int | None) -> int:
    """Bytes of memory that a process holds."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it has ended
        return 0


def summary(outcomes: Sequence[Outcome], known: Mapping[str, int]) -> list[str]:
    """The table of groups and stages; ``known`` is the number of models of each group, run or not."""
    head = ("models run", "that build", "inputs found", "traced", "analysed", "of these, no op unknown", "op executions known")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for group in dict.fromkeys(o.group for o in outcomes):
        of = [o for o in outcomes if o.group == group]
        built = [o for o in of if o.failed != "build"]
        fed = [o for o in built if o.failed != "inputs"]
        traced = [o for o in fed if o.failed != "trace"]
        done = [o for o in traced if not o.failed]
        clear = [o for o in done if not o.opaque]
        row = (
            f"{group}: {len(of)} of {known[group]}",
            str(len(built)),
            *(_of(a, b) for a, b in ((fed, built), (traced, built), (done, traced))),
        )
        formulas = share(sum(o.known for o in done), max(sum(o.total for o in done), 1))
        lines.append("| " + " | ".join((*row, _of(clear, done), formulas)) + " |")
    return lines


def _of(part: Sequence[Outcome], whole: Sequence[Outcome]) -> str:
    return f"{len(part)} ({share(len(part), max(len(whole), 1))})"


def details(outcomes: Sequence[Outcome]) -> list[str]:
    """What failed and why; ops without a formula; what could not be built."""
    lines = [f"- **{o.target}**: {o.failed}: {_short(o.message)}" for o in outcomes if o.failed not in ("", "build")]
    for how in ("sampled", "opaque"):
        models: Counter[str] = Counter(op for o in outcomes for op in getattr(o, how))
        runs: Counter[str] = Counter()
        for o in outcomes:
            runs.update(getattr(o, how))
        text = ", ".join(f"{op} ({runs[op]} in {n})" for op, n in models.most_common())
        lines.append(f"- ops {'unknown' if how == 'opaque' else how}, with executions and models: {text or 'none'}")
    unbuilt: dict[str, list[str]] = {}
    for o in outcomes:
        if o.failed == "build":
            kind = "too large" if o.message.endswith("M parameters") else _short(o.message, 60)
            unbuilt.setdefault(kind, []).append(o.target)
    lines += [f"- not built, {kind}: {', '.join(names)}" for kind, names in sorted(unbuilt.items())]
    return lines


def _short(text: str, length: int = 160) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace(str(ROOT) + "/", "")
    return text if len(text) <= length else text[: length - 1] + "…"


def _kept() -> dict[str, Outcome]:
    return {o["target"]: Outcome(**o) for o in json.loads(CACHE.read_text("utf-8"))} if CACHE.exists() else {}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--group", action="append", default=[], choices=["zoo", "programs", "transformers"])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--missing", action="store_true", help="only those that have never been run")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(args)
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    nn.functional.linear(
        torch.empty(2, 2, device="meta"), torch.empty(2, 2, device="meta"), torch.empty(2, device="meta")
    )  # imports much, once for all children
    kept = _kept()
    work = list(targets())
    order = [target for _, target, _ in work]
    # In no order of names: a run that is cut short is a sample.
    for group, target, builders in sorted(work, key=lambda item: hashlib.sha256(item[1].encode()).digest()):
        chosen = not options.only or any(p == target or fnmatch.fnmatch(target, p) for p in options.only)
        known = kept.get(target)
        if not chosen or (options.group and group not in options.group):
            continue
        if (options.again and known is not None and not known.failed) or (options.missing and known is not None):
            continue
        outcome = kept[target] = apart(group, target, builders, measured=options.verify)
        state = (
            f"{outcome.failed} FAILED{' (internal)' * outcome.internal}: {outcome.message}" if outcome.failed else outcome.inputs
        )
        error = "" if outcome.error is None else f"p95 {outcome.error:.2f} bit, worst {outcome.worst}  "
        print(f"{target:40} {outcome.seconds:6.1f} s {outcome.known:5}/{outcome.total:5}  {error}{state}", flush=True)
        CACHE.parent.mkdir(exist_ok=True)
        CACHE.write_text(json.dumps([asdict(o) for o in kept.values()], indent=1), "utf-8")
    outcomes = [kept[target] for target in order if target in kept]
    lines = [*summary(outcomes, Counter(group for group, _, _ in work)), "", *details(outcomes)]
    print("\n".join(lines))
    if options.write:
        between("coverage", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
