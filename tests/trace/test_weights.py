"""Values from safetensors: measured as a whole tensor would be, streamed, and never confused with laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gradlint import analyze, verify
from gradlint.cli import main
from gradlint.errors import LoadError
from gradlint.moments import Moments
from gradlint.spectra import radius, sigma_max
from gradlint.trace import recording, trace, weights
from gradlint.trace.deferred import Deferred
from gradlint.trace.weights import Weights


def build():
    return nn.Sequential(nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 48), nn.BatchNorm1d(48), nn.Linear(48, 4))


@pytest.fixture
def edited(tmp_path):
    """A model that somebody scaled and shifted by hand, and its file."""
    torch.manual_seed(3)
    model = build()
    with torch.no_grad():
        model[0].weight.mul_(7.0)
        model[2].weight[:8].mul_(20.0)
        model[4].bias.add_(1.0)
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    return model, file


@pytest.mark.parametrize("budget", [0, 1 << 60])
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_measured_laws_are_those_of_the_values(edited, budget, block, monkeypatch) -> None:
    model, file = edited
    monkeypatch.setattr(weights, "_BLOCK", block)
    with recording(deferred=Deferred(budget, large=64)) as laws:
        built = build()
    traced = trace(built, ["input:8,48"], laws=laws, weights=file)
    assert traced.rung == ("real" if budget else "hybrid")
    for name, parameter in model.named_parameters():
        law, values = traced.parameters[name].law, parameter.detach().double().numpy()
        expected = Moments.of_array(values)
        assert law.kind == "values"
        assert (law.mean, law.std) == pytest.approx((values.mean(), values.std()), rel=1e-6, abs=1e-8)
        assert (law.low, law.high) == (values.min(), values.max())
        np.testing.assert_allclose(law.moments.v, expected.v, rtol=1e-6, atol=1e-9)
        if values.ndim == 2:
            rows = np.sqrt((values**2).mean(1))
            assert law.row_spread == pytest.approx(rows.std() / rows.mean())
            assert sigma_max(law) == pytest.approx(np.linalg.norm(values, 2), rel=1e-4)
    assert radius(traced.parameters["0.weight"].law) == pytest.approx(
        np.abs(np.linalg.eigvals(model[0].weight.detach().double().numpy())).max(), rel=1e-4
    )
    assert traced.parameters["2.weight"].law.row_spread > 1.0
    traced.realise()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), built.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(5, 1, 3, 3), (4, 6, 5), (7,), (1, 9), ()])
def test_tensors_of_any_shape_are_measured(tmp_path, shape) -> None:
    values = torch.randn(shape) + 0.5
    save_file({"w": values}, tmp_path / "w.safetensors")
    law = Weights(tmp_path / "w.safetensors")._law("w")
    expected = Moments.of_array(values.double().numpy())
    np.testing.assert_allclose(law.moments.v, expected.v, rtol=1e-6, atol=1e-9)
    assert law.moments.shape == shape
    assert law.mean == pytest.approx(float(values.mean()), rel=1e-5)


def test_predictions_are_those_of_the_instance(edited) -> None:
    model, file = edited
    inputs = (torch.randn(16, 48),)
    from_file, from_instance = analyze(build, inputs, weights=file), analyze(model, inputs)
    for name, facts in from_instance.parameters.items():
        assert from_file.parameters[name].grad_rms == pytest.approx(facts.grad_rms, rel=1e-3), name
    assert verify(build, inputs, seeds=2, weights=file).median < 0.5


def test_an_instance_is_not_changed(edited) -> None:
    model, file = edited
    torch.manual_seed(4)
    mine = build()
    before = [p.clone() for p in mine.parameters()]
    found = analyze(mine, (torch.randn(4, 48),), weights=file)
    assert found.parameters["0.weight"].rms == pytest.approx(float(model[0].weight.detach().square().mean().sqrt()))
    assert all(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))


def test_an_index_or_a_folder_and_a_prefix_and_another_precision(edited, tmp_path) -> None:
    model, _ = edited
    state = {f"module.{name}": value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    names = sorted(state)
    folder = tmp_path / "sharded"
    folder.mkdir()
    for part, chosen in (("a.safetensors", names[:4]), ("b.safetensors", names[4:])):
        save_file({name: state[name] for name in chosen}, folder / part)
    index = {name: ("a.safetensors" if name in names[:4] else "b.safetensors") for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    for path in (folder, folder / "model.safetensors.index.json"):
        found = analyze(build, (torch.randn(4, 48),), weights=path)
        assert found.parameters["0.weight"].rms == pytest.approx(float(model[0].weight.detach().square().mean().sqrt()), rel=0.01)


def test_what_does_not_fit_is_said(edited, tmp_path) -> None:
    model, _ = edited
    state = model.state_dict()
    missing = {name: value for name, value in state.items() if name != "4.bias"} | {"head.scale": torch.ones(3)}
    save_file(missing, tmp_path / "some.safetensors")
    notes = trace(build, ["input:8,48"], weights=tmp_path / "some.safetensors").assumptions
    assert notes[0] == "some.safetensors has no values for 4.bias: judged by their laws"
    assert notes[1] == "some.safetensors: no parameter is called head.scale"
    for content, message in (
        ({"0.weight": torch.ones(3)}, r"0.weight has the shape \[3\]"),
        ({"x": torch.ones(3)}, "no parameter"),
    ):
        save_file(content, tmp_path / "other.safetensors")
        with pytest.raises(LoadError, match=message):
            trace(build, ["input:8,48"], weights=tmp_path / "other.safetensors")
    (tmp_path / "pickled.safetensors").write_bytes(b"PK\x03\x04 not one")
    for path, message in ((tmp_path / "pickled.safetensors", "no safetensors file"), (tmp_path / "none", "no such file")):
        with pytest.raises(LoadError, match=message):
            trace(build, ["input:8,48"], weights=path)


def test_the_flag(edited, tmp_path, capsys) -> None:
    _, file = edited
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 48), "
        "nn.BatchNorm1d(48), nn.Linear(48, 4))\n",
        "utf-8",
    )
    with pytest.raises(SystemExit):
        main(["--weights", str(file), "--input", "8,48", "--output-format", "json", str(tmp_path / "net.py")])
    found = json.loads(capsys.readouterr().out)
    assert found["targets"][0]["parameters"][0]["init"].startswith("values(")
