"""The picture of `gradlint show`: which rows a model gets, what they say, and how it is drawn (snapshots; `pytest --update`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gradlint.errors import LoadError
from gradlint.findings import (
    Confidence,
    Coverage,
    Finding,
    Hop,
    Location,
    ModuleFacts,
    NodeFacts,
    ParameterFacts,
    Report,
    Severity,
    TargetReport,
)
from gradlint.report.layers import rows
from gradlint.report.picture import render
from gradlint.report.view import View

HERE = Path(__file__).parent
BUILT, CALLED = Location(str(HERE / "net.py"), 8, 5), Location(str(HERE / "net.py"), 20, 9)


def node(name, op, module, rms, grad, shape=(4, 16), place=CALLED):
    return NodeFacts(name, op, module, place, shape, rms, grad)


def stack(depth, growth=2.0, inputs=("x: float32[4, 16]",)):
    """`depth` blocks of a layer, an activation in it and a sum behind it, that halve nothing and amplify the gradient."""
    nodes = [node("x", "x", "", 1.0, growth**depth, place=None)]
    modules = [ModuleFacts("", "Net", None, 1.0, 1.0)]
    for n in range(depth):
        back = growth ** (depth - n - 1)
        nodes += [
            node(f"linear_{n}", "linear", f"blocks.{n}.fc", 1.5, back),
            node(f"relu_{n}", "relu", f"blocks.{n}.act", 1.0, back),
            node(f"add_{n}", "add", f"blocks.{n}", growth ** (n + 1), back),
        ]
        modules += [
            ModuleFacts(f"blocks.{n}.fc", "Linear", BUILT, 1.5, back),
            ModuleFacts(f"blocks.{n}", "Block", BUILT, 1.0, back),
        ]
    parameters = tuple(ParameterFacts(f"blocks.{n}.fc.weight", (16, 16), "normal_", 0.1, 1.0) for n in range(depth))
    return TargetReport(
        "net.py:Net",
        BUILT,
        inputs,
        "real",
        Coverage(3 * depth),
        depth * math.log2(growth),
        parameters,
        tuple(modules),
        tuple(nodes),
    )


def finding(**changes):
    given = {
        "code": "GL101",
        "name": "exploding-path",
        "severity": Severity.ERROR,
        "confidence": Confidence.HIGH,
        "message": "the gradient is amplified",
        "location": Location(str(HERE / "net.py"), 9, 5),
        "target": "net.py:Net",
        "module": "blocks.0",
        **changes,
    }
    return Finding(**given)


def test_a_short_model_is_shown_op_by_op():
    shown = rows(stack(2), [], 48)
    assert [row.name for row in shown] == [
        "x",
        "blocks.0.fc",
        "blocks.0.act",
        "blocks.0",
        "blocks.1.fc",
        "blocks.1.act",
        "blocks.1",
    ]
    assert [row.kind for row in shown][1:4] == ["Linear", "relu", "Block"]
    assert [row.location.line for row in shown[1:4]] == [8, 20, 8], "where it is built; ops, where they are called"


def test_a_longer_one_by_layer_and_by_block():
    by_layer = rows(stack(10), [], 25)
    assert [row.name for row in by_layer][:4] == ["x", "blocks.0.fc", "blocks.0.act", "blocks.1.fc"]
    by_block = rows(stack(20), [], 22)
    assert [row.name for row in by_block] == ["x", *(f"blocks.{n}" for n in range(20))]
    assert {row.kind for row in by_block[1:]} == {"Block"}


@pytest.mark.parametrize("limit", [2, 3, 7, 20, 48, 1000])
@pytest.mark.parametrize("depth", [1, 5, 50, 333])
def test_there_are_never_more_rows_than_there_is_room_for_and_the_ends_are_those_of_the_model(depth, limit):
    shown = rows(stack(depth), [], limit)
    assert len(shown) <= limit
    assert (shown[0].name, shown[0].gradient) == ("x", pytest.approx(depth))
    assert shown[-1].rms == pytest.approx(depth)
    assert shown[-1].gradient == pytest.approx(0.0)


def test_a_loop_in_python_is_shown_step_by_step():
    """Two layers that take turns say nothing as one row each."""
    nodes = [node(f"n{n}", "linear", "cell", 1.0, 2.0 ** (100 - n)) for n in range(100)]
    shown = rows(TargetReport("f.py:RNN", None, (), "real", Coverage(100), nodes=tuple(nodes)), [], 10)
    assert len(shown) == 10
    assert [row.gradient for row in shown] == sorted((row.gradient for row in shown), reverse=True)


def test_gradients_are_norms_beside_the_output_also_where_shapes_change():
    nodes = (
        node("x", "x", "", 1.0, 0.25, (4, 64), None),
        node("pool", "pool", "", 1.0, 1.0, (4, 16)),
        node("head", "linear", "head", 1.0, 1.0, (4, 4)),
    )
    shown = rows(TargetReport("f.py:Net", None, ("x: float32[4, 64]",), "real", Coverage(2), nodes=nodes), [], 48)
    assert [row.gradient for row in shown] == pytest.approx([math.log2(0.25 * 4), 1.0, 0.0])


def test_beyond_the_range_of_floats_the_path_tells():
    nodes = (
        node("x", "x", "", 1.0, math.inf, place=None),
        node("a", "linear", "a", 1.0, 2.0),
        node("b", "linear", "b", 1.0, 1.0),
    )
    path = (Hop("a", "b", None, "weights", 1.0, 1.0), Hop("x", "a", None, "weights", 1999.0, 2000.0))
    target = TargetReport("f.py:Net", None, ("x: float32[4, 16]",), "real", Coverage(2), 2000.0, nodes=nodes, path=path)
    shown = rows(target, [], 48)
    assert [row.gradient for row in shown] == [2000.0, 1.0, 0.0]
    assert "×2^2000" in render(Report((target,)), View(root=HERE))


def test_inputs_that_are_no_numbers_have_no_row():
    assert rows(stack(1, inputs=("x: int64[4, 16]",)), [], 48)[0].name == "blocks.0.fc"


@pytest.mark.parametrize(
    ("blamed", "marked"),
    [
        (("blocks.{1…2}.fc.weight",), ["blocks.1", "blocks.2"]),
        (("blocks.3.fc.weight",), ["blocks.3"]),
        (("blocks.2",), ["blocks.2"]),
        (("blocks.0.fc.weight, blocks.3.fc.weight",), ["blocks.0", "blocks.3"]),
        (("blocks.1.fc", "blocks.2.act"), ["blocks.1", "blocks.2"]),
        (("blocks.22",), []),
    ],
)
def test_what_a_finding_blames_is_marked(blamed, marked):
    shown = rows(stack(5), [finding(instances=blamed)], 7)
    assert [row.name for row in shown if row.findings] == marked
    assert all(row.location.line == 9 for row in shown if row.findings), "the line to blame"


def test_numbers_between_those_of_the_parameters_are_not_marked():
    """In a Sequential the layers are 0, 2, 4, their activations 1, 3, 5."""
    names = [f"{n}" for n in range(6)]
    nodes = tuple(node(f"n{n}", "linear", name, 1.0, 1.0) for n, name in enumerate(names))
    parameters = tuple(ParameterFacts(f"{n}.weight", (16, 16), "normal_", 0.1, 1.0) for n in (0, 2, 4))
    target = TargetReport("net.py:Net", None, (), "real", Coverage(6), parameters=parameters, nodes=nodes)
    assert [row.name for row in rows(target, [finding(instances=("{0…4}.weight",))], 48) if row.findings] == ["0", "2", "4"]


def test_a_finding_about_the_whole_model_marks_no_row():
    assert not any(row.findings for row in rows(stack(3), [finding(module="", instances=())], 48))


def report():
    other = finding(code="GL901", name="unknown-op", severity=Severity.INFO, message="my_op is unknown", instances=("blocks.0",))
    bad = finding(instances=("blocks.{1…2}.fc.weight",))
    failure = LoadError("there is no such file", target="missing.py", where=f"{HERE / 'net.py'}:3").to_dict()
    target = stack(4, growth=30.0)
    odd = node("my_op", "my_op", "", None, None), node("gate", "mul", "", 0.0, None), node("cut", "detach", "", 1.0, 0.0)
    vanishing = TargetReport("net.py:Deep", BUILT, (), "real", Coverage(3), None, nodes=(*stack(2, 0.01).nodes, *odd))
    return Report((target, vanishing), (other, bad), (failure,))


def test_snapshots(snapshot):
    snapshot(render(report(), View(root=HERE)), "show.txt")
    snapshot(render(report(), View(root=HERE, width=60)), "show.narrow.txt")
    snapshot(render(report(), View(root=HERE, width=140), limit=6), "show.wide.folded.txt")
    snapshot(render(report(), View(root=HERE, color=True)).replace("\x1b", "␛"), "show.color.txt")


@pytest.mark.parametrize("width", [40, 59, 69, 70, 89, 90, 100, 200])
def test_no_line_is_wider_than_the_terminal(width):
    text = render(report(), View(root=HERE, width=width))
    assert max(map(len, text.splitlines())) <= width


def test_bars_are_as_long_as_their_bits():
    bars = [line.count("█") + line.count("▌") / 2 for line in render(Report((stack(16),)), View(width=200), 17).splitlines()[2:]]
    forward_and_backward = set(bars)
    assert len(bars) == 17
    assert max(forward_and_backward) - min(forward_and_backward) <= 2, "16 halvings here are 16 doublings there"
