""".pt2: the same model as the one that was exported, without unpickling anything."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlint import analyze
from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.errors import LoadError
from gradlint.load import load
from gradlint.trace import step, trace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Embedding(30, 8), nn.Parameter(torch.randn(6, 8))
        self.blocks = nn.ModuleList([Block(8) for _ in range(2)])
        self.conv, self.batch = nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).triu(1))

    def forward(self, ids):
        with torch.no_grad():
            phase = torch.cos(self.position * 0 + 1.0)
        x = self.embed(ids) + self.position * phase
        for block in self.blocks:
            x = block(x)
        q = x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        x = x + F.scaled_dot_product_attention(q, q, q, attn_mask=~self.mask).transpose(1, 2).flatten(2)
        x = x + self.batch(self.conv(x.mT)).mT
        return {"logits": self.head(x), "first": x.chunk(2, -1)[0].masked_fill(x[..., :4] > 0, 0.0)}


def net():
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(scope="module", params=["fixed", "dynamic"])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / f"{request.param}.pt2"
    ids = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(1))
    shapes = {"ids": {0: torch.export.Dim("batch", min=2, max=64)}} if request.param == "dynamic" else None
    program = torch.export.export(net(), (ids,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return str(path)


def rewritten(path, tmp_path, **changed):
    """The archive with members replaced (by the end of their name), or left out where the value is None."""
    made = tmp_path / "other.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            for suffix, change in changed.items():
                if name.endswith(suffix.replace("_json", ".json")):
                    data = change(data)
            if data is not None:
                new.writestr(name, data)
    return str(made)


def test_it_computes_what_the_exported_model_does(exported):
    [loaded] = load(exported)
    model, original = loaded.build(), net()
    assert (loaded.name, loaded.instance, type(model).__name__) == ("Net", True, "Net")
    ids = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits, first = model(ids)
        expected = original(ids)
    torch.testing.assert_close(logits, expected["logits"])
    torch.testing.assert_close(first, expected["first"])


def test_it_has_its_modules_its_ties_and_its_buffers(exported):
    model, original = load(exported)[0].build(), net()
    names = {n: type(m).__name__ for n, m in original.named_modules() if not isinstance(m, nn.ModuleList)}  # never called
    assert {n: type(m).__name__ for n, m in model.named_modules() if n in names} == names
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in original.named_parameters()}
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.mask, original.mask)


def test_the_prediction_is_that_of_the_model(exported):
    ids = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(1))
    of_file, of_model = analyze(load(exported)[0].build(), (ids,)), analyze(net(), (ids,))
    assert set(of_file.parameters) == set(of_model.parameters)
    for name, facts in of_model.parameters.items():
        assert of_file.parameters[name].grad_rms == pytest.approx(facts.grad_rms, rel=0.02, abs=1e-12), name
    assert of_file.modules["blocks.1"].rms == pytest.approx(of_model.modules["blocks.1"].rms, rel=0.02)
    assert of_file.coverage.opaque == {}


def test_inputs_and_lines_are_those_of_the_export(exported):
    traced = trace(load(exported)[0].build())
    assert [(s.name, s.shape, s.dtype) for s in traced.inputs] == [("ids", (2, 6), "int64")]
    [gelu, _] = [n for n in traced.graph.nodes if getattr(n.target, "__name__", "") == "gelu"]
    place, source = step(gelu).location, open(__file__).read().splitlines()  # noqa: PTH123, SIM115
    assert place.path == __file__
    assert "F.gelu" in source[place.line - 1]
    assert step(gelu).module == "blocks.0"


def test_nothing_in_it_is_unpickled(exported, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("unpickled")

    path = rewritten(exported, tmp_path, **{"sample_inputs/model.pt": lambda _: b"not a pickle"})
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    report = lint_targets([path], Settings())
    assert [t.name for t in report.targets] == [f"{path}:Net"]
    assert report.failures == ()


def _edited(change):
    def edit(data):
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return edit


def _unknown_op(document):
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.other_library.op.default"


@pytest.mark.parametrize(
    ("member", "change", "message", "hint"),
    [
        (
            "model_weights_config_json",
            _edited(lambda d: d["config"]["position"].update(use_pickle=True)),
            "'position' pickled",
            "2.9",
        ),
        ("models/model_json", lambda _: None, "holds no exported program", "torch.export.save"),
        ("models/model_json", _edited(lambda d: d["schema_version"].update(major=99)), "version 99.* gradlint reads 8", "2.9"),
        ("models/model_json", _edited(_unknown_op), "calls torch.ops.other_library.op.default, which cannot be run", "code that"),
        ("models/model_json", lambda _: b"{", "cannot be read", "torch.export.save"),
        ("byteorder", lambda _: b"big", "big-endian", "2.9"),
    ],
)
def test_what_cannot_be_read_says_why(exported, tmp_path, member, change, message, hint):
    path = rewritten(exported, tmp_path, **{member: change})
    with pytest.raises(LoadError, match=message) as caught:
        load(path)
    assert hint in caught.value.hint


def test_no_such_file_and_no_zip(tmp_path):
    with pytest.raises(LoadError, match="no such file"):
        load(str(tmp_path / "net.pt2"))
    (tmp_path / "net.pt2").write_bytes(b"PK but not really")
    with pytest.raises(LoadError, match="cannot be read: File is not a zip file"):
        load(str(tmp_path / "net.pt2"))
    with pytest.raises(LoadError, match="takes no arguments"):
        load(str(tmp_path / "net.pt2"), {"width": 3})
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(LoadError, match=r"before 2\.8: its weights are pickled"):
        load(str(tmp_path / "old.pt2"))
