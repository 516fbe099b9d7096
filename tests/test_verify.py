"""``gradlint.verify`` and ``--verify``: real passes beside the prediction, findings verified or contradicted, no trace left."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.comparison import Claim, Place
from gradlint.ops.registry import TABLE, Flow

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "gradlint" / "report" / "schema.json").read_text("utf-8"))


def deep(gain: float = 1.0, depth: int = 20, width: int = 64) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.normal_(layer.weight, std=gain * (2 / width) ** 0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.fixture
def doubling(monkeypatch):
    """A formula that is wrong on purpose: the gradient behind every linear layer is predicted twice (or half) as large."""

    def set_(factor: float) -> None:
        op = TABLE[F.linear]

        def wrong(call, *args, **kwargs):
            flow = op.function(call, *args, **kwargs)
            return Flow(flow.out, lambda g: {x: grad.scale(factor) for x, grad in flow.back(g).items()})

        for target in dict.fromkeys(op.targets):
            monkeypatch.setitem(TABLE, target, replace(op, function=wrong))

    return set_


def test_every_parameter_module_and_input_is_beside_its_measurement():
    found = gradlint.verify(lambda: nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 48)), ["40,64"], seeds=6)
    assert isinstance(found, gradlint.Verification)
    assert list(found.parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert set(found.modules) == {"0", "1", "2", ""}
    assert list(found.inputs) == ["input"]
    for entry in (*found.parameters.values(), *found.modules.values(), *found.inputs.values()):
        assert abs(entry.bits) < 0.25
        assert 0.0 < entry.noise < 0.2
    assert found.parameters["2.bias"].measured == pytest.approx(40**0.5, rel=0.1)
    assert 0.0 <= found.median <= found.p95 < 0.25
    assert (found.zeros, found.missing, found.contradicted) == ((), (), ())
    assert found.report.ok
    assert found.comparison.redrawn
    assert "0." in str(found)


def test_an_explosion_is_verified_for_a_factory_and_for_an_instance():
    for model, redrawn in ((lambda: deep(2.0), True), (deep(2.0), False)):
        found = gradlint.verify(model, ["8,64"])
        (finding,) = [f for f in found.report.findings if f.code == "GL101"]
        assert finding.verified == "verified"
        assert "verified by 4 real backward passes: the gradient at input input changes ×" in finding.notes[-1]
        assert found.contradicted == ()
        assert found.comparison.redrawn is redrawn


def test_a_wrong_prediction_is_contradicted(doubling):
    doubling(2.0)
    found = gradlint.verify(deep, ["8,64"])
    (finding,) = found.contradicted
    assert finding.code == "GL101"
    assert "contradicted by 4 real backward passes" in finding.notes[-1]
    assert found.p95 > 10


def test_an_explosion_that_the_prediction_overlooks_is_no_pass(doubling):
    doubling(0.5)
    report = gradlint.lint(lambda: deep(2.0), ["8,64"], verify=True, ignore=["steep-start"])  # which does not look at the gain
    assert report.findings == ()
    (failure,) = report.failures
    assert failure["stage"] == "verify"
    assert "the prediction is contradicted by 4 real backward passes" in failure["message"]
    assert not report.ok
    assert report.exit_code == 2


@pytest.mark.parametrize("code", ["gl101", "gl102", "gl201", "gl301"])
def test_what_is_found_in_the_rules_fixtures_is_real(code):
    from gradlint.config import Settings
    from gradlint.engine import lint_targets

    report = lint_targets([str(ROOT / "fixtures" / code / "bad.py")], Settings(verify=True))
    assert not report.failures
    claimed = [f.verified for f in report.findings if f.claim is not None]
    assert claimed == ["verified"] * len(claimed)
    assert code.upper() in {f.code for f in report.findings if f.claim is not None}


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.weight_norm(nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("forward")  # noqa: T201
        self.calls += 1
        noise = random.random() + np.random.rand()  # noqa: NPY002, S311
        return self.drop(self.norm(self.fc(x))) + noise


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lambda: model], ids=["instance", "cached by a factory"])
def test_everything_is_left_as_it_was(wrap, capsys):
    model = Everything()
    model.fc(torch.zeros(2, 8))  # leaves a computed weight with a history behind
    model.fc.eval()
    model.norm.running_mean.fill_(3.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    held = {name: id(p) for name, p in model.named_parameters()}
    python, numpy, torches = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            gradlint.verify(wrap(model), ["16,8"])
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torches)
    assert [model.training, model.fc.training, model.norm.training] == [True, False, True]
    assert model.calls == 0
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    for name, parameter in model.named_parameters():
        assert id(parameter) == held[name]
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert not any(module._forward_hooks for module in model.modules())
    assert capsys.readouterr().out == ""


def test_the_same_numbers_every_time():
    first, second = (gradlint.verify(deep, ["8,64"]).report.to_dict() for _ in range(2))
    assert first == second


def test_a_factory_that_seeds_itself_still_sees_different_inputs():
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(64, 64)

    assert gradlint.verify(build, ["4,64"]).parameters["weight"].noise > 0.0


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, parts: list[torch.Tensor], mask: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.fc(parts[0] + parts[1]) * mask.unsqueeze(1) * scale


def test_given_arguments_keep_their_structure_and_their_masks():
    mask = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])
    parts = [torch.zeros(8, 32), torch.zeros(8, 32)]
    found = gradlint.verify(Masked, {"parts": parts, "mask": mask, "scale": 2.0})
    assert list(found.inputs) == ["parts.0", "parts.1"]
    assert found.parameters["fc.bias"].measured == pytest.approx(2.0, rel=0.3)
    assert found.p95 < 0.4


class ReadsNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * float(x.numpy().shape[0])


def test_a_model_that_reads_its_input_with_numpy_is_run_without_gradients_of_it():
    found = gradlint.verify(ReadsNumbers, ["4,8"])
    assert found.inputs == {}
    assert len(found.parameters) == 2


class RunsOnce(nn.Module):
    built = 0

    def __init__(self) -> None:
        super().__init__()
        RunsOnce.built += 1
        if RunsOnce.built > 1:
            raise ValueError("the data set is gone")
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Distrustful(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype == torch.float64 or x.abs().max() > 0:
            raise ValueError("real numbers are not welcome")
        return super().forward(x)


def test_a_model_that_does_not_run_for_real_is_a_named_failure(monkeypatch):
    with pytest.raises(gradlint.VerificationError, match=r"cannot be run for real: .* the data set is gone"):
        gradlint.verify(RunsOnce, ["4,8"])
    with pytest.raises(gradlint.VerificationError, match="real numbers are not welcome"):
        gradlint.verify(Distrustful(8, 8), (torch.zeros(4, 8),))
    monkeypatch.setattr("gradlint.verification.memory._free", lambda: 1000)
    with pytest.raises(gradlint.VerificationError, match=r"needs at least \S+ GiB"):
        gradlint.verify(deep, ["8,64"])
    monkeypatch.setattr("gradlint.verification.memory._free", lambda: 4 * (2 * 20 * 64 * 65 + 40 * 8 * 64))
    assert gradlint.verify(deep, ["8,64"]).comparison.dtype == "float32"
    with pytest.raises(gradlint.UsageError, match="seeds"):
        gradlint.verify(deep, ["8,64"], seeds=0)


def test_zero_is_what_is_below_the_rounding_noise_of_the_usual_size():
    from gradlint.verification import Measured, Size, judge
    from tests.report.test_formats import finding

    grads = {"a.bias": 1e-13, "b.bias": 1e-9, "c.bias": 0.0}
    real = Measured({name: Size(1.0, grad) for name, grad in grads.items()}, {}, (), 4, "float64")

    def verdict(*names, usual=1.0):
        claim = Claim(tuple(Place("parameter", name) for name in names), -math.inf, usual=usual)
        return judge(finding(claim=claim), None, real).verified

    assert verdict("a.bias", "c.bias") == "verified"
    assert verdict("c.bias", usual=0.0) == "verified"
    assert verdict("a.bias", usual=0.0) == "contradicted"
    assert verdict("a.bias", "b.bias") == "contradicted"
    assert verdict("b.bias", usual=1e4) == "verified"
    assert verdict("gone") is None
    assert judge(finding(), None, real).verified is None


# --- the command line -------------------------------------------------------------------------------------------------

BAD = """
import torch.nn as nn

def build():
    layers = []
    for _ in range(20):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)

model = build()
"""


@pytest.fixture
def bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(BAD)
    return "bad.py"


def test_the_table_and_the_verdict_are_printed(gradlint, bad):
    done = gradlint(f"{bad}:build", "--verify", "--select", "GL101")
    assert done.code == 1
    assert "= note: verified by 4 real backward passes: the gradient at input input changes ×" in done.out
    assert "bad.py:build beside 4 real backward passes in float64: 81 gradients off by 0." in done.out
    assert "gradient of" in done.out
    assert "more tensors with smaller errors: -v" in done.out
    every = gradlint(f"{bad}:build", "--verify", "--select", "GL101", "-v").out
    assert "parameter 38.bias" in every
    assert "more tensors" not in every
    assert "(verified)" in gradlint(f"{bad}:build", "--verify", "--output-format", "concise").out
    assert "verif" not in gradlint(f"{bad}:build").out


def test_a_contradiction_is_loud(gradlint, bad, doubling):
    doubling(4.0)
    done = gradlint(f"{bad}:build", "--verify", "--select", "GL101")
    assert done.out.startswith("CONTRADICTED error[GL101]")
    assert "(1 CONTRADICTED by real backward passes)" in done.out
    doubling(1 / 64)
    done = gradlint(f"{bad}:build", "--verify", "--select", "GL101")
    assert done.code == 2
    assert "failed[verify] bad.py:build: the prediction is contradicted" in done.out
    assert "passed" not in done.out


def test_the_json_report_carries_the_comparison(gradlint, bad):
    done = gradlint(bad, "--verify", "--output-format", "json")
    report = json.loads(done.out)
    jsonschema.validate(report, SCHEMA)
    assert {f["verified"] for f in report["findings"] if f["code"] in ("GL101", "GL201")} == {"verified"}
    by_name = {target["name"]: target["verification"] for target in report["targets"]}
    assert by_name["bad.py:model"]["redrawn"] is False
    (entry,) = [e for e in by_name["bad.py:model"]["entries"] if e["name"] == "0.weight"]
    assert entry["bits"] == pytest.approx(math.log2(entry["predicted"] / entry["measured"]), abs=1e-3)
    plain = json.loads(gradlint(bad, "--output-format", "json").out)
    assert plain["targets"][0]["verification"] is None
    assert plain["findings"][0]["verified"] is None


def test_a_model_that_cannot_be_run_for_real_exits_2_and_keeps_its_findings(gradlint, bad, monkeypatch):
    monkeypatch.setattr("gradlint.verification.memory._free", lambda: 1000)
    done = gradlint(f"{bad}:build", "--verify", "--exit-zero")
    assert done.code == 2
    assert "failed[verify] bad.py:build: a real run needs at least" in done.out
    assert "error[GL101]" in done.out
    assert "1 target could not be verified" in done.out


def test_it_can_be_configured(gradlint, bad, tmp_path):
    (tmp_path / "gradlint.toml").write_text("verify = true\n")
    assert "real backward passes" in gradlint(f"{bad}:build").out
    (tmp_path / "gradlint.toml").write_text('verify = "yes"\n')
    assert "expected true or false" in gradlint(f"{bad}:build").err
