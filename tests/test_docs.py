"""The documentation shows what the tool really prints, and names what really exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from gradlint.cli import cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dev():
    """The task launcher, as a module, in the interpreter that runs the tests."""
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    module.PYTHON = Path(sys.executable)
    return module


@pytest.mark.parametrize("name", ["README.md", "rules/README.md", "docs/configuration.md", "docs/show.md", "docs/diff.md"])
def test_generated_parts_are_current(dev, name):
    text = (ROOT / name).read_text("utf-8")
    assert dev.MARKED.search(text), "there is something to generate"
    assert text == dev.rendered(name), "run ./dev docs"


def test_every_task_is_described(dev):
    assert set(re.findall(r"^    \./dev (\w+)", dev.__doc__, re.MULTILINE)) == set(dev.TASKS)


@pytest.mark.parametrize(
    "name", ["README.md", "rules/README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "CHANGELOG.md"]
)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_the_schema_for_editors_is_current(dev):
    assert (ROOT / dev.SCHEMA).read_text("utf-8") == dev.capture("config", "--output-format", "json"), "run ./dev docs"


def test_the_changelog_names_every_rule():
    from gradlint.packs import BUILT_IN, load_pack

    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert [rule.code for rule in load_pack(BUILT_IN) if rule.code not in changes] == []


PAGES = ["README.md", "rules/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)


def test_every_page_can_be_reached_from_the_readme():
    links = set(re.findall(r"\]\(((?:docs|rules)/[\w-]+\.md)", (ROOT / "README.md").read_text("utf-8")))
    assert links == set(PAGES) - {"README.md"}


@pytest.mark.parametrize("name", PAGES)
def test_every_output_that_is_shown_is_one_that_is_generated(dev, name):
    text = (ROOT / name).read_text("utf-8")
    assert "```console" not in dev.MARKED.sub("", text)
    assert not dev.MARKED.search(text) or name in dev.DOCUMENTS


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_is_shown_is_one(name):
    lines = [line for block in blocks(name, "sh") for line in block.splitlines() if line.startswith("gradlint ")]
    for line in lines:
        command, *args = shlex.split(re.split(r"\s+[#|]", line)[0])[1:]
        if command not in cli.commands:
            command, args = "check", [command, *args]
        cli.commands[command].make_context(command, args, obj=[])


@pytest.mark.parametrize("name", PAGES)
def test_python_that_is_shown_is_python(name):
    for block in blocks(name, "python"):
        ast.parse(block)


def test_the_python_of_the_readme_runs():
    (block,) = blocks("README.md", "python")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(8, 8)}) for _ in range(2))

        def forward(self, x):
            for block in self.blocks:
                x = block["fc"](x).relu()
            return x

    names = {"Net": Net, "x": torch.randn(4, 8)}
    exec(block, names)  # noqa: S102 - it is ours
    assert names["report"].ok


def test_the_example_of_a_transfer_function_runs_and_prints_what_is_shown():
    page = "docs/transfer-functions.md"
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(blocks(page, "text"))


def test_figures_are_drawings_that_need_nothing():
    for path in (ROOT / "docs").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert root.tag.endswith("svg")
        assert root.find("{*}title") is not None, "said in words for those who do not see it"
        assert "http" not in path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").iterdir() if not path.name.startswith(("_", ".")) and (
    path.suffix == ".py" or (path / "__main__.py").exists()))  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_starts(name):
    importlib.import_module(f"benchmarks.{name}")
