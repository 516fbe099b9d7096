"""Laws against theory: closed forms do not depend on the draw."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradlint.trace import recording
from gradlint.trace.tags import Regions, Tag, erfinv_of_uniform, truncated_normal

init = nn.init
SHAPE = (48, 64)
TRUNCATED = 0.879625661  # std of a unit Gaussian cut at two


def filled(function, shape=SHAPE, **arguments):
    with recording() as laws:
        parameter = nn.Parameter(torch.empty(shape))
        function(parameter, **arguments)
    return laws.law(parameter), parameter


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "mean", "std"),
    [
        (init.uniform_, {"a": -1.0, "b": 3.0}, "uniform", 1.0, 4 / math.sqrt(12)),
        (init.normal_, {"mean": 1.0, "std": 0.5}, "normal", 1.0, 0.5),
        (init.trunc_normal_, {"std": 0.02, "a": -0.04, "b": 0.04}, "normal", 0.0, 0.02 * TRUNCATED),
        (init.trunc_normal_, {"mean": 1.0, "std": 1.0, "a": 1.0, "b": 9.0}, "normal", 1.79788, 0.60281),
        (init.constant_, {"val": 0.3}, "constant", 0.3, 0.0),
        (init.ones_, {}, "constant", 1.0, 0.0),
        (init.zeros_, {}, "constant", 0.0, 0.0),
        (init.xavier_uniform_, {"gain": 2.0}, "uniform", 0.0, 2 * math.sqrt(2 / (48 + 64))),
        (init.xavier_normal_, {}, "normal", 0.0, math.sqrt(2 / (48 + 64))),
        (init.kaiming_uniform_, {"a": math.sqrt(5)}, "uniform", 0.0, math.sqrt(1 / (3 * 64))),
        (init.kaiming_normal_, {"nonlinearity": "relu"}, "normal", 0.0, math.sqrt(2 / 64)),
        (init.kaiming_normal_, {"mode": "fan_out"}, "normal", 0.0, math.sqrt(2 / 48)),
        (init.orthogonal_, {"gain": 1.5}, "orthogonal", 0.0, 1.5 / 8),
    ],
)
def test_initialisers_have_their_closed_form(function, arguments, kind, mean, std):
    law, parameter = filled(function, **arguments)
    assert law.kind == kind
    assert law.mean == pytest.approx(mean, rel=1e-4)
    assert law.std == pytest.approx(std, rel=1e-4)
    assert float(parameter.detach().mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(3072) + 1e-6)
    assert float(parameter.detach().std()) == pytest.approx(std, rel=0.05, abs=1e-6)
    assert law.moments.mean == pytest.approx(law.mean)
    assert law.moments.q == pytest.approx(law.mean**2 + law.std**2)


@pytest.mark.parametrize(("function", "shape"), [(init.eye_, (6, 8)), (init.dirac_, (6, 8, 3))])
def test_identities_keep_their_values(function, shape):
    law, parameter = filled(function, shape)
    assert law.kind == "identity"
    assert law.moments.q == pytest.approx(float(parameter.detach().square().mean()))


def test_sparse_is_a_mixture():
    law, _ = filled(init.sparse_, sparsity=0.25, std=0.1)
    assert law.kind == "mixed"
    assert law.std == pytest.approx(0.1 * math.sqrt(0.75), rel=0.1)
    assert law.label == "sparse_(sparsity=0.25, std=0.1)"


def test_labels_say_what_differs_from_the_default():
    assert filled(init.kaiming_uniform_, a=math.sqrt(5))[0].label == "kaiming_uniform_(a=2.236)"
    assert filled(init.normal_, std=0.02)[0].label == "normal_(std=0.02)"
    assert filled(init.zeros_)[0].label == "zeros_"


LAYERS = [
    (lambda: nn.Linear(64, 32), {"weight": ("uniform", 1 / math.sqrt(3 * 64)), "bias": ("uniform", 1 / math.sqrt(3 * 64))}),
    (lambda: nn.Conv2d(4, 8, 3), {"weight": ("uniform", 1 / math.sqrt(3 * 36)), "bias": ("uniform", 1 / math.sqrt(3 * 36))}),
    (lambda: nn.ConvTranspose1d(4, 8, 3), {"weight": ("uniform", 1 / math.sqrt(3 * 24))}),
    (lambda: nn.Embedding(20, 8), {"weight": ("normal", 1.0)}),
    (lambda: nn.Embedding(20, 8, padding_idx=0), {"weight": ("mixed", math.sqrt(0.95))}),
    (lambda: nn.BatchNorm2d(8), {"weight": ("constant", 0.0), "bias": ("constant", 0.0)}),
    (lambda: nn.LayerNorm(8), {"weight": ("constant", 0.0)}),
    (lambda: nn.GroupNorm(2, 8), {"weight": ("constant", 0.0)}),
    (nn.PReLU, {"weight": ("constant", 0.0)}),
    (lambda: nn.LSTM(8, 16), {"weight_ih_l0": ("uniform", 0.25 / math.sqrt(3)), "bias_hh_l0": ("uniform", 0.25 / math.sqrt(3))}),
    (lambda: nn.GRUCell(8, 16), {"weight_hh": ("uniform", 0.25 / math.sqrt(3))}),
    (
        lambda: nn.MultiheadAttention(16, 2),
        {"in_proj_weight": ("uniform", math.sqrt(2 / 64)), "in_proj_bias": ("constant", 0.0)},
    ),
    (lambda: nn.Bilinear(4, 5, 6), {"weight": ("uniform", 0.5 / math.sqrt(3))}),
]


@pytest.mark.parametrize(("build", "expected"), LAYERS)
def test_layers_of_torch(build, expected):
    with recording() as laws:
        layer = build()
    for name, (kind, std) in expected.items():
        law = laws.law(getattr(layer, name))
        assert law.kind == kind
        assert law.std == pytest.approx(std, rel=1e-6)


def test_hand_written_initialisation():
    with recording() as laws:
        scaled = nn.Parameter(torch.randn(4, 5) * 0.1 / math.sqrt(4) + 1)
        shifted = nn.Parameter((torch.rand(40) * 2 - 1) * torch.tensor(0.5))
        by_data = nn.Linear(6, 7)
        by_data.weight.data.normal_(0, 0.3).mul_(2)
        by_data.bias.data = torch.full((7,), 0.25)
        copied = nn.Linear(6, 7)
        copied.weight.data.copy_(by_data.weight.data)
        gates = nn.Parameter(torch.zeros(8))
        gates.data[2:4].fill_(1.0)
        old_style = nn.Parameter(torch.Tensor(4, 4).uniform_(-1, 1))
        with torch.no_grad():
            torch.linalg.qr(torch.randn(8, 8))
            rotation = nn.Parameter(torch.linalg.qr(torch.randn(8, 8))[0] * 3)
        measured = nn.Parameter(torch.randn(30, 3).exp())
        single = nn.Parameter(torch.tensor(0.5))
    assert (laws.law(scaled).kind, laws.law(scaled).mean) == ("normal", 1.0)
    assert laws.law(scaled).std == pytest.approx(0.05)
    assert laws.law(shifted).std == pytest.approx(0.5 / math.sqrt(3))
    assert str(laws.law(by_data.weight)) == "normal(mean=0, std=0.6)"
    assert laws.law(by_data.bias).mean == 0.25
    assert laws.law(copied.weight).std == pytest.approx(0.6)
    assert laws.law(gates).kind == "mixed"
    assert laws.law(gates).mean == pytest.approx(0.25)
    assert laws.law(old_style).std == pytest.approx(1 / math.sqrt(3))
    assert (laws.law(rotation).kind, laws.law(rotation).std) == ("orthogonal", pytest.approx(3 / math.sqrt(8)))
    assert laws.law(measured).kind == "values"
    assert laws.law(measured).mean == pytest.approx(float(measured.detach().mean()))
    assert (laws.law(single).kind, laws.law(single).mean) == ("constant", 0.5)


def test_regions_of_the_same_law_are_one_law():
    with recording() as laws:
        packed = nn.Parameter(torch.empty(6, 4))
        for part in packed.data.chunk(3):
            init.normal_(part, std=0.1)
        columns = nn.Parameter(torch.zeros(6, 4))
        columns.data[:, :2].normal_()
    assert (laws.law(packed).kind, laws.law(packed).std) == ("normal", 0.1)
    assert laws.law(columns).kind == "mixed"


def test_conversion_keeps_the_law():
    with recording() as laws:
        layer = nn.Linear(4, 4).double()
        twin = copy.deepcopy(layer)
    assert laws.law(layer.weight).label == "kaiming_uniform_(a=2.236)"
    assert laws.law(layer.weight).kind == laws.law(twin.weight).kind == "uniform"


def test_the_law_is_that_of_the_last_writer_and_knows_its_line():
    with recording() as laws:
        layer = nn.Linear(4, 4)
        init.xavier_uniform_(layer.weight)  # the last writer
    law = laws.law(layer.weight)
    assert law.label == "xavier_uniform_"
    lines = Path(__file__).read_text().splitlines()
    assert law.location.path == __file__
    assert "the last writer" in lines[law.location.line - 1]
    assert law.location.column == 9


def test_laws_do_not_depend_on_the_seed():
    found = []
    for seed in (1, 2):
        with recording(seed=seed) as laws:
            model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        found.append([(laws.law(p).kind, laws.law(p).mean, laws.law(p).std) for p in model.parameters()])
    assert found[0] == found[1]
    assert all(kind in ("uniform", "constant") for kind, _, _ in found[0])


def test_transformers_initialise_as_configured():
    transformers = pytest.importorskip("transformers")
    settings = {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    with recording() as laws:
        model = transformers.GPT2Model(transformers.GPT2Config(**settings))
    assert laws.law(model.wte.weight).std == pytest.approx(0.02)
    assert laws.law(model.h[0].mlp.c_proj.weight).std == pytest.approx(0.02 / math.sqrt(8))
    assert all(laws.law(p).kind in ("normal", "constant") for p in model.parameters())


def test_truncated_normal_matches_a_sample():
    rng = np.random.default_rng(0)
    for mean, std, low, high in [(0.0, 1.0, -2.0, 2.0), (0.5, 1.0, -1.0, 0.0), (0.0, 1.0, -1.0, math.inf)]:
        draws = rng.normal(mean, std, 400_000)
        draws = draws[(draws >= low) & (draws <= high)]
        law = truncated_normal(mean, std, low, high)
        assert law.mean == pytest.approx(draws.mean(), abs=0.01)
        assert law.std == pytest.approx(draws.std(), rel=0.01)
    assert erfinv_of_uniform(-1.0, 1.0).std == pytest.approx(1 / math.sqrt(2))


def test_erfinv_recipe_of_old_libraries():
    with recording() as laws:
        parameter = nn.Parameter(torch.empty(1000))
        low, high = math.erf(-2 / math.sqrt(2)), math.erf(2 / math.sqrt(2))
        parameter.data.uniform_(low, high).erfinv_().mul_(0.02 * math.sqrt(2)).add_(0.0).clamp_(min=-0.04, max=0.04)
    assert laws.law(parameter).std == pytest.approx(0.02 * TRUNCATED, rel=1e-5)


def test_dropped_paths_have_a_law():
    with recording() as laws:
        filled_mask = torch.empty(4, 1, 1).bernoulli_(0.9).div_(0.9)
        compared = (torch.rand(4) < 0.25).float()
        floored = (0.8 + torch.rand(4, 1)).floor_()
        drawn = torch.bernoulli(torch.full((4,), 0.5))
    for tensor, mean in ((filled_mask, 1.0), (compared, 0.25), (floored, 0.8), (drawn, 0.5)):
        law = laws.drawn(tensor)
        assert (law.kind, law.mean) == ("bernoulli", pytest.approx(mean))
    assert laws.drawn(filled_mask).std == pytest.approx(math.sqrt(0.09) / 0.9)


def test_regions():
    a, b = Tag.constant(0.0), Tag.normal(0.0, 1.0)
    regions = Regions().write(0, 10, a).write(2, 4, b)
    assert regions.between(0, 10) == [(2, a), (2, b), (6, a)]
    assert regions.common(4, 10) == a
    assert regions.common(0, 10) is None
    assert regions.between(8, 12) == [(2, a), (2, None)]
    assert regions.write(0, 10, b).parts == ((0, 10, b),)
