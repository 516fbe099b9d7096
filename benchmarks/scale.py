"""Are the laws right, and what does a model of any size cost?

    python -m benchmarks.scale                      laws of the zoo, then the giants, layers, bytes
    python -m benchmarks.scale --only laws          one part: laws, giants, layers or bytes
    python -m benchmarks.scale --write              also commit the tables to README.md

Giants run in processes of their own, from their start to the printed verdict. Seconds are of the processor and of the clock.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradlint
from benchmarks._tables import between
from benchmarks.accuracy import load, targets
from benchmarks.speed import peak, table
from gradlint.analysis import Analysis
from gradlint.config import Settings
from gradlint.flow import propagate
from gradlint.packs import load_rules
from gradlint.report import FORMATS
from gradlint.report.view import View
from gradlint.rule import Context
from gradlint.trace import build, recording, settled, trace
from gradlint.trace.deferred import Deferred
from gradlint.trace.state import seeded

PARTS = ("laws", "giants", "layers", "bytes")
STAGES = ("build", "trace", "flow", "spread", "rules")
SEEDS = 4
WITHIN = 0.02
SURE = 4.0  # standard errors
DEPTHS = (8, 32, 128, 512, 1024)
TOKENS = ["input_ids:int64<1000:2,16"]
HERE = Path(__file__).parent.parent


def llama(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: of_config("LlamaConfig", **changes)


def of_config(kind: str, **changes: Any) -> nn.Module:
    library = importlib.import_module("transformers")  # by the processes that build something
    return library.AutoModelForCausalLM.from_config(getattr(library, kind)(**changes))


GIANTS: dict[str, Callable[[], nn.Module]] = {
    "Llama 2 7B": llama(),
    "Llama 3 405B": llama(
        hidden_size=16384, intermediate_size=53248, num_hidden_layers=126, num_attention_heads=128, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192,
    ),
    "GPT-3 175B": lambda: of_config("GPT2Config", n_embd=12288, n_layer=96, n_head=96, n_positions=2048),
    "Mixtral 8x22B": lambda: of_config(
        "MixtralConfig",
        hidden_size=6144, intermediate_size=16384, num_hidden_layers=56, num_attention_heads=48, vocab_size=32768,
    ),
    "DeepSeek-V3 671B": lambda: of_config("DeepseekV3Config"),
}  # fmt: skip


# --- laws beside what is really drawn ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laws:
    """Parameters of one model, or of many.

    Args:
        parameters: how many.
        closed: with a law in closed form.
        decidable: of which so many entries are drawn that 2 % are more than four standard errors.
        std: decidable ones whose std is within 2 %.
        mean: decidable ones whose mean is within 0.02 std.
        consistent: of all, those within 2 % or four standard errors, std and mean.
    """

    parameters: int = 0
    closed: int = 0
    decidable: int = 0
    std: int = 0
    mean: int = 0
    consistent: int = 0

    def __add__(self, other: Laws) -> Laws:
        return Laws(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def laws_of(factory: Callable[[], nn.Module], wrong: Callable[[str], None]) -> Laws:
    """No large parameter is drawn for its law; then the model is really built, with several seeds."""
    with recording(deferred=Deferred(0, large=64)) as laws:
        model = build(factory)
    known = {name: laws.law(parameter) for name, parameter in model.named_parameters()}
    drawn: dict[str, list[torch.Tensor]] = {}
    for seed in range(SEEDS):
        with seeded(seed):
            for name, parameter in factory().named_parameters():
                drawn.setdefault(name, []).append(parameter.detach().double().flatten())
    total = Laws()
    for name, law in known.items():
        values = torch.cat(drawn[name])
        mean, std = float(values.mean()), float(values.std(unbiased=False))
        if std <= 1e-6 * abs(mean):
            std = 0.0
        kurtosis = float(((values - mean) ** 4).mean()) / std**4 if std else 1.0
        noise = math.sqrt(max(kurtosis - 1, 0.0) / (4 * len(values)))
        decidable = SURE * max(noise, 1 / math.sqrt(len(values)) if std else 0.0) <= WITHIN
        far = abs(law.std / std - 1) if std else float(law.std > 1e-6 * abs(mean))
        off = abs(law.mean - mean) / (std or max(abs(mean), 1e-9))
        fine = far <= max(WITHIN, SURE * noise) and off <= max(WITHIN, SURE / math.sqrt(len(values)))
        if not fine:
            wrong(f"  {name}: {law}, drawn: mean {mean:.4g} std {std:.4g}")
        total += Laws(
            1,
            int(law.kind != "values"),
            *map(int, (decidable, decidable and far <= WITHIN, decidable and off <= WITHIN, fine)),
        )
    return total


def laws_table(say: Callable[..., None], patterns: Sequence[str] = ()) -> list[str]:
    total = Laws()
    models, every = 0, targets()
    for target in every:
        if patterns and not any(pattern in target for pattern in patterns):
            continue
        found = laws_of(load(target), say)
        total, models = total + found, models + 1
        say(f"{target}: {found.consistent} of {found.parameters}")

    def share(count: int, of: int) -> str:
        return f"{count} of {of} ({100 * count / max(of, 1):.2f} %)"

    rows = [
        ("parameters of the zoo with a law in closed form", share(total.closed, total.parameters)),
        ("of those with enough entries to tell 2 % apart: standard deviation within 2 %", share(total.std, total.decidable)),
        ("mean within 0.02 standard deviations", share(total.mean, total.decidable)),
        ("of all: within that, or four standard errors of the draws", share(total.consistent, total.parameters)),
    ]
    of = f"{models}" if models == len(every) else f"{models} of the {len(every)}"
    return table((f"{of} models, {SEEDS} seeds", ""), rows)


# --- processes of their own --------------------------------------------------------------------------------------------


def child(name: str, layers: int | None, stages: bool) -> None:
    """What one process does; one line of JSON is its result."""
    torch.set_num_threads(1)
    factory = GIANTS[name] if layers is None else llama(num_hidden_layers=layers)
    result = staged(factory) if stages else judged(factory)
    print(json.dumps({**result, "MB": peak() / 1e6, "cpu": time.process_time()}))


def judged(factory: Callable[[], nn.Module]) -> dict[str, Any]:
    report = gradlint.lint(factory, inputs=TOKENS)
    text = FORMATS["json"](report, View())
    verdict = " ".join(sorted({finding.code for finding in report.findings})) or "none"
    return {"sha": hashlib.sha256(text.encode()).hexdigest(), "rung": report.targets[0].rung, "findings": verdict}


def staged(factory: Callable[[], nn.Module]) -> dict[str, Any]:
    llama(num_hidden_layers=1, hidden_size=64, intermediate_size=64, num_attention_heads=4, vocab_size=64)()  # imports
    with recording() as laws:
        warm = build(llama(num_hidden_layers=1))
    trace(warm, TOKENS, laws=laws)
    with settled():
        marks = [time.process_time()]
        with recording() as laws:
            model = build(factory)
        marks.append(time.process_time())
        traced = trace(model, TOKENS, laws=laws)
        marks.append(time.process_time())
        traced_peak = peak()
        analysis = Analysis.of(propagate(traced))
        marks.append(time.process_time())
        analysis.spreads  # noqa: B018 - it is worked out when it is asked for
        marks.append(time.process_time())
        context = Context(analysis, "model", Settings())
        for rule in load_rules().choose(Settings()):
            list(rule.check(context))
        marks.append(time.process_time())
    seconds = dict(zip(STAGES, (b - a for a, b in itertools.pairwise(marks)), strict=True))
    entries = sum(parameter.numel() for parameter in model.parameters())
    return {**seconds, "entries": entries, "nodes": len(traced.graph.nodes), "traced_MB": traced_peak / 1e6}


def spawned(*arguments: str, seed: str = "0") -> dict[str, Any]:
    start = time.monotonic()
    run = subprocess.run(  # noqa: S603 - this very file
        [sys.executable, "-m", "benchmarks.scale", *arguments],
        cwd=HERE, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return {**found, "wall": time.monotonic() - start}


def giants_table(say: Callable[..., None]) -> list[str]:
    rows = []
    for name in GIANTS:
        whole, parts = spawned("--child", name), spawned("--child", name, "--stages")
        numbers = [f"{parts[stage]:.2f}" for stage in STAGES]
        rows.append(
            (name, f"{parts['entries'] / 1e9:.1f}", str(parts["nodes"]), *numbers, f"{parts['traced_MB']:.0f}",
             f"{whole['cpu']:.1f}", f"{whole['wall']:.1f}", f"{whole['MB']:.0f}", whole["findings"])
        )  # fmt: skip
        say("  ".join(rows[-1]))
    head = (
        "model",
        "10⁹ parameters",
        "nodes",
        "build",
        "trace",
        "flow",
        "spread",
        "rules",
        "MB traced",
        "whole process, cpu s",
        "wall s",
        "MB",
        "findings",
    )
    return table(head, rows)


def layers_table(say: Callable[..., None]) -> list[str]:
    rows = []
    for depth in DEPTHS:
        parts = spawned("--child", "Llama 2 7B", "--layers", str(depth), "--stages")
        numbers = [f"{1e3 * parts[stage] / depth:.1f}" for stage in STAGES]
        rows.append((str(depth), str(parts["nodes"]), *numbers, f"{parts['MB']:.0f}"))
        say("  ".join(rows[-1]))
    return table(("layers of Llama", "nodes", *(f"{stage} ms/layer" for stage in STAGES), "MB"), rows)


def bytes_table(say: Callable[..., None]) -> list[str]:
    rows = []
    for name in ("Llama 2 7B", "Llama 3 405B"):
        sums = [spawned("--child", name, seed=seed)["sha"] for seed in ("0", "0", "1")]
        rows.append((name, "the same" if sums[0] == sums[1] else "differ", "the same" if sums[0] == sums[2] else "differ"))
        say("  ".join(rows[-1]))
    return table(("JSON report", "run twice", "under another PYTHONHASHSEED"), rows)


def parts(only: str | None, models: Sequence[str]) -> Iterator[tuple[str, Callable[[Callable[..., None]], list[str]]]]:
    every = {
        "laws": functools.partial(laws_table, patterns=models),
        "giants": giants_table,
        "layers": layers_table,
        "bytes": bytes_table,
    }
    yield from ((name, function) for name, function in every.items() if only in (None, name))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--models", metavar="PATTERN", action="append", default=[], help="laws of these models of the zoo only")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/README.md")
    parser.add_argument("--child", choices=list(GIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.layers, given.stages)
        return 0

    def say(*words: str) -> None:
        print(*words, flush=True)

    for name, function in parts(given.only, given.models):
        lines = function(say)
        say("", *lines)
        if given.write and name != "bytes":
            between(f"scale-{name}", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
