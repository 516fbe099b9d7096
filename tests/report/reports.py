"""Reports made by hand, for the tests of formats: one of each kind that a format may meet."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from gradlint.changes import compare
from gradlint.comparison import Comparison, Entry, Errors, Zero
from gradlint.errors import BuildError, LoadError
from gradlint.findings import (
    Confidence,
    Coverage,
    DepthFacts,
    Factor,
    Finding,
    Hop,
    Location,
    ModuleFacts,
    NodeFacts,
    Page,
    ParameterFacts,
    Report,
    Severity,
    TargetReport,
)

HERE = Path(__file__).parent
SOURCE = HERE / "model.py.txt"
INIT, FORWARD = Location(str(SOURCE), 8, 53), Location(str(SOURCE), 12, 17)


def finding(**changes):
    return replace(
        Finding(
            code="GL101",
            name="exploding-path",
            severity=Severity.ERROR,
            confidence=Confidence.HIGH,
            message="the gradient is amplified ×4.2e5 from the loss to the input",
            location=INIT,
            target="model.py:Net",
            module="blocks.0",
            evidence={"quantity": "gradient norm", "measured": 4.2123456e5, "expected": 512.0, "layers": 48},
            factors=(Factor("weights", 42.0, "48 × ×1.8"), Factor("activation", -23.3, "48 × ×0.71")),
            instances=tuple(f"blocks.{i}.weight" for i in range(48)),
            notes=("×1.3 per layer: leaves the healthy band after 23 layers, the model has 48",),
            fix="std 0.115 → 0.0884: then the layer and its activation keep the gradient",
        ),
        **changes,
    )


TARGET = TargetReport(
    name="model.py:Net",
    location=Location(str(SOURCE), 4, 1),
    inputs=("x: float32[2, 8]",),
    rung="real",
    coverage=Coverage(212),
    gain_log2=1.0,
    parameters=(ParameterFacts("blocks.0.weight", (8, 8), "normal_(std=0.115)", 0.115, math.inf, 0.5, (0.25, 1.0)),),
    modules=(ModuleFacts("blocks.0", "Linear", INIT, 1.0, 0.123456789),),
    nodes=(
        NodeFacts("x", "x", "", None, (2, 8), 1.0, 2.0),
        NodeFacts("linear", "linear", "blocks.0", FORWARD, (2, 8), None, 1.0),
    ),
    gain_typical_log2=0.0,
    gain_interval_log2=(-1.5, 1.5),
    depths=(DepthFacts("blocks.{}", 48, "exponential", 0.4, 18.7, 22),),
    assumptions=("seq_len = 16 (model.py:12)",),
    inputs_origin="guessed",
    path=(
        Hop("linear_1", "blocks.1", FORWARD, "weights", 21.0, 21.0),
        Hop("relu", "", None, "activation", -0.5, 20.5),
        Hop("linear", "blocks.0", INIT, "weights", 0.05, 20.55),
    ),
)
PAGES = (
    Page("GL101", "exploding-path", "error", "Gradient grows.", "# GL101 exploding-path\n\nGradient grows."),
    Page("GL201", "init-variance", "warning", "Weights of the wrong variance.", "# GL201 init-variance"),
)
CLEAN = Report((TARGET,), version="0", pages=PAGES)
BESIDE = Comparison(
    gradient=Errors(
        (
            Entry("blocks.0.weight", "parameter", 2.0, 1.9, 0.05),
            Entry("blocks.1.weight", "parameter", 8.0, 1.0, 0.1),
            Entry("blocks.0", "module", 1.0, 1.01, 0.02),
            *(Entry(f"blocks.{i}", "module", 1.0, 1.0, 0.02) for i in range(1, 5)),
        )
    ),
    forward=Errors((Entry("blocks.0", "module", 1.0, 1.0, 0.02),)),
    initial=Errors(()),
    small=(Entry("blocks.0.bias", "parameter", 0.0, 0.0),),
    zeros=(Zero("blocks.1.bias", "parameter", 0.5),),
    missing=("module blocks.2 (gradient)",),
    inputs=(Entry("x", "input", 3.0, 3.2, 0.1),),
    seeds=4,
    dtype="float64",
)
WARNING = finding(
    code="GL201",
    name="init-variance",
    severity=Severity.WARNING,
    confidence=Confidence.MEDIUM,
    message="weights with std 0.3 scale the gradient ×4.8 per layer",
    location=FORWARD,
    target="other.py:build",
    factors=(Factor("weights", 2.26),),
    instances=("head.weight",),
    notes=(),
)
NOWHERE = finding(
    code="GL901",
    name="unknown-op",
    severity=Severity.INFO,
    confidence=Confidence.LOW,
    message="my_op is unknown",
    location=None,
    module="",
    factors=(),
    instances=(),
    notes=(),
    fix="",
)
OTHER = replace(TARGET, name="other.py:build", coverage=Coverage(3, {"my_op": 2}, {"your_op": 1}), assumptions=())
FAILURES = (
    LoadError("there is no such file", target="missing.py", hint="targets are model.py and package.module").to_dict(),
    BuildError("building the model raised ValueError: no", target="model.py:make", where=f"{SOURCE}:16").to_dict(),
)
MUCH, LITTLE = DepthFacts("blocks.{}", 48, "exponential", 0.4, 18.7, 22), DepthFacts("blocks.{}", 48, "algebraic", 0.5, 2.8, None)
BEFORE = Report(
    (replace(TARGET, gain_log2=18.7, depths=(MUCH,)), replace(OTHER, name="gone.py:Net")),
    (finding(), replace(WARNING, target="gone.py:Net"), NOWHERE),
    FAILURES[:1],
)
AFTER = Report(
    (replace(TARGET, depths=(LITTLE,)), OTHER),
    (WARNING, replace(NOWHERE, severity=Severity.WARNING)),
    version="0",
    pages=PAGES,
)
REPORTS = {
    "clean": CLEAN,
    "one": Report((TARGET,), (finding(),), version="0", pages=PAGES),
    "many": Report((TARGET, OTHER), (WARNING, finding(), NOWHERE), FAILURES, version="0", pages=PAGES),
    "accepted": Report(
        (TARGET,),
        (),
        version="0",
        pages=PAGES,
        suppressed=(finding(suppressed="comment"), replace(WARNING, suppressed="baseline")),
    ),
    "verified": Report(
        (replace(TARGET, verification=BESIDE),),
        (
            finding(verified="contradicted", notes=("contradicted by 4 real backward passes: the gradient at input x is ×2.0",)),
            finding(code="GL102", name="vanishing-path", verified="verified"),
        ),
        version="0",
    ),
    "failed": Report((), (), FAILURES[:1], version="0"),
    "changed": compare(BEFORE, AFTER, "main (4f2a9c1)", HERE),
    "clean_but_failed": Report((TARGET,), (), FAILURES, version="0"),
}
