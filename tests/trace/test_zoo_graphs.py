"""The recorded graph of every model of ``fixtures/zoo``, run node by node, gives what the model gives.

The weights and floating-point inputs are other ones than in the recording, so nothing that depends on them may have been
kept as a constant.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from gradlint.trace import build, recording, trace
from gradlint.trace.private import DispatchMode
from gradlint.trace.state import preserved, seeded
from gradlint.trace.tree import map_tensors, tensors_in

ZOO = Path(__file__).parent.parent.parent / "fixtures" / "zoo"
EXPECTED = tomllib.loads((ZOO / "expected.toml").read_text("utf-8"))
# How many tokens its router sends to an expert depends on the weights: it is run again on the same ones.
VALUE_DEPENDENT = frozenset({"hf_experts.py:build_switch"})


class Steady(DispatchMode):
    """Random operators give the same numbers whatever was drawn before: a graph has no dead calls that draw."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            torch.default_generator.manual_seed(5)
        return func(*args, **(kwargs or {}))


def factory(target):
    file, _, name = target.partition(":")
    if file.startswith("hf_"):
        pytest.importorskip("transformers")
    unique = f"zoo_graphs_{Path(file).stem}"
    if unique not in sys.modules:
        spec = importlib.util.spec_from_file_location(unique, ZOO / file)
        sys.modules[unique] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[unique])
    return getattr(sys.modules[unique], name)


def perturb(model, inputs):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.mul_(1.1).add_(0.003 * torch.randn(parameter.shape, generator=generator))
        for tensor in inputs:
            if tensor.is_floating_point():
                tensor.mul_(0.9).add_(0.01)


def gradients(outputs, model):
    """Of the outputs that carry one, weighted so that no two entries count the same."""
    generator = torch.Generator().manual_seed(2)
    kept = [t for t in outputs if t.is_floating_point() and t.requires_grad]
    total = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in kept)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(total, parameters, allow_unused=True) if kept else []


@contextlib.contextmanager
def outputs_of_modules(model):
    """Path of each module to the first tensor it returned at its last call."""
    found = {}

    def keep(path):
        def hook(_module, _args, result):
            first = next((t for t in tensors_in(result) if t.is_floating_point()), None)
            found[path] = None if first is None else first.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules()]
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("target", EXPECTED)
def test_the_graph_computes_what_the_model_computes(target, replay):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with recording() as laws:
            model = build(factory(target))
        with Steady():
            traced = trace(model, EXPECTED[target]["inputs"], laws=laws)
        traced.realise()
        model = traced.model.train()
        given = traced.arguments
        inputs = list(given.tensors_of(given.args, given.kwargs))
        if target not in VALUE_DEPENDENT:
            perturb(model, inputs)
        args, kwargs = map_tensors((given.args, dict(given.kwargs)), torch.clone)
        with Steady(), seeded(), preserved(model), outputs_of_modules(model) as modules:
            expected = list(tensors_in(model(*args, **kwargs)))
            wanted = gradients(expected, model)
        with Steady(), seeded(), preserved(model):
            values = {}
            got = list(tensors_in(replay(traced, [t.clone() for t in inputs], values)))
            had = gradients(got, model)
    assert len(got) == len(expected)
    for want, have in zip(expected, got, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    for path, record in traced.modules.items():
        if record.output is not None:
            torch.testing.assert_close(values[record.output], modules[path], rtol=1e-4, atol=1e-5, msg=path)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for name, want, have in zip(names, wanted, had, strict=True):
        assert (want is None) == (have is None), name
        if want is not None:
            torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-5 * (1 + want.abs().max().item()), msg=name)
