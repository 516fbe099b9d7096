"""Parameters whose values are put off: their law is that of drawn ones, no memory is touched, and values come when asked for."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradlint.trace import recording
from gradlint.trace.deferred import Deferred
from gradlint.trace.reserve import Reserve

init = nn.init
SHAPE = (96, 128)
RANDOM = np.random.default_rng(0)


def resident():
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096 / 2**20


def made(write, budget):
    with recording(deferred=Deferred(budget, large=64)) as laws:
        parameter = write()
        parameter = parameter if isinstance(parameter, nn.Parameter) else nn.Parameter(parameter)
    return laws, parameter


def empty():
    return nn.Parameter(torch.empty(SHAPE))


def with_init(function, **arguments):
    def write():
        parameter = empty()
        function(parameter, **arguments)
        return parameter

    return write


def in_place(change):
    def write():
        parameter = empty()
        with torch.no_grad():
            change(parameter)
        return parameter

    return write


def conditional(module):
    """As in the reset methods of many models."""
    if isinstance(module, nn.Linear):
        module.weight.data.normal_(0.0, 0.02 / math.sqrt(2 * 12))
        module.bias.data.zero_()


def padded():
    embedding = nn.Embedding(96, 128, padding_idx=3)
    init.normal_(embedding.weight, std=0.05)
    with torch.no_grad():
        embedding.weight[3].zero_()
    return embedding.weight


WRITERS = {
    "uniform_": with_init(init.uniform_, a=-0.1, b=0.3),
    "normal_": with_init(init.normal_, mean=0.5, std=0.02),
    "trunc_normal_": with_init(init.trunc_normal_, std=1.0),
    "trunc_normal_, narrow": with_init(init.trunc_normal_, mean=3.0, std=1.0, a=-1.0, b=1.0),
    "xavier_uniform_": with_init(init.xavier_uniform_, gain=2.0),
    "xavier_normal_": with_init(init.xavier_normal_),
    "kaiming_uniform_": with_init(init.kaiming_uniform_, a=math.sqrt(5)),
    "kaiming_normal_": with_init(init.kaiming_normal_, mode="fan_out"),
    "orthogonal_": with_init(init.orthogonal_, gain=1.3),
    "eye_": with_init(init.eye_),
    "sparse_": with_init(init.sparse_, sparsity=0.75, std=0.1),
    "constant_": with_init(init.constant_, val=0.25),
    "zeros_": with_init(init.zeros_),
    "randn * s": lambda: torch.randn(SHAPE) * 0.03,
    "2 * rand - 1": lambda: 2 * torch.rand(SHAPE) - 1,
    "randn / sqrt(fan)": lambda: torch.randn(*SHAPE) / math.sqrt(SHAPE[1]),
    "zeros().uniform_": lambda: torch.zeros(SHAPE).uniform_(-0.5, 0.5),
    "empty().normal_().mul_": lambda: torch.empty(SHAPE).normal_().mul_(0.2),
    "data.normal_().mul_()": in_place(lambda p: p.data.normal_().mul_(0.07)),
    "copy_ of a law": in_place(lambda p: p.copy_(torch.randn(SHAPE) * 0.4)),
    "copy_ of a row": in_place(lambda p: p.copy_(torch.randn(SHAPE[1]))),
    "copy_ of numpy": in_place(lambda p: p.copy_(torch.from_numpy(RANDOM.standard_normal(SHAPE)))),
    "numpy array": lambda: torch.from_numpy(RANDOM.uniform(-1, 1, SHAPE).astype(np.float32)),
    "written by numpy": in_place(lambda p: p.numpy().__setitem__(slice(None), 0.5)),
    "linspace": lambda: torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE),
    "full": lambda: torch.full(SHAPE, 0.125),
    "new_full": lambda: torch.zeros(1).new_full(SHAPE, 2.0),
    "new_empty": lambda: torch.zeros(1).new_empty(SHAPE).fill_(3.0),
    "rows": in_place(lambda p: (p.normal_(std=0.1), p[:16].fill_(1.0))),
    "columns": in_place(lambda p: (p.normal_(std=0.1), p[:, :16].fill_(1.0))),
    "padding row": padded,
    "erfinv": in_place(lambda p: p.uniform_(-0.9, 0.9).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-1.0, 1.0)),
    "an op without closed form": lambda: torch.randn(SHAPE).tanh(),
    "svd": lambda: torch.linalg.svd(torch.randn(SHAPE), full_matrices=False)[2],
    "skip_init": lambda: init.normal_(nn.utils.skip_init(nn.Linear, 128, 96).weight, std=0.01),
    "default Linear": lambda: nn.Linear(128, 96).weight,
    "default Conv2d": lambda: nn.Conv2d(16, 32, 3).weight,
    "apply": lambda: nn.Sequential(nn.Linear(128, 96)).apply(conditional)[0].weight,
    "half precision": lambda: nn.Linear(128, 96, dtype=torch.bfloat16).weight,
    "to half": lambda: nn.Linear(128, 96).half().weight,
    "deepcopy": lambda: copy.deepcopy(nn.Linear(128, 96)).weight,
    "transposed": in_place(lambda p: p.t().normal_(std=0.3)),
    "Tensor(n, m)": lambda: torch.Tensor(*SHAPE).normal_(std=0.2),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_laws_do_not_depend_on_whether_values_were_drawn(writer) -> None:
    drawn_laws, drawn = made(WRITERS[writer], 1 << 60)
    laws, put_off = made(WRITERS[writer], 0)
    expected, law = drawn_laws.law(drawn), laws.law(put_off)
    values = drawn.detach().double()
    assert (law.kind, law.label) == (expected.kind, expected.label)
    # A row that is copied everywhere has as many independent entries as the row.
    noise = 6.0 if writer == "copy_ of a row" else 1.0
    assert law.std == pytest.approx(expected.std, rel=0.05 * noise, abs=1e-9)
    assert law.mean == pytest.approx(expected.mean, abs=0.02 * noise * law.std + 1e-9)
    assert law.std == pytest.approx(float(values.std(unbiased=False)), rel=0.05 * noise, abs=1e-6)
    assert law.mean == pytest.approx(float(values.mean()), abs=0.05 * noise * law.std + 1e-6)
    assert law.location == expected.location
    assert law.location is not None or writer == "numpy array"
    np.testing.assert_allclose(law.moments.q, expected.moments.q, rtol=0.1 * noise, atol=1e-12)
    laws.fill(put_off)
    assert put_off not in laws.deferred
    assert float(put_off.detach().double().std(unbiased=False)) == pytest.approx(law.std, rel=0.06, abs=1e-6)
    assert float(put_off.detach().double().mean()) == pytest.approx(law.mean, abs=0.06 * law.std + 1e-6)


CLOSED = {
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_normal_",
    "orthogonal_",
    "randn * s",
    "padding row",
    "rows",
    "apply",
    "to half",
}


@pytest.mark.parametrize("writer", sorted(CLOSED))
def test_closed_forms_draw_nothing(writer) -> None:
    laws, parameter = made(WRITERS[writer], 0)
    laws.law(parameter)
    assert parameter in laws.deferred
    assert not parameter.detach().float().any()


def test_regions_are_kept_with_their_lines() -> None:
    laws, parameter = made(padded, 0)
    law = laws.law(parameter)
    assert [(part.entries, part.kind, part.std) for part in law.regions] == [
        (3 * 128, "normal", 0.05), (128, "constant", 0.0), (92 * 128, "normal", 0.05),
    ]  # fmt: skip
    assert law.regions[1].location.line == law.regions[0].location.line + 2
    assert law.std == pytest.approx(0.05 * math.sqrt(95 / 96))


def test_rows_of_another_mean_keep_their_share_along_the_axis() -> None:
    real = made(WRITERS["rows"], 1 << 60)
    moments, expected = (laws.law(p).moments for laws, p in (made(WRITERS["rows"], 0), real))
    np.testing.assert_allclose(moments.v, expected.v, rtol=0.02, atol=2e-3)
    assert moments.v[1, 0] > 0.1


def test_half_of_a_bias_is_unwritten() -> None:
    def write():
        bias = empty()
        with torch.no_grad():
            bias[:24].fill_(1.0)
        return bias

    for budget in (0, 1 << 60):
        laws, parameter = made(write, budget)
        assert laws.law(parameter).unwritten == 0.75
    for writer, write in WRITERS.items():
        laws, parameter = made(write, 0)
        assert laws.law(parameter).unwritten == 0.0, writer


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(SHAPE),
        lambda: torch.empty(3),
        lambda: torch.Tensor(*SHAPE),
        lambda: torch.FloatTensor(*SHAPE),
        lambda: torch.empty_like(torch.zeros(SHAPE)),
        lambda: torch.zeros(1).new_empty(SHAPE),
        lambda: torch.empty(SHAPE).mul_(0.1),
        lambda: torch.empty(SHAPE).clone(),
        lambda: torch.empty(SHAPE).to(torch.bfloat16),
        lambda: nn.utils.skip_init(nn.Linear, 128, 96).weight,
    ],
)  # fmt: skip
def test_memory_that_nothing_wrote_to_is_uninitialised(make) -> None:
    for budget in (0, 1 << 60):
        laws, parameter = made(make, budget)
        assert laws.law(parameter).kind == "uninitialised"
        assert laws.law(parameter).unwritten == 1.0


def test_layers_that_were_copied_start_equal_and_others_do_not() -> None:
    from gradlint.trace.copies import Copies

    with recording(deferred=Deferred(0, large=64)) as laws:
        first = nn.Linear(64, 64)
        copied = copy.deepcopy(first)
        other = nn.Linear(64, 64)
        scaled = copy.deepcopy(first)
        with torch.no_grad():
            scaled.weight.mul_(0.5)
    copies = Copies(laws)
    names = [copies.first(name, layer.weight) for name, layer in zip("fcos", (first, copied, other, scaled), strict=True)]
    assert names == ["f", "f", "o", "s"]
    for layer in (first, copied, other):
        laws.fill(layer.weight)
    assert torch.equal(first.weight, copied.weight)
    assert not torch.equal(first.weight, other.weight)


def test_beyond_the_budget_memory_is_given_back() -> None:
    before = resident()
    with recording(deferred=Deferred(1 << 23)) as laws:
        layers = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(64))
    assert resident() - before < 40
    assert all(layer.weight in laws.deferred for layer in layers)
    laws.realise(layers)
    assert resident() - before > 240
    del layers
    assert resident() - before < 40


def test_within_the_budget_values_are_those_of_torch() -> None:
    torch.manual_seed(0)
    with recording(seed=0):
        inside = nn.Sequential(nn.Linear(512, 512), nn.Embedding(1000, 100), nn.Conv2d(64, 64, 5))
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    outside = nn.Sequential(nn.Linear(512, 512), nn.Embedding(1000, 100), nn.Conv2d(64, 64, 5))
    torch.random.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(inside.parameters(), outside.parameters(), strict=True))


def test_a_system_that_reserves_nothing_gets_real_values(monkeypatch) -> None:
    monkeypatch.setattr(Reserve, "_mapped", lambda _self, _size: None)
    laws, parameter = made(WRITERS["normal_"], 0)
    assert parameter not in laws.deferred
    assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05)
