"""Marginal laws and gradient profiles, against Monte-Carlo: tensors that are not Gaussian, gradients that see their tensor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.moments import GRID, Moments, along, behind_sum, carried, meet, product
from gradlint.ops import Call, lookup
from gradlint.trace import parse_input
from gradlint.verification import compare, measure

N = 400_000


def relu(x):
    return np.maximum(x, 0.0)


def silu(x):
    return x / (1 + np.exp(-x))


FUNCTIONS = {
    "relu": (relu, lambda x: (x > 0).astype(float)),
    "silu": (silu, lambda x: (1 + x * (1 - 1 / (1 + np.exp(-x)))) / (1 + np.exp(-x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "abs": (np.abs, np.sign),
}


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def rectified(var: float = 1.0) -> Moments:
    x = Moments.iid((64, 64), 0.0, var)
    return x.map(relu(x.on_grid()))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("kept", "added"), [(2.0, 0.3), (1.0, 1.0), (-1.0, 0.5)])
def test_a_function_of_a_rectified_tensor_plus_noise(name, kept, added):
    z = normal(2, N)
    truth = kept * relu(z[0]) + added * z[1]
    x = rectified().scale(kept) + Moments.iid((64, 64), 0.0, added**2)
    phi, slope = FUNCTIONS[name]
    assert x.map(phi(x.on_grid())).q == pytest.approx(np.mean(phi(truth) ** 2), rel=0.01)
    assert x.map(phi(x.on_grid())).mean == pytest.approx(np.mean(phi(truth)), rel=0.01, abs=0.005)
    assert GRID.weights @ slope(x.on_grid()) ** 2 == pytest.approx(np.mean(slope(truth) ** 2), rel=0.01)


@pytest.mark.parametrize("rho", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("name", ["silu", "tanh"])
def test_pairs_of_a_function_of_a_tensor_that_is_not_gaussian(name, rho):
    """A Gaussian copula is an approximation: large entries may be more alike than small ones. Better than a Gaussian law."""
    phi, _ = FUNCTIONS[name]
    z = normal(6, N)
    pair = [math.sqrt(rho) * z[0] + math.sqrt(1 - rho) * z[i] for i in (1, 2)]
    noise = [math.sqrt(rho / 2) * z[3] + math.sqrt(1 - rho / 2) * z[i] for i in (4, 5)]
    first, second = (phi(relu(2 * a - 0.5) + b) for a, b in zip(pair, noise, strict=True))
    truth = np.mean(first * second) - np.mean(first) * np.mean(second)

    a = Moments(((64,), (64,)), -0.5, 4 * np.array([[0, rho], [0, 1 - rho]]))
    b = Moments(((64,), (64,)), 0.0, np.array([[0, rho / 2], [0, 1 - rho / 2]]))
    x = a.map(relu(a.on_grid())) + b
    gaussian = replace(x, law=None)
    found, before = (m.map(phi(m.on_grid())) for m in (x, gaussian))
    errors = [abs(y.shared([0]) - y.mean**2 - truth) for y in (found, before)]
    assert errors[0] < 0.2 * truth
    assert errors[0] < errors[1]


def test_rectifying_what_is_rectified_changes_nothing():
    x = rectified(4.0)
    y = x.map(relu(x.on_grid()))
    assert y.q == pytest.approx(x.q, rel=1e-9)
    assert np.allclose(y.pairs(), x.pairs())
    constant = Moments.zeros((64, 64))
    z = x + constant  # a branch that starts at zero
    assert np.array_equal(z.on_grid() > 0, x.on_grid() > 0)


def test_two_rectified_terms_keep_the_mass_that_both_have_at_zero():
    x = rectified() + rectified()
    assert GRID.weights @ (x.on_grid() == 0) == pytest.approx(0.25, abs=0.01)
    assert GRID.weights @ x.on_grid() ** 4 == pytest.approx(np.mean((relu(normal(N)) + relu(normal(2, N)[1])) ** 4), rel=0.05)


def test_reindexing_scaling_and_shifting_keep_the_law():
    x = rectified()
    moved = x.reshape((64 * 64,)).reshape((64, 64)).permute((1, 0)).scale(3.0).shift(1.0).resize(0, 8).expand((2, 8, 64))
    assert np.allclose(moved.on_grid(), 3 * x.on_grid() + 1)
    assert np.allclose(x.scale(-1.0).on_grid(), -x.on_grid()[::-1])


def test_sums_over_many_and_small_terms_are_gaussian():
    x = rectified()
    assert x.sum([1]).law is None
    assert product(x, Moments.iid((64, 64))).law is None
    assert (x + Moments.iid((64, 64), 0.0, 100.0)).law is None
    assert product(x, Moments.iid((1, 1), 0.5, 0.0)).law is not None


def test_a_long_sum_is_evaluated_without_deep_recursion():
    x, y = rectified(), rectified()
    g = along(Moments.iid((64, 64)), x, (x.on_grid() > 0).astype(float))
    for _ in range(3000):
        y = (y + x.scale(0.3)).scale(1 / math.sqrt(1.09))
        g = meet(behind_sum(g, x, x, x + x)[0], g).scale(0.7)
    assert math.isfinite(y.map(relu(y.on_grid())).q)
    assert math.isfinite(along(g, x, x.on_grid()).q)


# ---- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gradient_behind_the_same_tensor_twice(name):
    _, slope = FUNCTIONS[name]
    x = Moments.iid((64, 64), 0.3, 1.5)
    u = x.on_grid()
    truth = 0.3 + math.sqrt(1.5) * normal(N)
    g = along(along(Moments.iid((64, 64), 0.0, 2.0), x, slope(u)), x, u)
    assert g.q == pytest.approx(2 * np.mean((slope(truth) * truth) ** 2), rel=0.01)


def test_pairs_of_a_gradient_behind_the_same_tensor_twice():
    z = normal(3, N)
    rho = 0.5
    x = Moments(((64,), (64,)), 0.0, np.array([[0, rho], [0, 1 - rho]]))
    g = Moments(((64,), (64,)), 0.0, np.array([[0, 1.0], [0, 1.0]]))
    first, second = (math.sqrt(rho) * z[0] + math.sqrt(1 - rho) * z[i] for i in (1, 2))
    out = along(along(g, x, np.sign(x.on_grid())), x, x.on_grid())
    assert out.shared([0]) == pytest.approx(np.mean(np.abs(first * second)), rel=0.02)


def test_a_mask_seen_through_an_independent_term():
    """``E[1(x + y > 0) | x] = Φ(x/s)``: what passed the sum's mask is large in x."""
    x, y = Moments.iid((64, 64)), Moments.iid((64, 64), 0.0, 0.5)
    total = x + y
    g = along(Moments.iid((64, 64)), total, (total.on_grid() > 0).astype(float))
    gx, gy = behind_sum(g, x, y, total)
    z = normal(2, N)
    alive = z[0] + math.sqrt(0.5) * z[1] > 0
    assert gx.q == pytest.approx(0.5, rel=0.01)
    assert along(gx, x, relu(x.on_grid())).q == pytest.approx(np.mean(alive * relu(z[0]) ** 2), rel=0.01)
    assert along(gy, y, relu(y.on_grid())).q == pytest.approx(np.mean(alive * relu(z[1]) ** 2) / 2, rel=0.01)


def test_gradients_that_meet_bring_their_own_dependence():
    x = Moments.iid((64, 64))
    positive, negative = ((s * x.on_grid() > 0).astype(float) for s in (1, -1))
    parts = [along(Moments.iid((64, 64), 0.0, q), x, f) for q, f in ((1.0, positive), (3.0, negative))]
    both = meet(meet(meet(parts[0], parts[1]), Moments.iid((64, 64), 0.0, 0.5)), parts[0])
    assert along(both, x, positive).q == pytest.approx(0.5 + 0.25 + 0.5, rel=1e-3)
    assert along(both, x, negative).q == pytest.approx(1.5 + 0.25, rel=1e-3)


def test_what_is_carried_keeps_its_new_moments():
    x = Moments.iid((64, 64))
    g = along(Moments(((64,), (64,)), 0.0, np.array([[0, 0.4], [0, 1.0]])), x, relu(x.on_grid()))
    out = carried(g.centre([0]), g)
    flat = along(out, x, np.ones_like(GRID.z))
    assert np.allclose(flat.pairs(), out.pairs(), atol=1e-9)


# ---- whole models -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Post-activation (He et al. 2015): the stream itself is rectified, so every mask sees it again."""

    def __init__(self, width, activation, gamma, keep):
        super().__init__()
        self.keep = keep or nn.Identity()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.activation = activation
        nn.init.constant_(self.norm2.weight, gamma)

    def forward(self, x):
        return self.activation(self.keep(x) + self.norm2(self.second(self.activation(self.norm1(self.first(x))))))


class Stack(nn.Module):
    def __init__(self, activation=F.relu, gamma=1.0, width=192, depth=8, keep=None):
        super().__init__()
        self.stem, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.blocks = nn.Sequential(*[Block(width, activation, gamma, keep) for _ in range(depth)])
        self.activation = activation

    def forward(self, x):
        return self.blocks(self.activation(self.norm(self.stem(x))))


class Pooled(nn.Module):
    """Overlapping windows of a rectified tensor, and a gradient that is the same in all of them."""

    def __init__(self, width, stride):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 48, 1), nn.Conv2d(48, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48)
        self.width, self.stride = width, stride

    def forward(self, x):
        x = F.relu(self.norm(self.conv(F.relu(self.stem(x)))))
        return F.max_pool2d(x, self.width, self.stride, padding=(self.width - 1) // 2).mean((2, 3))


class Shortcut(nn.Module):
    """A shortcut that lacks half the channels (He et al. 2015, option A)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv, self.norm = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.norm2 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)

    def forward(self, x):
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(F.pad(x, (0, 0, 0, 0, 16, 16)) + self.norm(self.conv(x)))
        return F.relu(x + self.norm2(self.conv2(x)))


class Squeezed(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): a gate hears its channel's gradient times the channel, of which the mask knows."""

    def __init__(self, width=32, blocks=3):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(blocks))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        for conv, norm, gate in zip(self.convs, self.norms, self.gates, strict=True):
            branch = norm(conv(x))
            x = F.relu(x + branch * torch.sigmoid(gate(branch.mean((2, 3))))[:, :, None, None])
        return x.mean((2, 3))


class Longest(nn.Module):
    """The largest of all places of a rectified tensor: its entry was not cut off."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(8, 64, 3), nn.Linear(64, 32)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).max(2)[0])


MODELS = {
    "relu": (Stack, "256,192"),
    "zero gamma": (lambda: Stack(gamma=0.0), "256,192"),
    "small gamma": (lambda: Stack(gamma=0.1), "256,192"),
    "gelu": (lambda: Stack(F.gelu), "256,192"),
    "abs": (lambda: Stack(torch.abs, depth=4), "256,192"),
    "negated": (lambda: Stack(depth=4, gamma=0.0, keep=lambda x: 1.0 - x), "256,192"),
    "halved": (lambda: Stack(keep=lambda x: x * 0.5), "256,192"),
    "windows apart": (lambda: Pooled(2, 2), "8,3,12,12"),
    "windows that overlap": (lambda: Pooled(3, 2), "8,3,12,12"),
    "padded shortcut": (Shortcut, "8,3,10,10"),
    "gated channels": (Squeezed, "16,3,12,12"),
    "largest of all places": (Longest, "32,8,30"),
}


@pytest.mark.parametrize("name", MODELS)
def test_predictions_agree_with_autograd(name):
    build, inputs = MODELS[name]
    real = measure(build, [parse_input(inputs)], seeds=6)
    comparison = compare(gradlint.analyze(build, list(real.inputs)), real)
    assert comparison.gradient.median < 0.1, comparison.gradient.worst(3)
    assert comparison.gradient.p95 < 0.25, comparison.gradient.worst(3)
    assert comparison.forward.p95 < 0.1, comparison.forward.worst(3)


@pytest.mark.parametrize("samples", [3, 12])
def test_a_pattern_that_all_samples_share_divides_itself_away(samples):
    """BatchNorm over few positions: pairs of the output and the energy of the gradient, both through the random normaliser."""
    rng = np.random.default_rng(1)
    channels = 6000
    x = rng.normal(size=(samples, channels, 2, 2)) + 1.5 * rng.normal(size=(1, channels, 2, 2))
    y = torch.tensor(x, requires_grad=True)
    out = F.batch_norm(y, None, None, training=True)
    g = torch.tensor(rng.normal(size=x.shape))
    out.backward(g)
    real = Moments.of_array(out.detach().numpy())

    law = Moments.iid(x.shape)
    law.v[0, 1, 1, 1] = 1.5**2
    flow = lookup(F.batch_norm).function(Call(x.shape), law, None, None, None, None, True)
    assert flow.out.shared([0]) == pytest.approx(real.shared([0]), rel=0.03)
    assert flow.out.shared([2, 3]) == pytest.approx(real.shared([2, 3]), abs=0.01)
    assert flow.back(Moments.iid(x.shape))[law].q == pytest.approx(float(y.grad.square().mean()), rel=0.05)
