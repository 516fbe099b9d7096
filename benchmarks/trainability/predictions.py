"""The predicted half of the benchmark: what gradlint says of each configuration, from its code alone."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradlint
from benchmarks.trainability.configurations import Configuration
from benchmarks.trainability.networks import NOISE, SYMBOLS, TOKENS, build
from benchmarks.trainability.tasks import BATCH
from gradlint.config import Settings
from gradlint.packs import load_rules
from gradlint.review import Review
from gradlint.rule import Context, Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "benchmarks" / ".cache"


@dataclass(frozen=True)
class Prediction:
    """Of one configuration; bits, None where a quantity does not exist.

    Args:
        gain: of the gradient's norm from the output to the input, in a typical draw of the weights.
        collapse: log2 of ``1 − ρ`` of the last hidden tensor's samples.
        curvature: log2 of the loss's steepest curvature.
        lasting: the same of what a step does not relax.
        memory: of the gradient's norm in time: lost over the steps that the task needs, or gained over all.
        findings: code and severity of each, info left out; None where the rules were not asked.
    """

    seed: int
    gain: float | None
    collapse: float | None
    curvature: float | None
    lasting: float | None
    output: float | None
    memory: float | None
    findings: dict[str, str] | None = None


def predict(c: Configuration, *, judged: bool) -> Prediction:
    """What is said of a configuration, in the shapes that it is trained in.

    Args:
        judged: ask the rules too.
    """
    settings = settings_of(c)
    context = Context(gradlint.analyze(functools.partial(build, c), [spec(c)]), "model", settings)
    awake = context.awake
    gain = awake.paths.log2
    return Prediction(
        c.seed,
        None if gain is None else gain + awake.typical,
        awake.symptoms.collapse,
        context.symptoms.curvature,
        context.symptoms.lasting_curvature,
        context.symptoms.output,
        memory(context),
        verdict(context) if judged else None,
    )


def verdict(context: Context) -> dict[str, str]:
    """The worst severity of each code."""
    found: dict[str, str] = {}
    for finding in Review(load_rules(), context.settings).judge(context):
        if finding.severity != Severity.INFO and found.get(finding.code) != Severity.ERROR:
            found[finding.code] = str(finding.severity)
    return found


def settings_of(c: Configuration) -> Settings:
    """What the user knows of the task: that the answer lies at the start of the sequence."""
    return Settings(horizon={"*": c.depth - 1}) if c.recurrent and c.task == "sequence" else Settings()


def memory(context: Context) -> float | None:
    """Of the recurrence that changes the gradient most."""
    needed = context.settings.horizon_of(context.target)
    curves = [(r.curve, r.steps) for r in context.paths.recurrences if r.along == "sequence"]
    grown = [curve.at(needed) if needed is not None else max(curve.at(steps), 0.0) for curve, steps in curves]
    return max(grown, key=abs) if grown else None


def spec(c: Configuration) -> str:
    """The input, as ``--input`` takes it."""
    steps = c.depth if c.recurrent else TOKENS
    if c.task == "sequence":
        return f"int64<{SYMBOLS + NOISE}:{BATCH},{steps}"
    if c.task == "regression":
        return f"{BATCH},10"
    return {"mlp": f"{BATCH},64", "cnn": f"{BATCH},1,8,8"}.get(c.family.removeprefix("residual "), f"{BATCH},8,8")


def predictions(rows: Sequence[dict[str, Any]], *, judged: bool) -> list[Prediction]:
    """Of labelled configurations; kept in benchmarks/.cache as long as no line that they depend on changes."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    file = CACHE / f"trainability.{digest(judged=judged)}.jsonl"
    known: dict[int, Prediction] = {}
    if file.exists():
        lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
        known = {line["seed"]: Prediction(**line) for line in lines}
    for row in rows:
        c = Configuration(**row["configuration"])
        if c.seed not in known:
            known[c.seed] = predict(c, judged=judged)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(known[c.seed])) + "\n")
    return [known[row["configuration"]["seed"]] for row in rows]


def digest(*, judged: bool) -> str:
    """Of the sources: without the rules and their limits where these are not asked."""
    sources = [*ROOT.glob("gradlint/**/*.py"), *Path(__file__).parent.glob("[cnp]*.py")]
    if judged:
        sources += ROOT.glob("rules/**/*.py")
    else:
        sources = [path for path in sources if path.stem not in ("limits", "fitted")]
    sha = hashlib.sha256()
    for path in sorted(sources):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def finite(x: float | None, otherwise: float) -> float:
    return x if x is not None and math.isfinite(x) else otherwise
