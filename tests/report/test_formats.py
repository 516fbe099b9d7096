"""Every format on hand-made reports: snapshots as text (`pytest --update` rewrites them), the JSON against its schema."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import gradlint
from gradlint.comparison import Comparison, Entry, Errors, Zero
from gradlint.errors import BuildError, LoadError
from gradlint.findings import (
    Confidence,
    Coverage,
    Factor,
    Finding,
    Location,
    ModuleFacts,
    NodeFacts,
    ParameterFacts,
    Report,
    Severity,
    TargetReport,
)
from gradlint.report import FORMATS, View

HERE = Path(__file__).parent
SOURCE = HERE / "model.py.txt"
SCHEMA = json.loads((Path(gradlint.__file__).parent / "report" / "schema.json").read_text("utf-8"))
INIT, FORWARD = Location(str(SOURCE), 8, 54), Location(str(SOURCE), 12, 17)


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
    assumptions=("seq_len = 16 (model.py:12)",),
    inputs_origin="guessed",
)
CLEAN = Report((TARGET,), version="0")
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
REPORTS = {
    "clean": CLEAN,
    "one": Report((TARGET,), (finding(),), version="0"),
    "many": Report((TARGET, OTHER), (finding(), WARNING, NOWHERE), FAILURES, version="0"),
    "verified": Report(
        (replace(TARGET, verification=BESIDE),),
        (
            finding(verified="contradicted", notes=("contradicted by 4 real backward passes: the gradient at input x is ×2.0",)),
            finding(code="GL102", name="vanishing-path", verified="verified"),
        ),
        version="0",
    ),
    "failed": Report((), (), FAILURES[:1], version="0"),
    "clean_but_failed": Report((TARGET,), (), FAILURES, version="0"),
}


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("name", REPORTS)
def test_snapshot(name, style, snapshot):
    suffix = "json" if style == "json" else "txt"
    snapshot(FORMATS[style](REPORTS[name], View(root=HERE)), f"{name}.{style}.{suffix}")


def test_snapshot_of_a_narrow_terminal_and_of_verbose(snapshot):
    snapshot(FORMATS["full"](REPORTS["one"], View(root=HERE, width=60)), "one.narrow.txt")
    snapshot(FORMATS["full"](REPORTS["many"], View(root=HERE, verbose=True)), "many.verbose.txt")
    snapshot(FORMATS["full"](REPORTS["verified"], View(root=HERE, verbose=True, width=100)), "verified.verbose.txt")


def test_snapshot_of_colours(snapshot):
    text = FORMATS["full"](REPORTS["one"], View(root=HERE, color=True))
    snapshot(text.replace("\x1b", "␛"), "one.color.txt")


@pytest.mark.parametrize("name", REPORTS)
def test_json_is_what_the_schema_says(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = FORMATS["json"](REPORTS[name], View(root=HERE))
    jsonschema.validate(json.loads(text), SCHEMA)
    assert json.loads(text, parse_constant=pytest.fail)["exit_code"] == REPORTS[name].exit_code


def test_the_schema_notices_what_is_missing():
    document = CLEAN.to_dict()
    del document["coverage"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_quiet_shows_only_what_is_wrong():
    assert FORMATS["full"](CLEAN, View(quiet=True)) == ""
    assert "Found" not in FORMATS["full"](REPORTS["one"], View(quiet=True))


@pytest.mark.parametrize("style", ["full", "concise"])
def test_a_source_that_cannot_be_read_is_no_obstacle(style):
    gone = finding(location=Location("/no/such/file.py", 3, 4))
    assert "/no/such/file.py:3:4" in FORMATS[style](Report((TARGET,), (gone,)), View(root=HERE))


@pytest.mark.parametrize(
    ("log2", "shown"),
    [(0, "×1.0"), (1, "×2.0"), (5, "×32"), (10, "×1024"), (18.7, "×4.3e5"), (-5, "×0.031"), (-20, "×9.5e-7"), (2000, "×2^2000")],
)
def test_gains_have_two_digits(log2, shown):
    one = finding(factors=(Factor("weights", log2),))
    assert f"note: {shown} weights" in FORMATS["full"](Report((TARGET,), (one,)), View(root=HERE))
