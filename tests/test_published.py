"""What papers found out about training, as verdicts: statically, from the laws of the weights alone."""

import math

import pytest
import torch
from torch import nn

import gradlint
from gradlint.rule import Context, Severity

WIDTH = 256


def stack(depth, act, std, bias=0.0, norm=None):
    """A plain network of square layers, weights N(0, std²/fan_in), biases N(0, bias²)."""

    def build():
        layers = []
        for _ in range(depth):
            layer = nn.Linear(WIDTH, WIDTH)
            nn.init.normal_(layer.weight, std=std / WIDTH**0.5)
            nn.init.normal_(layer.bias, std=bias) if bias else nn.init.zeros_(layer.bias)
            layers += [layer, *([norm(WIDTH)] if norm else []), act()]
        return nn.Sequential(*layers)

    return build


def worst(build, inputs=f"8,{WIDTH}"):
    """Codes of the findings at warning or above, with their severities."""
    found = gradlint.lint(build, [inputs]).findings
    return {f.code: f.severity for f in found if f.severity != Severity.INFO}


def context(build, inputs=f"8,{WIDTH}"):
    return Context(gradlint.analyze(build, [inputs]), "model")


@pytest.mark.parametrize(("variance", "code"), [(1.0, "GL102"), (2.0, None), (4.0, "GL101")])
def test_relu_nets_start_only_with_twice_the_reciprocal_fan_in(variance, code):
    """Hanin & Rolnick 2018, fig. 1: fully connected ReLU nets fail to start at κ = 1 and 4, and start at 2."""
    found = worst(stack(40, nn.ReLU, variance**0.5))
    assert (code in found) if code else not found, found


@pytest.mark.parametrize(("std", "fails"), [(1.0, True), (2**0.5, False)])
def test_thirty_relu_layers_stall_with_xavier_and_train_with_he(std, fails):
    """He et al. 2015, fig. 3: the 30-layer net converges with variance 2/fan_in and stalls with 1/fan_in."""
    assert ("GL102" in worst(stack(30, nn.ReLU, std))) == fails


def test_batchnorm_without_skips_explodes_with_depth():
    """Yang et al. 2019: BN-ReLU gains π/(π−1) in squared gradient per layer, whatever the weights; deep ones do not train."""
    paths = context(stack(20, nn.ReLU, 1.0, norm=nn.BatchNorm1d), "512,256").paths
    middle = [s.log2 for s in paths.segments][15:45]
    assert 2 * sum(middle) / 10 == pytest.approx(math.log2(math.pi / (math.pi - 1)), abs=0.06)
    assert "GL101" in worst(stack(60, nn.ReLU, 1.0, norm=nn.BatchNorm1d), "512,256")
    assert not worst(stack(10, nn.ReLU, 1.0, norm=nn.BatchNorm1d), "512,256")


def depth_scale(std, bias):
    """ξ of the correlation of two inputs, c* and its slope by the mean-field map (Schoenholz et al. 2017, eqs. 5 and 9)."""
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    p = torch.exp(-z * z / 2)
    p /= p.sum()
    pair = p[:, None] * p[None, :]
    q = 1.0
    for _ in range(500):
        q = float(std**2 * (p * torch.tanh(q**0.5 * z) ** 2).sum() + bias**2)
    c = 0.5
    for _ in range(2000):
        u = q**0.5 * z[:, None]
        v = q**0.5 * (c * z[:, None] + (1 - c * c) ** 0.5 * z[None, :])
        c = min(float(std**2 * (pair * torch.tanh(u) * torch.tanh(v)).sum() + bias**2) / q, 1 - 1e-12)
    v = q**0.5 * (c * z[:, None] + (1 - c * c) ** 0.5 * z[None, :])
    slope = float(std**2 * (pair * (1 - torch.tanh(q**0.5 * z[:, None]) ** 2) * (1 - torch.tanh(v) ** 2)).sum())
    return -1 / math.log(slope)


@pytest.mark.parametrize("std", [0.8, 1.1])
def test_samples_become_alike_over_the_depth_scale_of_schoenholz(std):
    """In the ordered phase ``1 − ρ ~ e^(−l/ξ)`` (Schoenholz et al. 2017, eq. 9)."""
    collapse = context(stack(60, nn.Tanh, std, 0.05**0.5)).symptoms.samples
    bits = [c.log2 for c in collapse]
    per_layer = (bits[-41] - bits[-1]) / 20  # two tensors a layer
    assert per_layer == pytest.approx(1 / (math.log(2) * depth_scale(std, 0.05**0.5)), rel=0.03)


def test_tanh_nets_are_trainable_to_a_depth_that_peaks_at_criticality():
    """Schoenholz et al. 2017, fig. 5: to a few ξ in the ordered and the chaotic phase, to hundreds of layers between."""
    deep = {std: worst(stack(200, nn.Tanh, std, 0.05**0.5)) for std in (0.9, 1.76**0.5, 2.2)}
    assert set(deep[0.9]) >= {"GL102"}
    assert not deep[1.76**0.5]
    assert set(deep[2.2]) >= {"GL101"}
    assert not worst(stack(10, nn.Tanh, 0.9, 0.05**0.5))
    assert not worst(stack(10, nn.Tanh, 2.2, 0.05**0.5))


class Block(nn.Module):
    """x + scale · W₂ φ(W₁ x), the ways without a norm to keep a hundred of them trainable."""

    def __init__(self, depth, recipe):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.scale = nn.Parameter(torch.zeros(1)) if recipe in ("rezero", "skipinit") else 1.0
        if recipe == "fixup":  # Zhang et al. 2019: m = 2 layers a branch
            nn.init.zeros_(self.second.weight)
            with torch.no_grad():
                self.first.weight.mul_(depth**-0.5)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.scale * self.second(self.act(self.first(x)))


def residual(depth, recipe):
    return lambda: nn.Sequential(*(Block(depth, recipe) for _ in range(depth)), nn.Linear(WIDTH, 10))


@pytest.mark.parametrize("recipe", ["fixup", "rezero", "skipinit"])
def test_residual_nets_without_norms_are_kept_by_recipes(recipe):
    """Zhang et al. 2019 (Fixup), Bachlechner et al. 2020 (ReZero), De & Smith 2020 (SkipInit)."""
    assert "GL101" in worst(residual(100, "none"))
    assert not worst(residual(100, recipe))


class Layer(nn.Module):
    def __init__(self, place, depth):
        super().__init__()
        self.place, width = place, 64
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.alpha = (2 * depth) ** 0.25 if place == "deepnorm" else 1.0
        beta = (8 * depth) ** -0.25 if place == "deepnorm" else 1.0
        for layer in (self.value, self.out, self.feed[0], self.feed[2]):
            nn.init.xavier_normal_(layer.weight, gain=beta)
        for layer in (self.query, self.key):
            nn.init.xavier_normal_(layer.weight)

    def attend(self, x):
        heads = [f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)]
        return self.out(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def forward(self, x):
        for norm, branch in zip(self.norms, (self.attend, self.feed), strict=True):
            x = x + branch(norm(x)) if self.place == "pre" else norm(self.alpha * x + branch(x))
        return x


def transformer(place, depth):
    last = [nn.LayerNorm(64)] if place == "pre" else []
    return lambda: nn.Sequential(*(Layer(place, depth) for _ in range(depth)), *last, nn.Linear(64, 10))


def test_deep_transformers_keep_their_signal_with_norms_in_front_or_deepnorm():
    """Xiong et al. 2020, Liu et al. 2020, Wang et al. 2022: Post-LN degrades with depth; Pre-LN and DeepNorm reach hundreds."""
    post, pre, deepnorm = (context(transformer(place, 24), "4,16,64") for place in ("post", "pre", "deepnorm"))
    loss = {name: c.symptoms.tokens[-1].log2 for name, c in (("post", post), ("pre", pre), ("deepnorm", deepnorm))}
    assert loss["post"] < min(loss["pre"], loss["deepnorm"]) - 2  # its tokens become alike
    assert abs(deepnorm.paths.log2) < 2.5
    for place in ("pre", "deepnorm"):
        assert not worst(transformer(place, 24), "4,16,64")


@pytest.mark.parametrize(("radius", "fires"), [(0.9, False), (1.0, False), (1.5, True)])
def test_recurrent_weights_explode_beyond_a_radius_of_one(radius, fires):
    """Pascanu et al. 2013, §2.1: for a linear cell a spectral radius above 1 is what explosion takes; identity does not."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(WIDTH, WIDTH, bias=False)
            nn.init.normal_(self.cell.weight, std=radius / WIDTH**0.5)
            self.head = nn.Linear(WIDTH, 2)

        def forward(self, x):
            h = x[:, 0]
            for t in range(1, x.shape[1]):
                h = self.cell(h) + x[:, t]
            return self.head(h)

    assert ("GL401" in worst(Net, f"4,40,{WIDTH}")) == fires
