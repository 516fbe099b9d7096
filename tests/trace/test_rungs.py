"""Both rungs record the same: with all values, and without those of large weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from gradlint import verify
from gradlint.analysis import Analysis
from gradlint.errors import TargetError
from gradlint.flow import propagate
from gradlint.trace import build, recording, rungs, trace
from gradlint.trace.deferred import Deferred
from gradlint.trace.graph import op_name, step

ZOO = Path(__file__).parent.parent.parent / "fixtures" / "zoo"
EXPECTED = tomllib.loads((ZOO / "expected.toml").read_text("utf-8"))
SAMPLE = [
    "mlp.py:build_he_gelu",
    "batchnorm_mlp.py:build_shallow",
    "resnet_cifar.py:build_resnet56",
    "densenet.py:DenseNet",
    "mobilenet_v2.py:MobileNetV2",
    "vit.py:ViT",
    "unet.py:build_unet",
    "gpt.py:GPT",
    "char_rnn.py:CharRNN",
    "transformer_encoder.py:build_post_ln",
    "hf_bert.py:build_bert_mlm",
    "hf_llama.py:build_llama",
    "hf_t5.py:build_t5",
    "hf_experts.py:build_mixtral",
    "hf_vision_transformers.py:build_swin",
    "hf_state_space.py:build_mamba",
    "hf_audio.py:build_wav2vec2_ctc",
]
SMALL = 64  # entries from which on a parameter counts as large here


def factory(target):
    file, _, name = target.partition(":")
    if file.startswith("hf_"):
        pytest.importorskip("transformers")
    unique = f"rungs_{Path(file).stem}"
    if unique not in sys.modules:
        spec = importlib.util.spec_from_file_location(unique, ZOO / file)
        sys.modules[unique] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[unique])
    return getattr(sys.modules[unique], name)


def traced(function, inputs, budget):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with recording(deferred=Deferred(budget, large=SMALL)) as laws:
            model = build(function)
        return trace(model, inputs, laws=laws)


def shapes(graph):
    return [(op_name(n), n.op, step(n).shape, step(n).dtype, step(n).module, step(n).location, step(n).grad) for n in graph.nodes]


@pytest.mark.parametrize("target", SAMPLE)
def test_the_zoo_is_the_same_on_both_rungs(target) -> None:
    real, hybrid = (traced(factory(target), EXPECTED[target]["inputs"], budget) for budget in (1 << 60, 0))
    assert (real.rung, hybrid.rung) == ("real", "hybrid")
    assert shapes(real.graph) == shapes(hybrid.graph)
    for name, record in real.parameters.items():
        other = hybrid.parameters[name]
        assert (other.law.kind, other.law.location, other.drawn_with) == (record.law.kind, record.law.location, record.drawn_with)
    expected, found = (Analysis.of(propagate(t)) for t in (real, hybrid))
    # Parameters without a closed form are judged by values, and those were drawn differently.
    within = 0.1 if any(p.law.kind == "values" and p.requires_grad for p in real.parameters.values()) else 0.01
    for name, facts in expected.parameters.items():
        assert found.parameters[name].grad_rms == pytest.approx(facts.grad_rms, rel=within, abs=1e-12), name


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(128, 128)
        self.norm = nn.BatchNorm1d(128)
        self.second = nn.Linear(128, 128)
        self.register_buffer("seen", torch.zeros(128))

    def forward(self, x):
        x = self.norm(self.first(x))
        if x.abs().max() > 1e9:
            return x
        x = x / x.std().item()
        self.seen.mul_(0.9).add_(x.detach().mean(0))
        best = x.topk(4, dim=1).indices
        x = self.second(x)
        x[:, 0] = 0.0
        positive = x[x.sum(1) > -1e9]
        return positive.gather(1, best) + x.argmax(1, keepdim=True)


def test_values_that_are_not_there_are_assumed_and_said_with_their_line() -> None:
    found = traced(Branches, ["x:8,128"], 0)
    assert found.rung == "hybrid"
    lines = [Path(__file__).read_text("utf-8").splitlines()[int(note.split(":")[1]) - 1].strip() for note in found.assumptions]
    assert lines == ["if x.abs().max() > 1e9:", "x = x / x.std().item()"]
    assert all("was assumed" in note for note in found.assumptions)
    assert found.graph.output_node().args[0] is not None


def test_a_hybrid_trace_leaves_nothing_behind() -> None:
    with recording(deferred=Deferred(0, large=1024)) as laws:
        model = Branches()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    for _ in range(2):
        trace(model, ["x:8,128"], laws=laws)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
        assert model.first.weight in laws.deferred
        assert not model.first.weight.detach().any()


def test_inputs_are_guessed_without_values() -> None:
    found = traced(Branches, None, 0)
    assert found.rung == "hybrid"
    assert found.inputs[0].shape[-1] == 128


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(128, 128))

    def forward(self, x):
        return x @ (self.weight / self.weight.norm())


def test_a_number_made_of_weights_is_taken_from_real_ones_where_they_are_affordable(monkeypatch) -> None:
    assert traced(Normalised, ["x:4,128"], 0).rung == "real"
    monkeypatch.setattr(rungs, "AFFORDABLE", 0)
    found = traced(Normalised, ["x:4,128"], 0)
    assert found.rung == "hybrid"
    assert any("made of weights" in note for note in found.assumptions)


class Refusing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 128)

    def forward(self, x):
        x = self.layer(x)
        if not x.detach().numpy().any():
            raise ValueError("nothing arrived")
        return x


def test_what_cannot_be_run_without_values_gets_them(monkeypatch) -> None:
    assert traced(Refusing, ["x:4,128"], 0).rung == "real"
    monkeypatch.setattr(rungs, "AFFORDABLE", 0)
    with pytest.raises(TargetError, match="nothing arrived"):
        traced(Refusing, ["x:4,128"], 0)


class Hungry(nn.Module):
    """Its activations do not fit into memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(512, 512)

    def forward(self, x):
        x = self.layer(x)[:, None, None]
        return (x.expand(4, 1 << 20, 1 << 10, 512) * x).mean((1, 2))


def test_what_does_not_fit_is_run_without_values() -> None:
    found = trace(Hungry(), ["x:4,512"])
    assert found.rung == "hybrid"


def test_a_model_without_values_is_verified_with_real_ones() -> None:
    with recording(deferred=Deferred(0, large=SMALL)) as laws:
        model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    traced = trace(model, ["input:4,128"], laws=laws)
    assert not model[0].weight.detach().any()
    traced.realise()
    assert model[0].weight.detach().std() == pytest.approx((3 * 128) ** -0.5, rel=0.05)
    assert verify(model, inputs=(torch.randn(4, 128),), seeds=2).median < 0.3


@pytest.mark.slow
def test_the_report_of_a_large_model_is_the_same_in_every_process(tmp_path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    layers = [nn.Sequential(nn.Linear(4096, 4096), nn.LayerNorm(4096), nn.GELU()) for _ in range(4)]\n"
        "    return nn.Sequential(nn.Embedding(50000, 4096), *layers)\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "gradlint", "--isolated", "--output-format", "json", "net.py"]
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join([str(root), str(root / "rules")])
    reports = [
        subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=False,
        ).stdout
        for seed in ("0", "1")
    ]
    assert json.loads(reports[0])["targets"][0]["rung"] == "hybrid"
    assert reports[0] == reports[1]
