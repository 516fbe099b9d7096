"""Notebooks: what their models need is run, lines are named by cell."""

from __future__ import annotations

import nbformat
import pytest

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.errors import BuildError, LoadError
from gradlint.load import load
from gradlint.report import FORMATS, View
from gradlint.trace import recording, trace

IMPORTS = (
    "%matplotlib inline\nimport torch\nfrom torch import nn\nimport a_plotting_library_that_is_not_here as plt\n!pip install x"
)
NET = """width = 6
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(width, depth)
    def forward(self, x):
        return self.fc(x)"""
TRAIN = "for x in loader:\n    m = self = x\n    raise SystemError('the training loop was run')"


@pytest.fixture
def write(tmp_path):
    def notebook(*sources, name="net.ipynb"):
        cells = [nbformat.v4.new_markdown_cell("# A title"), *map(nbformat.v4.new_code_cell, sources)]
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return str(path)

    return notebook


def names(target):
    return [loaded.name for loaded in load(target)]


def test_only_what_the_models_need_is_run(write):
    path = write(IMPORTS, "depth = 3", "data = open('/not/there')", NET, "loader = data.read()", TRAIN)
    [loaded] = load(path)
    assert (loaded.name, loaded.location.path, loaded.location.line) == ("Net", f"{path}:cell 4", 2)
    model = loaded.build()
    assert (model.fc.in_features, model.fc.out_features) == (6, 3)


def test_instances_and_what_changes_them(write):
    cells = [
        IMPORTS,
        "depth = 3\nlayers = []\nlayers.append(nn.Linear(2, 2))\nfor _ in range(2):\n    layers.append(nn.Tanh())",
        NET,
        "device = torch.device('cpu')\nmodel = Net().to(device)\nstack = nn.Sequential(*layers)",
        "def start(m):\n    if isinstance(m, nn.Linear):\n        nn.init.constant_(m.weight, 0.25)\nmodel.apply(start)",
        "optimizer = torch.optim.SGD(model.parameters(), lr=open('/not/there'))",
    ]
    path = write(*cells, TRAIN, "model.eval()")
    model, stack = (loaded.build() for loaded in load(path))
    assert names(path) == ["model", "stack"]
    assert model.training
    assert model.fc.weight.unique().tolist() == [0.25]
    assert [type(m).__name__ for m in stack] == ["Linear", "Tanh", "Tanh"]


def test_lines_are_named_by_cell(write):
    path = write(IMPORTS, "depth = 3", NET)
    with recording(path) as laws:
        model = load(path)[0].build()
    traced = trace(model, laws=laws)
    place = traced.modules["fc"].constructed
    assert (place.path, place.line) == (f"{path}:cell 3", 5)
    assert (traced.modules["fc"].called.path, traced.modules["fc"].called.line) == (f"{path}:cell 3", 7)


def test_reports_show_the_line_of_the_cell(write, tmp_path):
    path = write(IMPORTS, "depth = 3", NET.replace("width, depth", "width, 1 / 0"))
    report = lint_targets([path], Settings())
    assert FORMATS["full"](report, View(root=tmp_path)).splitlines()[:5] == [
        "failed[build] net.ipynb:Net: Net() raised ZeroDivisionError: division by zero",
        " --> net.ipynb:cell 3:5",
        "  |",
        "5 | self.fc = nn.Linear(width, 1 / 0)",
        "  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
    ]


def test_names_factories_and_arguments(write):
    path = write(IMPORTS, "depth = 3", NET, "def build(scale):\n    net = Net()\n    net.scale = scale\n    return net")
    assert names(path) == ["Net"]
    assert load(path + ":build", {"scale": 2})[0].build().scale == 2
    with pytest.raises(LoadError, match="has no 'Nett'") as caught:
        load(path + ":Nett")
    assert caught.value.hint.startswith(("did you mean", f"{path} defines: "))


def test_magic_of_ipython_is_left_out(write):
    path = write(IMPORTS, "%%bash\nrm -rf /not/there", "%%time\ndepth = 3\nfiles = !ls\nNet?", NET + "\n    # 100 % python\n")
    assert load(path)[0].build().fc.out_features == 3


@pytest.mark.parametrize(
    ("cells", "message", "where"),
    [
        ((IMPORTS, "class Net(nn.Module:\n    pass"), "syntax error", "cell 2:1"),
        ((IMPORTS, NET.replace("depth", "3"), "model = Net(\n    5)"), "raised TypeError", "cell 3:1"),
        ((IMPORTS, "print('no model')"), "no model found", ""),
    ],
)
def test_errors_name_the_cell(write, cells, message, where):
    path = write(*cells)
    with pytest.raises(LoadError, match=message) as caught:
        load(path)
    assert caught.value.where == (f"{path}:{where}" if where else "")


def test_what_a_model_needs_and_nobody_defines(write):
    path = write(IMPORTS, NET)
    with pytest.raises(BuildError, match="NameError: name 'depth' is not defined") as caught:
        load(path)[0].build()
    assert caught.value.where == f"{path}:cell 2:5"


def test_what_is_no_notebook(tmp_path):
    with pytest.raises(LoadError, match="no such file"):
        load(str(tmp_path / "net.ipynb"))
    (tmp_path / "net.ipynb").write_text("{")
    with pytest.raises(LoadError, match="is no notebook"):
        load(str(tmp_path / "net.ipynb"))
