"""Where the rules about depth, initialisation and recurrence begin, in closed form: just below a limit and just above it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradlint

SILENT, WARNING, ERROR = None, "warning", "error"


def said(code, build, *inputs, **settings):
    """The severity of the one finding of a rule; None where it is silent. A rule that crashes is no silence."""
    report = gradlint.lint(build, list(inputs), select=[code], **settings)
    assert report.failures == ()
    (severity,) = {str(finding.severity) for finding in report.findings} or {None}
    return severity


def linear(n_in, n_out, std, **options):
    layer = nn.Linear(n_in, n_out, bias=False, **options)
    nn.init.normal_(layer.weight, std=std)
    return layer


def chain(total, depth=8, width=256):
    """Linear layers of which each multiplies the gradient norm by std · √width."""
    std = 2.0 ** (total / depth) * width**-0.5
    return lambda: nn.Sequential(*[linear(width, width, std) for _ in range(depth)])


class Sum(nn.Module):
    """x + s·f(x), f a ReLU between two layers that keep the variance: ½·log2(1 + 2·s²) bits."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.second, self.scale = linear(256, 256, 2**0.5 / 16), linear(256, 256, 2**0.5 / 16), scale

    def forward(self, x):
        return x + self.scale * self.second(torch.relu(self.first(x)))


def sums(total, count=16):
    scale = ((4.0 ** (total / count) - 1) / 2) ** 0.5
    return lambda: nn.Sequential(*[Sum(scale) for _ in range(count)])


def normed(depth):
    """log2(π/(π - 1))/2 = 0.278 bits per layer with ReLU (Yang et al. 2019)."""
    return lambda: nn.Sequential(*[m for _ in range(depth) for m in (linear(64, 64, 0.125), nn.BatchNorm1d(64), nn.ReLU())])


class Recurrent(nn.Module):
    """A linear recurrence over 32 steps by an orthogonal matrix times a gain."""

    def __init__(self, total):
        super().__init__()
        self.rnn = nn.RNN(64, 64, batch_first=True)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=2.0 ** (total / 32))
        nn.init.normal_(self.rnn.weight_ih_l0, std=1e-6)
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


def shifted(ratio):
    """The outlier |mean|·64 over the bulk's 2·8·std."""

    def build():
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, mean=ratio * 16 * 0.125 / 64, std=0.125)
        return nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 10))

    return build


def grouped(groups):
    def build():
        conv = nn.Conv2d(64, 64, 3, padding=1, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 4))

    return build


def transposed(n_in, n_out):
    def build():
        conv = nn.ConvTranspose2d(n_in, n_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(n_out * 64, 4))

    return build


VECTOR, BATCH, IMAGE, SEQUENCE = "float32:8,256", "float32:256,64", "float32:4,{},8,8", "float32:4,32,64"

EDGES = [
    ("GL101", chain, VECTOR, {8.8: SILENT, 9.2: WARNING, 10.8: WARNING, 11.2: ERROR}),
    ("GL102", chain, VECTOR, {-10.2: SILENT, -10.8: WARNING, -12.7: WARNING, -13.3: ERROR}),
    ("GL103", sums, VECTOR, {8.8: SILENT, 9.2: WARNING, 9.8: WARNING, 10.2: ERROR}),
    ("GL104", normed, BATCH, {29: SILENT, 33: WARNING, 48: WARNING, 53: ERROR}),
    ("GL206", shifted, "float32:8,64", {1.9: SILENT, 2.1: WARNING, 7.7: WARNING, 8.3: ERROR, -1.9: SILENT, -8.3: ERROR}),
    ("GL207", grouped, IMAGE.format(64), {1: SILENT, 2: SILENT, 4: WARNING, 64: WARNING}),
    ("GL208", lambda n: transposed(n, 32), IMAGE, {32: SILENT, 64: SILENT, 120: SILENT, 128: WARNING, 16: SILENT, 8: WARNING}),
    ("GL401", lambda total: lambda: Recurrent(total), SEQUENCE, {4.8: SILENT, 5.2: WARNING, 9.7: WARNING, 10.4: ERROR}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "make", "inputs", "number", "severity"),
    [(code, make, inputs, n, severity) for code, make, inputs, spoken in EDGES for n, severity in spoken.items()],
    ids=[f"{code}-{n}" for code, *_, spoken in EDGES for n in spoken],
)
def test_a_rule_speaks_above_its_limit_and_not_below(code, make, inputs, number, severity):
    assert said(code, make(number), inputs.format(number)) == severity


@pytest.mark.parametrize(("bits", "severity"), [(3.8, SILENT), (4.2, WARNING)])
def test_several_layers_that_multiply_are_judged_together(bits, severity):
    """GL201: two layers of 1.9 or 2.1 bits; one alone needs ten."""
    assert said("GL201", chain(bits, depth=2), VECTOR) == severity
    assert said("GL201", chain(bits, depth=1), VECTOR) is None


@pytest.mark.parametrize(("bits", "severity"), [(9.7, SILENT), (10.3, WARNING), (-9.7, SILENT), (-10.3, WARNING)])
def test_one_layer_is_judged_alone(bits, severity):
    assert said("GL201", chain(bits, depth=1), VECTOR) == severity


@pytest.mark.parametrize(("per_layer", "severity"), [(1.4, SILENT), (1.6, WARNING), (-2.8, SILENT), (-3.2, WARNING)])
def test_a_layer_counts_from_its_own_limit_on(per_layer, severity):
    assert said("GL201", chain(8 * per_layer, depth=8), VECTOR) == severity


@pytest.mark.parametrize(("width", "depth", "severity"), [(32, 25, SILENT), (32, 38, WARNING)])
def test_a_narrow_stack_is_a_matter_of_luck(width, depth, severity):
    """GL106: the variance of ln‖g‖² is 5 Σ 1/n (Hanin 2018), the limit is 4.9."""

    def stack():
        return nn.Sequential(*[m for _ in range(depth) for m in (linear(width, width, (2 / width) ** 0.5), nn.ReLU())])

    assert said("GL106", stack, f"float32:1,{width}") == severity


class Zeros(nn.Module):
    """A path of two matrices, of which some are zero, beside layers that train."""

    def __init__(self, zeros, beside):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.beside = nn.Sequential(*[nn.Linear(8, 8) for _ in range(beside)])
        for layer in (self.a, self.b)[:zeros]:
            nn.init.zeros_(layer.weight)

    def forward(self, x):
        return self.beside(x) + self.b(self.a(x))


@pytest.mark.parametrize(("zeros", "beside", "severity"), [(1, 2, SILENT), (2, 2, ERROR), (2, 3, WARNING)])
def test_zeros_in_series_are_an_error_where_half_of_the_model_is_dead(zeros, beside, severity):
    assert said("GL107", lambda: Zeros(zeros, beside), "float32:4,8") == severity


@pytest.mark.parametrize(
    ("bits", "settings", "severity"),
    [
        (5.1, {"max_gain": 32.0}, ERROR),
        (4.9, {"max_gain": 32.0}, SILENT),
        (-5.1, {"min_gain": 1 / 32}, ERROR),
        (-4.9, {"min_gain": 1 / 32}, SILENT),
        (5.1, {"min_gain": 32.0}, SILENT),
        (5.1, {}, SILENT),
    ],
)
def test_a_budget_is_kept_to_the_number(bits, settings, severity):
    assert said("GL190", chain(bits), VECTOR, **settings) == severity


@pytest.mark.parametrize(("left", "severity"), [(2.1, SILENT), (1.9, ERROR)])
def test_the_headroom_is_that_of_the_largest_entry(left, severity):
    """Of 8 · 256 normal entries, √(2 ln n) times their rms: so many bits below 65504."""
    largest = math.sqrt(2 * math.log(8 * 256))
    assert said("GL190", chain(math.log2(65504 / largest) - left), VECTOR, fp16_headroom_bits=2.0) == severity
