"""What a user is told when something cannot be done: target, stage, line, what to do. All in one run, beside good models.

``failures.txt`` is the report; ``python tests/load/test_failures.py`` writes it anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gradlint.config import Settings
from gradlint.engine import lint_targets
from gradlint.report import FORMATS, View

EXPECTED = Path(__file__).with_name("failures.txt")
HEAD = "import torch\nfrom torch import nn\n\n"
NET = """class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return self.inner(x)
"""

FILES = {
    # load
    "syntax.py": "def build(:\n    pass\n",
    "missing_package.py": "import a_package_that_is_not_here\n",
    "raises.py": HEAD + "table = torch.zeros(2) @ torch.zeros(3)\n",
    "script.py": "import sys\n\nsys.exit('usage: script.py DATA')\n",
    "empty.py": "x = 3\n",
    "needs.py": HEAD + NET.replace("width=4", "width, depth"),
    "net.py": HEAD + NET + "\ncount = 3\nready = Net()\n",
    "weights.pth": "",
    "lightning.ckpt": "",
    "notes.txt": "",
    "folder/readme.md": "",
    "bert/config.json": '{"architectures": ["OwnModel"], "auto_map": {"AutoModel": "own.OwnModel"}}',
    "broken.json": '{"model_type": "bert",\n',
    "net.pt2": "this is no archive",
    "page.ipynb": "{}",
    # build
    "build_raises.py": HEAD + "def build():\n    return nn.Linear(-1, 4)\n",
    "build_returns.py": HEAD + "def build():\n    return nn.Linear(1, 4), 'and more'\n",
    "one_of_two.py": HEAD + NET + "\n\nclass Broken(nn.Module):\n    def __init__(self):\n        self.inner = nn.Linear(4, 4)\n",
    # inputs
    "refuses.py": HEAD + NET.replace("return self", "raise ValueError('never')\n        return self"),
    "example.py": HEAD + NET.replace("self.inner =", "self.example_inputs = torch.zeros(2, 7)\n        self.inner ="),
    "asks.py": HEAD + NET.replace("(x)", "(x.graph.nodes[0].payload)").replace("forward(self, x)", "forward(self, x)"),
    # trace
    "constant.py": HEAD + NET.replace("return self.inner(x)", "return torch.ones(3)"),
    "integers.py": HEAD + NET.replace("return self.inner(x)", "return self.inner(x).argmax(-1)"),
}

TARGETS = [
    "no_such_file.py",
    "nett.py",
    "syntax.py",
    "missing_package.py",
    "raises.py",
    "script.py",
    "empty.py",
    "needs.py",
    "needs.py:Net",
    "net.py:Nett",
    "net.py:count",
    "weights.pth",
    "lightning.ckpt",
    "notes.txt",
    "folder",
    "bert",
    "broken.json",
    "net.pt2",
    "page.ipynb",
    "package_that_is_not_here.models:build",
    "what is this?",
    "build_raises.py",
    "build_returns.py",
    "one_of_two.py",
    "refuses.py",
    "example.py",
    "asks.py",
    "constant.py",
    "integers.py",
    "net.py",
]


def report(folder):
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return lint_targets(TARGETS, Settings(select=("GL1",)))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    return report(folder), FORMATS["full"], View(root=folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_text(found):
    result, full, view = found
    assert full(result, view) + "\n" == EXPECTED.read_text("utf-8")


def test_each_failure_names_its_target_and_stage_and_says_what_to_do(found):
    for failure in found[0].failures:
        assert failure["target"].partition(":")[0] in {target.partition(":")[0] for target in TARGETS}
        assert failure["stage"] in ("load", "build", "inputs", "trace", "analyse")
        assert failure["hint"], failure


def test_the_stages_are_all_there(found):
    assert {failure["stage"] for failure in found[0].failures} == {"load", "build", "inputs", "trace"}


def test_the_good_models_are_judged_all_the_same(found):
    assert [target.name for target in found[0].targets] == ["one_of_two.py:Net", "net.py:ready"]
    assert found[0].exit_code == 2


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        EXPECTED.write_text(FORMATS["full"](report(Path(place)), View(root=Path(place))) + "\n", "utf-8")
    sys.stdout.write(EXPECTED.read_text("utf-8"))
