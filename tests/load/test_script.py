"""``--capture``: the model that a training script trains, with what it is first called with."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from torch import nn

from gradlint.config import Settings
from gradlint.engine import lint_script
from gradlint.errors import LoadError
from gradlint.load import capture
from gradlint.trace import described, step, trace

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(16))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x, *, mask=None):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(self.norm(x))
"""
TRAIN = """
import argparse
import sys
import torch
import torch.nn as nn
from net import Net

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    width = parser.parse_args().width
    print("started", sys.argv[1:], __name__)
    model = Net(width)
    model.norm.eval()
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=1.0)
    teacher = Net(width).eval()
    criterion = nn.CrossEntropyLoss()
    with torch.no_grad():
        model(torch.zeros(1, width))
    mask = torch.ones(5, 3, dtype=torch.bool)
    for step in range(2):
        x = torch.full((5, width), float(step))
        teacher(x)
        try:
            loss = criterion(model(x, mask=mask), torch.zeros(5, dtype=torch.long))
        except Exception:
            print("swallowed")
        loss.backward()
    print("ended")

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a script beside ``net.py``; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    (tmp_path / "net.py").write_text(NET)

    def write(text, name="train.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write


def test_the_first_call_that_trains_is_captured_with_its_arguments(script, capsys):
    before = list(sys.argv), list(sys.path), sys.modules["__main__"], nn.Module.__call__
    loaded = capture(script(TRAIN), ["--width", "8"])
    assert (list(sys.argv), list(sys.path), sys.modules["__main__"], nn.Module.__call__) == before
    assert (loaded.name, loaded.file, loaded.instance) == ("Net", "train.py", True)
    model, args, kwargs = loaded.build(), loaded.call.args, loaded.call.kwargs
    assert torch.equal(args[0], torch.zeros(5, 8))
    assert kwargs["mask"].shape == (5, 3)
    assert (model.training, model.norm.training) == (True, False)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "started ['--width', '8'] __main__\n")


def test_findings_are_on_the_lines_of_the_script(script, gradlint):
    done = gradlint("--capture", script(TRAIN), "--output-format", "json", "--", "--width", "64")
    assert done.code == 1
    assert "ended" not in done.err
    report = json.loads(done.out)
    assert report["targets"][0]["name"] == "train.py:Net"
    assert report["targets"][0]["inputs"] == ["x: float32[5, 64]", "mask: bool[5, 3]"]
    lines = TRAIN.splitlines()
    blamed = {lines[f["location"]["line"] - 1].strip() for f in report["findings"] if f["location"]["path"] == "train.py"}
    assert "nn.init.normal_(layer.weight, std=1.0)" in blamed
    # What the script left in eval mode stays there: normalisation by running statistics does not stop the explosion.
    assert "GL101" in {f["code"] for f in report["findings"]}


def test_a_class_by_its_name(script):
    loaded = capture(f"{script(TRAIN)}:Linear", ["--width", "8"])
    assert type(loaded.build()) is nn.Linear
    assert loaded.call.args[0].shape == (5, 8)


def test_a_module_as_python_m_takes_it(script):
    script("", "pack/__init__.py")
    script("from torch import nn\nNet = nn.Linear\n", "pack/parts.py")
    script("import torch\nfrom .parts import Net\nif __name__ == '__main__':\n    Net(3, 4)(torch.ones(2, 3))\n", "pack/train.py")
    loaded = capture("pack.train")
    assert loaded.build().in_features == 3
    assert loaded.file.endswith("train.py")


WRAPPED = """
import torch
from torch import nn

class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    def forward(self, x):
        return self.net(x)

model = {wrapped}
model(torch.ones(2, 4))
"""


@pytest.mark.parametrize("wrapped", ["Wrapper()", "nn.DataParallel(Wrapper())", "torch.compile(Wrapper())"])
def test_wrappers_are_looked_through(script, wrapped):
    from gradlint.trace import recording

    with recording():
        assert capture(script(WRAPPED.format(wrapped=wrapped))).name == "Wrapper"


NOT_TRAINED = """
import torch
from torch import nn
nn.Linear(2, 2).eval()(torch.ones(1, 2))
with torch.no_grad():
    nn.GRU(2, 2)(torch.ones(1, 1, 2))
nn.PReLU().requires_grad_(False)(torch.ones(1))
"""


@pytest.mark.parametrize(
    ("text", "message", "where", "hint"),
    [
        ("def (\n", "syntax error", 1, ""),
        ("x = 1\nraise ValueError('no data')\n", "raised ValueError: no data before it called a model", 2, ""),
        ("import sys\nsys.exit('usage')\n", r"called sys.exit\('usage'\) before it called a model", 2, "after --"),
        ("x = 1\n", "ended without calling a model to train it", None, "no model was called at all"),
        (
            NOT_TRAINED,
            "ended without calling a model to train it",
            None,
            "Linear was in eval mode, GRU was called without gradients, PReLU has no parameter that takes a gradient",
        ),
    ],
)
def test_errors_name_the_line_and_what_to_do(script, text, message, where, hint):
    with pytest.raises(LoadError, match=message) as caught:
        capture(script(text))
    assert caught.value.where == (f"train.py:{where}" if where else "")
    assert hint in caught.value.hint


def test_a_script_that_is_not_there(script):
    for target in ("tarin.py", "no.such.module", "net:Net:x"):
        with pytest.raises(LoadError, match="no such script"):
            capture(target)


def test_the_inputs_come_from_the_script(script, gradlint):
    done = gradlint("--capture", script(TRAIN), "--input", "2,8")
    assert done.code == 2
    assert "--input does not go with it" in done.err
    assert "no target given" in gradlint("--capture").err


def test_a_bare_except_does_not_keep_the_script_running(script):
    text = """
    import torch
    from torch import nn
    model = nn.Linear(2, 2)
    for _ in range(3):
        try:
            model(torch.ones(1, 2))
        except:
            pass
    raise RuntimeError("nobody hears this")
    """
    assert capture(script(text)).name == "Linear"


def test_the_working_directory_is_restored(script, tmp_path):
    script("", "elsewhere/x.py")
    text = "import os, torch\nfrom torch import nn\nos.chdir('elsewhere')\nnn.Linear(2, 2)(torch.ones(1, 2))\n"
    capture(script(text))
    assert tmp_path.samefile(".")


AUTOCAST = """
import torch
from net import Net

model = Net(8)
x = torch.zeros(5, 8)
with torch.autocast("cpu", dtype=torch.bfloat16):
    model(x)
"""


def test_the_autocast_around_the_call_is_entered_again(script):
    loaded = capture(script(AUTOCAST))
    assert loaded.call.autocast == (("cpu", torch.bfloat16),)
    assert not torch.is_autocast_enabled("cpu")
    seen = []
    loaded.build().head.register_forward_hook(lambda _m, _a, out: seen.append((out.dtype, torch.is_autocast_enabled("cpu"))))
    given = replace(described(loaded.build(), loaded.call.args, loaded.call.kwargs), autocast=loaded.call.autocast)
    traced = trace(loaded.build(), given, as_is=True)
    assert seen
    assert set(seen) == {(torch.bfloat16, True)}
    assert step(next(n for n in traced.graph.nodes if n.name == traced.output)).dtype == "bfloat16"
    assert not torch.is_autocast_enabled("cpu")
    assert lint_script(script(AUTOCAST), (), Settings()).failures == ()


def test_without_autocast_there_is_none(script):
    assert capture(script(AUTOCAST.replace("dtype=torch.bfloat16", "enabled=False"))).call.autocast == ()
