"""Measuring is the yardstick of everything else: checked against hand-computed numbers."""

import json
import math
import random
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from gradlint.errors import BuildError, InputError, TraceError
from gradlint.trace.graph import InputSpec
from gradlint.verification import Entry, Errors, Measured, Size, compare, measure


def spec(*shape, name="", dtype="float32", high=None):
    return InputSpec(name, shape, dtype, high)


def test_linear_model_matches_the_hand_computation():
    def build():
        model = nn.Sequential(nn.Linear(64, 96, bias=True), nn.Linear(96, 48, bias=False))
        nn.init.normal_(model[0].weight, std=0.25)
        nn.init.zeros_(model[0].bias)
        nn.init.normal_(model[1].weight, std=0.5)
        return model

    real = measure(build, [spec(40, 64)], seeds=12)
    hidden = 64**0.5 * 0.25  # rms of the first output
    back = 48**0.5 * 0.5  # rms of its gradient
    expected = {
        "parameters": {
            "0.weight": (0.25, 40**0.5 * back),
            "0.bias": (0.0, 40**0.5 * back),
            "1.weight": (0.5, 40**0.5 * hidden),
        },
        "modules": {"0": (hidden, back), "1": (96**0.5 * 0.5 * hidden, 1.0), "": (96**0.5 * 0.5 * hidden, 1.0)},
    }
    assert list(real.parameters) == list(expected["parameters"])
    assert list(real.modules) == list(expected["modules"])
    assert real.dtype == "float64"
    for part, numbers in expected.items():
        for name, (rms, grad) in numbers.items():
            size = getattr(real, part)[name]
            assert size.rms == pytest.approx(rms, rel=0.06), name
            assert size.grad_rms == pytest.approx(grad, rel=0.06), name


def test_squares_are_averaged_over_seeds():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([float(next(scales))]))

        def forward(self, x):
            return self.scale * x

    scales = iter([3.0, 4.0])
    real = measure(Scaled, [spec(1000)], seeds=2)
    assert real.parameters["scale"].rms == pytest.approx(12.5**0.5)


def test_gradient_is_of_the_value_before_an_in_place_op():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(256, 256, bias=False)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.fc(x))

    real = measure(InPlace, [spec(64, 256)])
    ratio = real.modules["act"].rms / real.modules["fc"].rms
    assert ratio == pytest.approx(0.5**0.5, rel=0.03)  # half the energy is gone after the rectifier
    assert real.modules["fc"].grad_rms == pytest.approx(0.5**0.5, rel=0.03)
    assert real.modules["act"].grad_rms == pytest.approx(1.0, rel=0.03)


def test_gradient_of_a_view_that_is_written_into():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(256, 256)
            self.token = nn.Parameter(torch.randn(256))

        def forward(self, x):
            x = self.fc(x)  # of three axes: a view
            x[torch.arange(8) % 4 == 0] = self.token
            return x

    real = measure(Masked, [spec(8, 32, 256)])
    assert real.modules["fc"].grad_rms == pytest.approx(0.75**0.5, rel=0.03)


def test_a_cotangent_of_one_entry_adds_no_noise():
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x.detach().sum().sign()

    scale = measure(Scalar, [spec(4)]).parameters["scale"]
    assert (scale.grad_rms, scale.noise) == pytest.approx((1.0, 0.0))


def test_last_call_of_a_reused_module_counts():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(128, 128, bias=False)
            nn.init.orthogonal_(self.fc.weight, gain=2.0)

        def forward(self, x):
            return self.fc(self.fc(x))

    size = measure(Reused, [spec(32, 128)]).modules["fc"]
    assert size.rms == pytest.approx(4.0, rel=0.03)
    assert size.grad_rms == pytest.approx(1.0, rel=0.03)


def test_tied_parameters_have_one_name_and_frozen_ones_no_gradient():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight
            self.c = nn.Linear(8, 8, bias=False).requires_grad_(False)

        def forward(self, x):
            return self.b(self.a(self.c(x)))

    real = measure(Tied, [spec(4, 8)])
    assert list(real.parameters) == ["a.weight", "c.weight"]
    assert real.parameters["c.weight"].grad_rms is None
    assert real.modules["c"].grad_rms is None


@dataclass
class Output:
    loss: torch.Tensor | None
    found: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda ids, y: (ids, [y]),
        lambda ids, y: {"ids": ids, "more": (None, y)},
        lambda ids, y: Output(None, {"ids": ids, "y": y}),
    ],
)
def test_first_floating_output_is_found_in_order(wrap):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return wrap(torch.zeros(3, dtype=torch.int64), self.fc(x))

    assert measure(Nested, [spec(500, 8)]).modules["fc"].grad_rms == pytest.approx(1.0, rel=0.05)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.wpe = nn.Embedding(5, 4)
        self.wte = nn.Embedding(37, 4)

    def forward(self, tokens, scale=None, shift=None):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        return x if shift is None else x + shift


def test_integers_without_a_bound_get_the_size_of_their_table():
    real = measure(Tokens, [spec(2, 5, dtype="int64")])
    assert real.inputs[0].high == 37


def test_inputs_out_of_order_go_by_keyword():
    real = measure(Tokens, [spec(2, 5, name="tokens", dtype="int64", high=3), spec(4, name="shift")])
    assert real.inputs[0].high == 3
    assert real.modules[""].rms > 1.5  # shift arrived as shift


def test_float32_is_used_where_float64_does_not_run():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(x) @ torch.ones(8, 8)

    real = measure(Single, [spec(4, 8)])
    assert (real.dtype, real.floor) == ("float32", 1e-6)


def test_everything_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout()).eval()
    model[0].weight.grad = torch.ones(8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torches, pythons = torch.get_rng_state(), random.getstate()
    with torch.no_grad():
        measure(model, [spec(16, 8)])
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), torches)
    assert random.getstate() == pythons
    assert not model.training
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight.grad, torch.ones(8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_hooks


def test_a_measurement_repeats_and_survives_json():
    def build():
        return nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2))

    real = measure(build, [spec(4, 8)])
    assert real == measure(build, [spec(4, 8)])
    assert Measured.from_dict(json.loads(json.dumps(real.to_dict()))) == real


def test_failures_say_whose_they_are():
    def broken():
        raise RuntimeError("no such file")

    with pytest.raises(BuildError, match="no such file"):
        measure(broken, [spec(1)])
    with pytest.raises(BuildError, match="str"):
        measure(lambda: "model", [spec(1)])
    with pytest.raises(InputError, match="shapes cannot be multiplied"):
        measure(lambda: nn.Linear(3, 3), [spec(2, 4)])
    with pytest.raises(TraceError, match="no floating-point output"):
        measure(lambda: nn.Linear(3, 3).requires_grad_(False), [spec(2, 3)])


# --- compare ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    rms: float | None
    grad_rms: float | None


@dataclass(frozen=True)
class Prediction:
    parameters: dict
    modules: dict
    inputs: dict = field(default_factory=dict)


def against(parameters, modules=None, dtype="float64"):
    return Measured(parameters, modules or {}, (), 4, dtype)


def test_errors_are_bits():
    real = against({"a.weight": Size(1.0, 8.0), "b.weight": Size(1.0, 2.0)}, {"a": Size(4.0, 1.0), "": Size(1.0, 1.0)})
    told = Prediction({"a.weight": Facts(1.0, 4.0), "b.weight": Facts(2.0, 2.0)}, {"a": Facts(2.0, 1.0), "": Facts(1.0, 4.0)})
    found = compare(told, real)
    assert [e.bits for e in found.gradient.entries] == [-1.0, 0.0, 0.0, 2.0]
    assert found.gradient.median == 0.5
    assert found.gradient.p95 == pytest.approx(1.85)
    assert found.gradient.span == 3.0
    assert [e.name for e in found.gradient.worst(2)] == ["", "a.weight"]
    assert [e.bits for e in found.forward.entries] == [-1.0, 0.0]
    assert [e.bits for e in found.initial.entries] == [0.0, 1.0]
    assert not found.missing
    assert not found.zeros


def test_missing_predictions_are_listed_and_impossible_ones_infinite():
    real = against(
        {"a": Size(1.0, 1.0), "b": Size(1.0, 1.0), "frozen": Size(1.0, None)},
        {"m": Size(1.0, 1.0), "table": Size(1.0, None)},
    )
    told = Prediction(
        {"b": Facts(1.0, 0.0), "frozen": Facts(1.0, 0.0)},
        {"m": Facts(1.0, None)},
    )
    found = compare(told, real)
    assert found.missing == ("parameter a", "module m (gradient)")
    assert [e.bits for e in found.gradient.entries] == [math.inf]
    assert Entry("x", "module", math.nan, 1.0).bits == math.inf
    assert found.gradient.median == math.inf


def test_a_gradient_that_is_zero_by_symmetry_must_be_predicted_so():
    real = against(
        {
            "fc.weight": Size(1.0, 1.0),
            "fc.bias": Size(1.0, 1e-16),
            "key.weight": Size(1.0, 1.0),
            "key.bias": Size(1.0, 3e-17),
        }
    )
    good = {"fc.weight": Facts(1.0, 1.0), "fc.bias": Facts(1.0, 0.0), "key.weight": Facts(1.0, 1.0)}
    found = compare(Prediction({**good, "key.bias": Facts(1.0, 0.5)}, {}), real)
    assert [(z.name, z.share) for z in found.zeros] == [("key.bias", 0.5)]
    assert [e.name for e in found.small] == ["fc.bias", "key.bias"]
    assert len(found.gradient.entries) == 2
    assert not compare(Prediction({**good, "key.bias": Facts(1.0, 1e-4)}, {}), real).zeros


def test_a_zero_initialised_branch_is_compared_with_the_block_around_it():
    real = against({"block.conv.weight": Size(1.0, 0.0), "block.bn.weight": Size(0.0, 1.0), "head.weight": Size(1.0, 9.0)})
    told = {"block.bn.weight": Facts(0.0, 1.0), "head.weight": Facts(1.0, 9.0)}
    assert not compare(Prediction({**told, "block.conv.weight": Facts(1.0, 0.0)}, {}), real).zeros
    found = compare(Prediction({**told, "block.conv.weight": Facts(1.0, 0.1)}, {}), real)
    assert [(z.name, z.share) for z in found.zeros] == [("block.conv.weight", 0.1)]


def test_a_layer_that_is_small_as_a_whole_is_not_zero():
    real = against({"a.weight": Size(1.0, 1e-15), "a.bias": Size(1.0, 2e-15), "z.weight": Size(1.0, 1.0)})
    told = {"a.weight": Facts(1.0, 1e-15), "a.bias": Facts(1.0, 2e-15), "z.weight": Facts(1.0, 1.0)}
    found = compare(Prediction(told, {}), real)
    assert not found.zeros
    assert len(found.small) == 2


def test_no_entries_no_error():
    assert (Errors(()).median, Errors(()).p95, Errors(()).span, Errors(()).worst()) == (0.0, 0.0, 0.0, ())
