"""What rules judge by, beside real tensors: ranges, singular slopes, fans, flat and dead units, scores, streams, norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlint import analyze
from gradlint.evidence import Evidence
from gradlint.mitigation import Mitigation
from gradlint.recipe import Number, Optimizer, Recipe


class Behind(nn.Module):
    """A function behind a linear layer."""

    def __init__(self, function, features=64, width=32):
        super().__init__()
        self.layer = nn.Linear(features, width)
        nn.init.normal_(self.layer.weight, std=features**-0.5)
        nn.init.zeros_(self.layer.bias)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


def evidence_of(function):
    analysis = analyze(lambda: Behind(function), ["128,64"])
    return Evidence(analysis.flowed), analysis.flowed.traced.output


def run(function):
    """The output, and the gradient at the layer, of a real run."""
    torch.manual_seed(1)
    model = Behind(function)
    out = model(torch.randn(128, 64))
    grad = None
    if out.requires_grad:
        (grad,) = torch.autograd.grad(out.sum(), model.layer.weight)
    return out.detach(), grad


def pairs(h):
    return h[:, None] - h[None]


RANGES = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "square": lambda h: h**2,
    "softmax": lambda h: torch.softmax(h, -1),
    "log of softmax": lambda h: torch.log(torch.softmax(h, -1) + 1e-3),
    "negative square": lambda h: 1 - h * h,
    "clamp": lambda h: (3 * h).clamp(-1, 2),
    "sum of relu": lambda h: torch.relu(h).sum(-1),
    "mean of sigmoid": lambda h: torch.sigmoid(h).mean(0),
    "product": lambda h: torch.relu(h) * torch.sigmoid(h.flip(0)),
    "sum": lambda h: torch.relu(h) + torch.sigmoid(h.flip(0)),
    "difference": lambda h: torch.sigmoid(h) - torch.sigmoid(h.flip(0)),
    "pairs": pairs,
    "squared distances": lambda h: pairs(h).pow(2).sum(-1),
    "dropout": lambda h: F.dropout(torch.relu(h), 0.25, training=True),
    "concatenated": lambda h: torch.cat([torch.relu(h), -torch.relu(h)], -1),
    "norm": lambda h: h.norm(dim=-1),
    "largest": lambda h: torch.relu(h).amax(-1),
    "attention": lambda h: torch.softmax(h @ h.T, -1) @ torch.sigmoid(h),
}


@pytest.mark.parametrize("name", RANGES)
def test_no_real_value_lies_outside_its_range_and_zeros_are_as_many(name):
    evidence, output = evidence_of(RANGES[name])
    known = evidence.ranges[output]
    out, _ = run(RANGES[name])
    slack = 1e-5 * float(out.abs().max())
    assert known.low - slack <= float(out.min())
    assert float(out.max()) <= known.high + slack
    if name not in ("sum of relu", "largest"):  # independent entries are assumed to be all zero at once
        assert known.zero == pytest.approx(float((out == 0).float().mean()), abs=0.02)


BOUNDED = {
    "relu": (0, math.inf),
    "sigmoid": (0, 1),
    "square": (0, math.inf),
    "softmax": (0, 1),
    "negative square": (-math.inf, 1),
    "clamp": (-1, 2),
    "sum": (0, math.inf),
    "difference": (-1, 1),
    "attention": (0, math.inf),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_ranges_are_no_wider_than_need_be(name):
    evidence, output = evidence_of(RANGES[name])
    known = evidence.ranges[output]
    assert (known.low, known.high) == pytest.approx(BOUNDED[name], abs=1e-6)


BROKEN = {  # silent in forward, NaN or infinite in backward
    "distances": (lambda h: pairs(h).pow(2).sum(-1).sqrt(), "slope"),
    "root of a square on the diagonal": (lambda h: (pairs(h) ** 2).sqrt(), "slope"),
    "fractional power": (lambda h: pairs(h).abs() ** 0.5, "slope"),
    "root under where": (lambda h: torch.where(h > 0, h.sqrt(), torch.zeros_like(h)), "dead"),
    "power under where": (lambda h: torch.where(h > 0, h**0.3, torch.zeros_like(h)), "dead"),
    "nan_to_num": (lambda h: torch.acos(3 * h).nan_to_num(), "dead"),
}
INFINITE = {
    "log": torch.log,
    "root": torch.sqrt,
    "log of relu": lambda h: torch.log(torch.relu(h)),
    "arcus": lambda h: torch.acos(2 * h),
    "log1p": lambda h: torch.log1p(2 * h),
}
SAFE = {
    "root of relu": lambda h: torch.relu(h).sqrt(),
    "clamped": lambda h: h.clamp(min=1e-3).sqrt(),
    "log of softplus": lambda h: torch.log(F.softplus(h)),
    "epsilon": lambda h: (pairs(h).pow(2).sum(-1) + 1e-3).sqrt(),
    "vector_norm": lambda h: torch.linalg.vector_norm(pairs(h), dim=-1),
    "both masked": lambda h: torch.where(h > 0, torch.where(h > 0, h, torch.ones_like(h)).sqrt(), torch.zeros_like(h)),
    "exp": torch.exp,
    "silu": lambda h: h * torch.sigmoid(h),
    "log_softmax": lambda h: torch.log_softmax(h, -1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_silent_in_forward_and_not_finite_in_backward_is_found(name):
    function, kind = BROKEN[name]
    out, grad = run(function)
    assert out.isfinite().all()
    assert not grad.isfinite().all()
    found = evidence_of(function)[0].singularities
    assert [s.kind for s in found if s.share > 0] == [kind]


@pytest.mark.parametrize("name", INFINITE)
def test_the_share_of_entries_that_are_not_finite(name):
    out, _ = run(INFINITE[name])
    found = [s for s in evidence_of(INFINITE[name])[0].singularities if s.kind == "value"]
    assert len(found) == 1
    assert found[0].share == pytest.approx(float((~out.isfinite()).float().mean()), abs=0.02)


@pytest.mark.parametrize("name", SAFE)
def test_safe_functions_are_not_suspected(name):
    out, grad = run(SAFE[name])
    assert out.isfinite().all()
    assert grad.isfinite().all()
    assert [s for s in evidence_of(SAFE[name])[0].singularities if s.share > 0 or s.why] == []


def test_functions_of_the_data_alone_are_not_judged():
    class Spectrogram(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(torch.log(x))

    assert Evidence(analyze(Spectrogram, ["8,64"]).flowed).singularities == ()


LAYERS = {
    "linear": (lambda: nn.Linear(48, 80, bias=False), (64, 48)),
    "conv": (lambda: nn.Conv2d(16, 24, 3, bias=False), (8, 16, 20, 20)),
    "grouped": (lambda: nn.Conv2d(16, 32, 3, groups=4, bias=False), (8, 16, 20, 20)),
    "depthwise": (lambda: nn.Conv1d(512, 512, 5, groups=512, bias=False), (4, 512, 60)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 24, 4, stride=2, padding=1, bias=False), (8, 16, 24, 24)),
    "strided": (lambda: nn.Conv2d(16, 24, 4, stride=2, padding=1, bias=False), (8, 16, 40, 40)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_fans_are_the_terms_in_the_sums(name):
    make, shape = LAYERS[name]

    def build():
        layer = make()
        nn.init.normal_(layer.weight, std=0.1)
        return nn.Sequential(layer)

    (layer,) = Evidence(analyze(build, [",".join(map(str, shape))]).flowed).layers
    torch.manual_seed(2)
    x = torch.randn(shape, requires_grad=True)
    out = build()(x)
    seen = out.detach()
    inner = (slice(None), slice(None), *[slice(2, -2)] * (out.dim() - 2))  # borders left aside
    (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
    assert float(seen[inner].square().mean()) / 0.01 == pytest.approx(layer.fan_in, rel=0.12)
    assert float(grad[inner].square().mean()) / 0.01 == pytest.approx(layer.fan_out, rel=0.12)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (6.0, 0.0), (30.0, 1.0)])
def test_the_share_of_flat_entries(scale, bias):
    def function(h):
        return torch.tanh(scale * h + bias)

    evidence, _ = evidence_of(function)
    (seen,) = (a for a in evidence.activations if a.call.op == "tanh")
    torch.manual_seed(3)
    z = (scale * Behind(nn.Identity())(torch.randn(2000, 64)) + bias).detach()
    slope = 1 - torch.tanh(z.double()) ** 2
    assert seen.flat == pytest.approx(float((slope < 0.02).double().mean()), abs=0.02)
    assert seen.slope == pytest.approx(float(slope.square().mean().sqrt()), rel=0.05)
    assert seen.rms == pytest.approx(float(z.square().mean().sqrt()), rel=0.05)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (-6.0, 0.0), (-4.0, 3.0), (0.0, 8.0)])
def test_the_share_of_dead_units(mean, std):
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 400)
            nn.init.normal_(self.layer.weight, std=1 / 8)
            nn.init.normal_(self.layer.bias, mean, std) if std else nn.init.constant_(self.layer.bias, mean)

        def forward(self, x):
            return torch.relu(self.layer(x))

    (seen,) = Evidence(analyze(Biased, ["32,64"]).flowed).activations
    torch.manual_seed(4)
    dead = (Biased()(torch.randn(30_000, 64)) == 0).all(0)
    assert seen.off == pytest.approx(float(dead.float().mean()), abs=0.06)


class Attention(nn.Module):
    def __init__(self, factor, fused=False, width=32):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        nn.init.normal_(self.qkv.weight, std=width**-0.5)
        self.factor, self.fused = factor, fused

    def scores(self, x):
        q, k, _ = self.qkv(x).chunk(3, -1)
        return q @ k.transpose(-2, -1) * self.factor

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, scale=self.factor)
        scores = q @ k.transpose(-2, -1)
        scores = scores if self.factor == 1.0 else scores * self.factor
        return torch.softmax(scores, -1) @ v


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("factor", [1.0, 32**-0.5])
def test_the_variance_of_scores_within_a_row(factor, fused):
    (scores,) = Evidence(analyze(lambda: Attention(factor, fused), ["16,24,32"]).flowed).scores
    torch.manual_seed(5)
    real = Attention(factor).scores(torch.randn(64, 24, 32)).detach().var(-1).mean()
    assert scores.variance == pytest.approx(float(real), rel=0.1)
    assert (scores.keys, scores.width, scores.scaled) == (24, 32, factor != 1.0)


@pytest.mark.parametrize(("diagonal", "empty"), [(0, 0.0), (-1, 1 / 12), (-3, 3 / 12)])
def test_rows_that_a_mask_leaves_nothing_of(diagonal, empty):
    class Masked(Attention):
        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            dead = torch.ones(12, 12).tril(diagonal) == 0
            return torch.softmax((q @ k.transpose(-2, -1)).masked_fill(dead, -math.inf), -1) @ v

    (scores,) = Evidence(analyze(lambda: Masked(1.0), ["4,12,32"]).flowed).scores
    assert scores.empty == pytest.approx(empty)


class Blocks(nn.Module):
    def __init__(self, norm=True, final=True, depth=5, width=64):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) if norm else nn.Identity() for _ in range(depth)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.last = nn.LayerNorm(width) if final else nn.Identity()
        self.head = nn.Linear(width, 4)

    def stream(self, x):
        sizes = [x]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            sizes.append(sizes[-1] + layer(norm(sizes[-1])).relu())
        return sizes

    def forward(self, x):
        return self.head(self.last(self.stream(x)[-1]))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("final", [False, True])
def test_residual_streams_as_they_are(norm, final):
    (stream,) = Evidence(analyze(lambda: Blocks(norm, final), ["256,64"]).flowed).streams
    assert len(stream.sums) == 5
    assert (stream.entering, stream.leaving) == (norm, final)
    torch.manual_seed(6)
    real = [float(x.detach().square().mean().sqrt()) for x in Blocks(norm, final).stream(torch.randn(2000, 64))]
    assert stream.rms == pytest.approx(real, rel=0.1)


def test_a_plain_stack_has_no_residual_stream():
    stack = [nn.Linear(8, 8) for _ in range(6)]
    assert Evidence(analyze(lambda: nn.Sequential(*stack), ["4,8"]).flowed).streams == ()


def deep():
    layers = [nn.Linear(96, 96) for _ in range(10)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=1.3 * (2 / 96) ** 0.5)
    return nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())])


def test_the_predicted_norm_of_the_gradient():
    mitigation = Mitigation(analyze(deep, ["32,96"]), None)
    norm = mitigation.norm
    real = []
    for seed in range(24):
        torch.manual_seed(seed)
        model = deep()
        out = model(torch.randn(32, 96))
        grads = torch.autograd.grad((out * torch.randn_like(out)).mean(), list(model.parameters()))
        real.append(math.sqrt(sum(float(g.square().sum()) for g in grads)))
    real.sort()
    assert norm.typical == pytest.approx(real[12], rel=0.25)
    assert sum(norm.low <= x <= norm.high for x in real) / 24 == pytest.approx(0.8, abs=0.2)
    assert mitigation.max_norm(0.0) == norm.high
    assert mitigation.max_norm(5.0) == pytest.approx(norm.high / 32)


def test_remedies_have_their_numbers():
    place = None
    recipe = Recipe("train.py", (Optimizer("AdamW", Number("3e-4", 3e-4), Number("0.01", 0.01), place),))
    analysis = analyze(deep, ["32,96"])
    evidence = {"log2_per_layer": 0.4, "layers": 10}
    grown = list(Mitigation(analysis, recipe).notes(12.0, evidence))
    assert len(grown) == 3
    assert f"max_norm={Mitigation(analysis, None).norm.high / 2**12:.2g}" in grown[0]
    assert f"in {float(f'{0.4 * math.log(2) / (3e-4 * 0.01):.2g}'):g} steps" in grown[1]
    assert f"×{math.sqrt(11):.2g}" in grown[2]
    assert len(list(Mitigation(analysis, None).notes(-12.0, evidence))) == 1, "a norm helps, clipping does not"
    assert list(Mitigation(analysis, None).notes(0.5, evidence)) == []
    stepped = list(Mitigation(analysis, None).notes(None, {"log2_per_step": 0.2, "steps": 50}))
    assert len(stepped) == 2
    assert f"max_norm={Mitigation(analysis, None).norm.high / 2**10:.2g}" in stepped[0]
    assert list(Mitigation(analysis, None).notes(None, {"log2": 12.0})) == []
    assert list(Mitigation(analysis, None).notes(-math.inf, evidence)) == []


@pytest.mark.parametrize(("size", "classes"), [(0.3, 10), (1.0, 100), (2.0, 1000), (12.0, 1000), (10.0, 27)])
def test_the_loss_that_logits_start_with(size, classes):
    from gradlint_rules._logits import initial_loss

    torch.manual_seed(7)
    logits = size * torch.randn(4000, classes)
    real = float(F.cross_entropy(logits, torch.randint(0, classes, (4000,))))
    assert initial_loss(size, classes) == pytest.approx(real, rel=0.3)
