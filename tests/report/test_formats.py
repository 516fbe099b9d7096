"""Every format on hand-made reports: snapshots as text (`pytest --update` rewrites them), the JSON against its schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from reports import CLEAN, HERE, REPORTS, TARGET, finding

import gradlint
from gradlint.config import KINDS
from gradlint.errors import UsageError
from gradlint.findings import (
    Factor,
    Location,
    Report,
)
from gradlint.report import FORMATS, View, assign

SCHEMA = json.loads((Path(gradlint.__file__).parent / "report" / "schema.json").read_text("utf-8"))


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
