"""The fixtures themselves: every model builds and runs on its inputs, and expected.toml is about exactly these."""

import importlib.util
import inspect
import math
import re
import sys
import tomllib
from pathlib import Path

import pytest
from torch import nn

from gradlint.trace import parse_input
from gradlint.verification import measure

FIXTURES = Path(__file__).parent.parent / "fixtures"
ZOO = FIXTURES / "zoo"
EXPECTED = tomllib.loads((ZOO / "expected.toml").read_text(encoding="utf-8"))
RULES = sorted(path.name for path in FIXTURES.glob("gl[0-9]*"))
TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def load(path):
    name = f"fixture_{path.parent.name}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def factories(path):
    """What ``gradlint path`` would lint: functions named build_* and models that need no arguments."""
    module = load(path)
    for name, made in vars(module).items():
        if getattr(made, "__module__", None) != module.__name__:
            continue
        model = inspect.isclass(made) and issubclass(made, nn.Module)
        if not (model or (inspect.isfunction(made) and name.startswith("build_"))):
            continue
        if all(p.default is not p.empty for p in inspect.signature(made).parameters.values()):
            yield name


def factory(target):
    if target.startswith("hf_") and not TRANSFORMERS:
        pytest.skip("transformers is not installed")
    file, _, name = target.partition(":")
    return getattr(load(ZOO / file), name)


def test_expected_names_every_factory_and_nothing_else():
    files = [path for path in sorted(ZOO.glob("*.py")) if TRANSFORMERS or not path.name.startswith("hf_")]
    found = {f"{path.name}:{name}" for path in files for name in factories(path)}
    assert found == {target for target in EXPECTED if TRANSFORMERS or not target.startswith("hf_")}


@pytest.mark.parametrize("target", EXPECTED)
def test_expectation_is_complete(target):
    expected = EXPECTED[target]
    assert expected["verdict"] in {"clean", "explodes", "vanishes"}
    assert expected["why"]
    assert expected["inputs"]
    if expected["verdict"] == "clean":
        assert expected.keys() - {"miss", "also"} == {"verdict", "inputs", "why"}
        return
    assert expected.keys() - {"miss"} == {"verdict", "inputs", "why", "codes", "line"}
    assert expected["codes"]
    lines = (ZOO / target.partition(":")[0]).read_text(encoding="utf-8").splitlines()
    assert sum(expected["line"] in line for line in lines) == 1


@pytest.mark.parametrize("target", EXPECTED)
def test_model_runs_on_its_inputs(target):
    """Once, forward and backward; and a gradient that is said to explode or vanish does, a clean one does not.

    What explodes is measured relative to the weight: behind a norm a small weight has a large gradient.
    """
    expected = EXPECTED[target]
    real = measure(factory(target), [parse_input(text) for text in expected["inputs"]], seeds=1)
    assert math.isfinite(real.modules[""].rms)
    trained = {name: size for name, size in real.parameters.items() if size.grad_rms is not None}
    assert all(math.isfinite(size.grad_rms) for size in trained.values())
    weights = {name: size for name, size in trained.items() if not name.endswith("bias")}
    largest = math.log2(max(size.grad_rms * size.rms for size in weights.values()))
    assert (largest > 11.0) == (expected["verdict"] == "explodes")
    moved = [name for name, size in weights.items() if size.grad_rms > 0]  # a second head is not on the first output's path
    first, head = weights[moved[0]].grad_rms, moved[-1].rpartition(".")[0]
    last = max(size.grad_rms for name, size in trained.items() if name.rpartition(".")[0] == head)
    assert (math.log2(first / last) < -16.0) == (expected["verdict"] == "vanishes")


@pytest.mark.parametrize("rule", RULES)
def test_rule_fixtures_are_neighbours(rule):
    """bad.py and good.py define the same model; a line of bad.py, or of its configuration, has the code, none of good.py does."""
    bad, good = FIXTURES / rule / "bad.py", FIXTURES / rule / "good.py"
    assert list(factories(bad)) == list(factories(good))
    configured = sorted((FIXTURES / rule).glob("*.json"))
    lines = [line for path in (bad, *configured) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if re.search(rf"# .*\b{rule.upper()}\b", line)]
    assert rule.upper() not in good.read_text(encoding="utf-8")
