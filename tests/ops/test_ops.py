"""Every transfer function against autograd: forward mean square and mean, gradient mean square of every input."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import cases
import cases_index
import cases_loss
import cases_pool
import cases_reduce
import pytest
import torch
from cases import Case
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from gradlint.moments import Moments, embed
from gradlint.ops import TABLE, Call, Flow, lookup
from gradlint.ops.sampled import sampled

DRAWS = 60
CASES = [*cases.CASES, *cases_index.CASES, *cases_loss.CASES, *cases_pool.CASES, *cases_reduce.CASES]
RECURRENT = {nn.RNN, nn.LSTM, nn.GRU, PackedSequence}
"""Tried in test_recurrent.py."""


def _callable(target: Any) -> Any:
    if isinstance(target, str):
        return lambda x, *args, **kwargs: getattr(x, target)(*args, **kwargs)
    return target


def _distinct(tree: Any) -> Any:
    """Every argument under its own identity."""
    if isinstance(tree, Moments):
        return replace(tree)
    return type(tree)(_distinct(x) for x in tree) if isinstance(tree, (list, tuple)) else tree


def _name(case: Case) -> str:
    return case.target if isinstance(case.target, str) else case.target.__name__


def _analytic(case: Case, args: Any, out: Any) -> Flow:
    op = lookup(case.target)
    assert op is not None, f"no transfer function for {case.target}"
    shape = out.shape if isinstance(out, Moments) else None
    return op.function(Call(shape), *args, **case.kwargs)


def _bits(predicted: float, measured: float) -> float:
    return math.log2(predicted / measured)


def _tensors(args: Any) -> list[Moments]:
    flat = [x for a in args for x in (a if isinstance(a, (list, tuple)) else [a])]
    return [x for x in flat if isinstance(x, Moments) and x.value is None]


def _seed(out: Any, *, every: bool) -> Any:
    """A white cotangent: on the output, or on every (else the first) member of a tuple."""
    if isinstance(out, Moments):
        return Moments.iid(out.shape)
    return tuple(Moments.iid(m.shape) if m is not None and (every or i == 0) else None for i, m in enumerate(out))


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{_name(c)}" for i, c in enumerate(CASES)])
def test_formula_agrees_with_autograd(case: Case) -> None:
    args = _distinct(case.args)
    truth = sampled(_callable(case.reference or case.target), args, case.kwargs, draws=DRAWS)
    formula = _analytic(case, args, truth.out)
    pairs = [
        (p, t)
        for p, t in zip(*([x] if isinstance(x, Moments) else x for x in (formula.out, truth.out)), strict=True)
        if t is not None and p is not None
    ]
    for predicted, measured in pairs:
        assert predicted.shape == measured.shape
        assert abs(_bits(predicted.rms, measured.rms)) <= case.tolerance, ("forward", predicted.rms, measured.rms)
        assert abs(predicted.mean - measured.mean) <= 0.1 * measured.rms
    seed = case.cotangent or _seed(truth.out, every=_name(case) in ("chunk", "split", "unbind"))
    predicted_grads, measured_grads = formula.back(seed), truth.back(seed)
    scale = max(g.rms for g in measured_grads.values())
    for x in _tensors(args):
        if x not in measured_grads or measured_grads[x].rms < 1e-9 * scale:
            continue
        assert x in predicted_grads, f"no gradient for the input of shape {x.shape}"
        assert predicted_grads[x].shape == x.shape
        bits = _bits(predicted_grads[x].rms, measured_grads[x].rms)
        assert abs(bits) <= case.tolerance + 0.03, ("backward", x.shape, predicted_grads[x].rms, measured_grads[x].rms)
        if case.cotangent is not None:  # what entries have in common is part of the case
            tables = predicted_grads[x].pairs(), measured_grads[x].pairs()
            assert abs(tables[0] - tables[1]).max() <= 0.05 * measured_grads[x].q, tables


def test_every_transfer_function_has_a_case() -> None:
    tried = {lookup(case.target).function for case in CASES}  # type: ignore[union-attr]
    missing = {op.name for target, op in TABLE.items() if op.function not in tried and target not in RECURRENT}
    assert not missing, f"transfer functions without a case in tests/ops/cases.py: {sorted(missing)}"


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("readout", ["last", "all"])
def test_recurrent_modules_agree_with_autograd(kind: Any, readout: str) -> None:
    torch.manual_seed(0)
    measured: dict[str, float] = {}
    for _ in range(6):
        module = kind(32, 64, batch_first=True).double()
        x = torch.randn(16, 12, 32, dtype=torch.float64, requires_grad=True)
        out = module(x)[0]
        out = out[:, -1] if readout == "last" else out
        (out * torch.randn_like(out)).sum().backward()
        for name, tensor in [("x", x), *module.named_parameters()]:
            measured[name] = measured.get(name, 0.0) + float(tensor.grad.square().mean()) / 6
    laws = {n: Moments.iid(p.shape, 0.0, 1 / (3 * 64)) for n, p in module.named_parameters()}
    source = Moments.iid((16, 12, 32))
    flow = lookup(kind).function(Call(None, vars(module), laws), source)  # type: ignore[union-attr]
    g = Moments.iid((16, 12, 64))
    if readout == "last":
        g = embed(Moments.iid((16, 1, 64)), 1, 11, 12)
    grads = flow.back((g, None))
    for name, x in [("x", source), *laws.items()]:
        limit = 0.1 if kind is nn.RNN else 0.25
        assert abs(_bits(grads[x].rms, math.sqrt(measured[name]))) < limit, (name, grads[x].rms, math.sqrt(measured[name]))


def test_signatures_start_with_the_call() -> None:
    for op in TABLE.values():
        first = next(iter(inspect.signature(op.function).parameters))
        assert first in ("call", "_"), op.name
