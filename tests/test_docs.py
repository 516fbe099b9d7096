"""The documentation shows what the tool really prints, and names what really exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

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


BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").iterdir() if not path.name.startswith(("_", ".")) and (
    path.suffix == ".py" or (path / "__main__.py").exists()))  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_starts(name):
    importlib.import_module(f"benchmarks.{name}")
