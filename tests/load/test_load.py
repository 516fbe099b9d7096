"""Targets: which models are found in them, and what is said when there is none."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from torch import nn

from gradlint.errors import BuildError, LoadError
from gradlint.load import load, parse_arguments
from gradlint.trace import recording, trace

HEAD = "import torch\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(width, width)
    def forward(self, x):
        return self.inner(x)
"""


@pytest.fixture
def write(tmp_path):
    def _write(text, name="model.py", head=HEAD):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(text))
        return str(path)

    return _write


def names(target):
    return [loaded.name for loaded in load(target)]


def test_a_class(write):
    path = write(NET)
    [loaded] = load(path)
    assert (loaded.name, loaded.file, loaded.location.line) == ("Net", path, 4)
    assert isinstance(loaded.build(), nn.Module)


def test_helpers_are_not_models_of_their_own(write):
    path = write(
        NET.replace("Net", "Part")
        + """
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Part() for _ in range(2)])
class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()
"""
    )
    assert names(path) == ["Whole"]
    assert names(path + ":Part") == ["Part"]


def test_factories_win_over_the_classes_they_make(write):
    path = write(NET + "\ndef build_model():\n    return Net(8)\ndef helper():\n    return 3\n")
    [loaded] = load(path)
    assert loaded.name == "build_model"
    assert loaded.build().inner.in_features == 8


@pytest.mark.parametrize("name", ["build", "make_net", "create_model", "get_model", "get_model_small", "model"])
def test_factory_names(write, name):
    assert names(write(NET + f"\ndef {name}():\n    return Net(8)\n")) == [name]


def test_instances_win_and_are_what_build_returns(write):
    path = write(NET + "\ndef build():\n    return Net()\nloss = nn.CrossEntropyLoss()\nnet = build()\nalias = net\n")
    [loaded] = load(path)
    assert loaded.name == "net"
    assert loaded.build() is loaded.build()


def test_several_models_in_their_order(write):
    path = write(NET.replace("Net", "B") + NET.replace("Net", "A") + "\ndef make_c():\n    return nn.Linear(2, 2)\n")
    assert names(path) == ["B", "A", "make_c"]


def test_bases_without_a_forward_are_not_models_of_their_own(write):
    path = write(
        """
class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
class Contract(nn.Module):
    def forward(self, x):
        raise NotImplementedError
class One(Shared):
    def forward(self, x):
        return self.fc(x)
class Two(Contract):
    def forward(self, x):
        return x
class Alone(nn.Module):
    pass
"""
    )
    assert names(path) == ["One", "Two", "Alone"]
    assert names(path + ":Shared") == ["Shared"]


def test_what_is_imported_or_private_is_not_linted(write):
    write(NET.replace("Net", "Other"), "neighbour.py")
    path = write("from neighbour import Other\n" + NET + NET.replace("Net", "_Hidden"))
    assert names(path) == ["Net"]
    assert names(path + ":Other") == ["Other"]


def test_a_name(write):
    path = write(NET + "\nclass Zoo:\n    small = Net\n    count = 3\n")
    assert names(path + ":Net") == ["Net"]
    assert names(path + ":Zoo.small") == ["Zoo.small"]


def test_module_level_instances_have_laws(write):
    path = write("net = nn.Sequential(nn.Linear(4, 4),\n    nn.Linear(4, 2))\nnn.init.normal_(net[1].weight, std=0.1)\n")
    with recording() as laws:
        [loaded] = load(path)
        model = loaded.build()
    traced = trace(model, laws=laws)
    law = traced.parameters["1.weight"].law
    assert (law.kind, law.std, law.location.path, law.location.line) == ("normal", 0.1, path, 5)
    assert traced.modules["1"].constructed.line == 4
    assert traced.parameters["0.weight"].law.label == "kaiming_uniform_(a=2.236)"


def test_importing_leaves_no_trace_and_prints_to_stderr(write, capsys):
    path = write("import sys\nprint('hello', len(sys.argv))\n" + NET + "\ndef build():\n    print('built')\n    return Net()\n")
    before = list(sys.path), list(sys.argv)
    [loaded] = load(path)
    loaded.build()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello 1\nbuilt\n")
    assert (sys.path, sys.argv) == before


def test_neighbours_of_the_same_name_are_not_mixed_up(write):
    for width, folder in ((3, "one"), (5, "two")):
        write(NET.replace("width=4", f"width={width}"), f"{folder}/blocks.py")
        path = write("from blocks import Net\ndef build():\n    return Net()\n", f"{folder}/model.py")
        assert load(path)[0].build().inner.in_features == width


def test_neighbours_can_be_imported_when_building(write):
    write(NET, "late.py")
    path = write("def build():\n    from late import Net\n    return Net()\n")
    assert isinstance(load(path)[0].build(), nn.Module)


def test_files_of_packages_may_import_relatively(write):
    write("", "pack/__init__.py")
    write(NET, "pack/blocks.py")
    path = write("from .blocks import Net\ndef build():\n    return Net()\n", "pack/model.py")
    assert isinstance(load(path)[0].build(), nn.Module)


def test_dotted_names(write, tmp_path, monkeypatch):
    write("", "pkg_for_test/__init__.py")
    write(NET + "\ndef factory():\n    return Net(7)\n", "pkg_for_test/models.py")
    monkeypatch.chdir(tmp_path)
    assert names("pkg_for_test.models") == ["Net"]
    [loaded] = load("pkg_for_test.models:factory")
    assert loaded.build().inner.in_features == 7
    with pytest.raises(LoadError, match=r"no module named 'pkg_for_test\.nope'"):
        load("pkg_for_test.nope:x")
    with pytest.raises(LoadError, match=r"no module named 'nowhere_at_all\.x'"):
        load("nowhere_at_all.x")


def test_classes_that_name_each_other_are_both_models(write):
    path = write(
        """
class A(nn.Module):
    def other(self):
        return B
class B(nn.Module):
    def other(self):
        return A
"""
    )
    assert names(path) == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("x = (\n", "syntax error", 3),
        ("import not_there_at_all\n", "importing .* failed: No module named 'not_there_at_all'", 3),
        ("\nraise ValueError('so')\n", "importing .* raised ValueError: so", 4),
        ("import sys\nsys.exit(3)\n", "called sys.exit\\(3\\)", 4),
        ("torch.zeros(2) @ torch.zeros(3)\n", "raised RuntimeError", 3),
    ],
)
def test_import_errors_name_the_line(write, text, message, line):
    path = write(text)
    with pytest.raises(LoadError, match=message) as caught:
        load(path)
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.target == path


def test_nothing_found(write):
    with pytest.raises(LoadError, match="no model found"):
        load(write("x = 3\n"))
    path = write(NET.replace("width=4", "width, depth") + "\ndef build(size):\n    return Net(size, 1)\n")
    with pytest.raises(LoadError, match=r"without arguments: Net\(width, depth\); build\(size\)"):
        load(path)
    with pytest.raises(LoadError, match="Net needs arguments: width, depth") as caught:
        load(path + ":Net")
    assert "--arg width=... --arg depth=..." in caught.value.hint


def test_wrong_names(write):
    path = write(NET + "\ncount = 3\n")
    with pytest.raises(LoadError, match="has no 'Nett'") as caught:
        load(path + ":Nett")
    assert "'Net'" in caught.value.hint
    with pytest.raises(LoadError, match="has no 'zzz'") as caught:
        load(path + ":zzz")
    assert "defines: Net" in caught.value.hint
    with pytest.raises(LoadError, match="neither a model nor a factory, but of type int"):
        load(path + ":count")


def test_wrong_paths(write, tmp_path):
    path = write(NET)
    with pytest.raises(LoadError, match="no such file") as caught:
        load(path.replace("model.py", "modle.py"))
    assert "model.py" in caught.value.hint
    with pytest.raises(LoadError, match="is a folder"):
        load(str(tmp_path))
    with pytest.raises(LoadError, match="not a Python file"):
        load(write("x", "notes.txt"))
    with pytest.raises(LoadError, match="cannot tell what"):
        load("a b:c d")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".bin"])
def test_nothing_is_unpickled(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save({}, path)
    with pytest.raises(LoadError, match="never unpickles"):
        load(str(path))
    with pytest.raises(LoadError, match="never unpickles"):
        load(f"{path}:name")


def test_build_errors_name_the_line(write):
    path = write("def build():\n    return nn.Linear(-1, 'x')\n")
    with pytest.raises(BuildError, match=r"build\(\) raised") as caught:
        load(path)[0].build()
    assert caught.value.where == f"{path}:4"
    with pytest.raises(BuildError, match=r"returned tuple, not an nn\.Module"):
        load(write("def build():\n    return nn.Linear(1, 1), 3\n"))[0].build()
    with pytest.raises(BuildError, match="SystemExit"):
        load(write("def build():\n    raise SystemExit(1)\n"))[0].build()


def test_arguments_of_a_named_class_or_function(write):
    path = write(NET.replace("width=4", "width, depth=1") + "\ndef build(size, *, deep=False, **rest):\n    return Net(size)\n")
    assert load(path + ":Net", {"width": 6})[0].build().inner.in_features == 6
    [loaded] = load(path + ":build", {"size": 3, "anything": 1})
    assert loaded.build().inner.in_features == 3
    assert loaded.location.line == 11
    with pytest.raises(LoadError, match="Net takes no argument 'widht'") as caught:
        load(path + ":Net", {"widht": 6})
    assert caught.value.hint == "did you mean 'width'?"
    with pytest.raises(LoadError, match="Net needs arguments: width") as caught:
        load(path + ":Net", {"depth": 6})
    assert "--arg width=..." in caught.value.hint


def test_arguments_need_a_name_and_something_to_call(write):
    path = write(NET + "net = Net()\n")
    with pytest.raises(LoadError, match="--arg is for one class or function") as caught:
        load(path, {"width": 6})
    assert caught.value.hint == f"name it: {path}:Net"
    with pytest.raises(LoadError, match="is built already"):
        load(path + ":net", {"width": 6})


@pytest.mark.parametrize("texts", [["width"], ["=3"], ["a b=3"], ["a=1", "a=2"]])
def test_arguments_that_make_no_sense(texts):
    with pytest.raises(LoadError, match="--arg"):
        parse_arguments(texts)
