"""What gradlint does not know, it says: no number where a gradient passes an op that nothing is known about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.ops.registry import TABLE, Flow

SCHEMA = json.loads((Path(gradlint.__file__).parent / "report" / "schema.json").read_text("utf-8"))


class Single(torch.autograd.Function):
    """Refuses double precision: it cannot be sampled."""

    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.float32:
            raise TypeError("single precision only")
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g


class Net(nn.Module):
    """A stem, an op that nothing is known about, what is behind it; a branch that does not meet it, an idle layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.hidden = nn.Linear(16, 16)
        self.clear = nn.Linear(16, 16)
        self.idle = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clear(x)
        return Single.apply(self.hidden(self.stem(x)))


def test_a_gradient_that_passes_an_unknown_op_is_unknown_and_the_others_are_known():
    analysis = gradlint.analyze(Net, ["4,16"])
    grads = {name: facts.grad_rms for name, facts in analysis.parameters.items()}
    unknown = {name for name, grad in grads.items() if grad is None}
    assert unknown == {"stem.weight", "stem.bias", "hidden.weight", "hidden.bias"}
    assert grads["idle.weight"] == grads["clear.weight"] == 0.0
    assert analysis.inputs["x"].grad_rms is None
    assert analysis.modules["hidden"].grad_rms is None
    assert analysis.modules["hidden"].rms > 0.0
    assert analysis.modules[""].rms is None
    assert analysis.modules[""].grad_rms == 1.0
    assert analysis.coverage.opaque == {"Single": 1}
    assert sum("nothing is known about" in note for note in analysis.flowed.notes) == 1


class Sums(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.clear(x) * 2, Single.apply(self.hidden(x))


def test_no_gradient_passes_an_op_off_the_main_path():
    report = gradlint.lint(Sums, ["4,16"])
    (finding,) = [f for f in report.findings if f.code == "GL901"]
    assert str(finding.severity) == "info"
    assert "no gradient passes it" in finding.message
    assert report.ok
    assert all(p.grad_rms is not None for p in report.targets[0].parameters)


class Partly(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        both = torch.stack([self.clear(x), Single.apply(x)])
        return torch.relu(both[0] + both[1].detach()) + both.sum(0)


def test_part_known_and_part_unknown_is_unknown():
    grads = gradlint.analyze(Partly, ["4,16"]).parameters
    assert grads["stem.weight"].grad_rms is None
    report = gradlint.lint(Partly, ["4,16"])
    assert report.targets[0].gain_log2 is None
    assert report.exit_code == 1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return Single.apply(self.rnn(self.embed(ids))[0]).mean(1)


def test_a_recurrent_layer_and_a_table_before_an_unknown_op():
    report = gradlint.lint(Recurrent, ["ids:int64<10:2,5"])
    assert [p.grad_rms for p in report.targets[0].parameters] == [None] * 5
    (finding,) = report.findings
    assert str(finding.severity) == "warning"
    assert finding.message == "nothing is known about Single: the gradient of 5 of 5 parameters is unknown"
    assert finding.location.path == __file__
    assert report.targets[0].gain_log2 is None


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, _ = torch.view_as_real(Twice.apply(self.fc(x).to(torch.complex64))).unbind(-1)
        return values


class Twice(Single):
    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.complex64:
            raise TypeError("single precision only")
        return 2 * x


def test_complex_numbers_are_unknown_and_not_zero():
    facts = gradlint.analyze(Spectral, ["4,16"]).parameters
    assert facts["fc.weight"].grad_rms is None


@pytest.fixture
def broken(monkeypatch):
    """The formula of ``layer_norm`` or ``linear``, whose way back raises."""

    def set_(function):
        op = TABLE[function]

        def raises(call, *args, **kwargs):
            return Flow(op.function(call, *args, **kwargs).out, lambda g: 1 / 0)

        for target in dict.fromkeys(op.targets):
            monkeypatch.setitem(TABLE, target, replace(op, function=raises))

    return set_


def test_a_gradient_formula_that_breaks_is_sampled(broken):
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))

    right = gradlint.analyze(build, ["32,64"])
    broken(F.layer_norm)
    found = gradlint.analyze(build, ["32,64"])
    assert found.coverage.sampled == {"layer_norm": 1}
    assert any("formula of its gradient failed (ZeroDivisionError" in note for note in found.flowed.notes)
    for name, facts in right.parameters.items():
        assert found.parameters[name].grad_rms == pytest.approx(facts.grad_rms, rel=0.1)


def test_what_cannot_be_sampled_either_is_unknown(broken, monkeypatch):
    broken(F.layer_norm)
    monkeypatch.setattr("gradlint.ops.sampled._Experiment.run", lambda *args: 1 / 0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    report = gradlint.lint(model, ["4,8"])
    grads = {p.name: p.grad_rms for p in report.targets[0].parameters}
    assert [name for name, grad in grads.items() if grad is None] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert grads["2.weight"] > 0.0
    assert [f.code for f in report.findings] == ["GL901"]


def test_a_piece_that_cannot_be_evaluated_does_not_end_the_analysis(monkeypatch):
    monkeypatch.setattr("gradlint.recognise.Grid._evaluate", lambda self, node: 1 / 0)
    found = gradlint.analyze(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), ["4,8"])
    assert found.coverage.opaque == {"tanh": 1, "linear": 1}
    assert found.parameters["0.weight"].grad_rms is None


class Middle(nn.Module):
    """Complex numbers inside: what depends on them is sampled together with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.fft.fft(self.first(x), norm="ortho").real)


def test_what_lies_inside_a_piece_that_is_sampled_as_a_whole_is_not_called_zero():
    found = gradlint.analyze(Middle, ["64,32"])
    grads = {node.name: node.grad_rms for node in found.nodes}
    assert grads["fft_fft"] is None
    assert found.parameters["first.weight"].grad_rms > 0.0
    assert found.coverage.opaque == {}
    assert gradlint.lint(Middle, ["64,32"]).findings == ()


def test_a_correction_that_breaks_is_left_out(monkeypatch):
    monkeypatch.setattr("gradlint.covary.Covariances.met", lambda self, node, value: 1 / 0)
    found = gradlint.analyze(nn.Linear(8, 8), ["4,8"])
    assert found.parameters["bias"].grad_rms == pytest.approx(2.0)
    assert any("terms taken as independent (ZeroDivisionError" in note for note in found.flowed.notes)


SOURCE = """
import torch
import torch.nn as nn

class Single(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.float32:
            raise TypeError("single precision only")
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g

def build():
    return Net()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return Single.apply(self.fc(x))
"""


def test_a_run_that_could_not_judge_does_not_look_like_a_pass(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(SOURCE)
    done = gradlint("model.py:build")
    assert done.code == 1
    assert "warning[GL901] unknown-ops" in done.out
    assert "--> model.py:25:16" in done.out
    assert "passed" not in done.out
    report = json.loads(gradlint("model.py:build", "--output-format", "json").out)
    jsonschema.validate(report, SCHEMA)
    assert [p["grad_rms"] for p in report["targets"][0]["parameters"]] == [None, None]
