"""Evidence beside the gain, against real draws of the weights."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import gradlint
from gradlint.evidence import Symptoms
from gradlint.evidence.symptoms import apart
from gradlint.moments import Moments
from gradlint.rule import Context

WIDTH, DEPTH, BATCH, SEEDS = 128, 8, 6, 12


class Tower(nn.Module):
    def __init__(self, std=1.2, act=nn.Tanh, bias=0.3, last=1.0):
        super().__init__()
        layers = []
        for _ in range(DEPTH):
            layer = nn.Linear(WIDTH, WIDTH)
            nn.init.normal_(layer.weight, std=std / WIDTH**0.5)
            nn.init.normal_(layer.bias, std=bias)
            layers += [layer, act()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH, 5)
        nn.init.normal_(self.head.weight, std=last / WIDTH**0.5)

    def forward(self, x):
        return self.head(self.body(x))


def symptoms(build, inputs=f"{BATCH},{WIDTH}"):
    return Context(gradlint.analyze(build, [inputs]), "model").symptoms


def drawn(build):
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        yield build().double(), torch.randn(BATCH, WIDTH).double()


@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU, nn.Sigmoid])
def test_collapse_is_the_share_in_which_hidden_states_of_samples_differ(act):
    build = partial(Tower, act=act)
    measured = []
    for model, x in drawn(build):
        h = model.body(x).detach()
        products = h @ h.T
        same, different = products.diagonal().mean(), (products.sum() - products.trace()) / (BATCH * (BATCH - 1))
        measured.append(float(1 - different / same))
    assert symptoms(build).collapse == pytest.approx(math.log2(sum(measured) / SEEDS), abs=0.35)


def test_collapse_deepens_from_the_input_to_the_head():
    found = [c.log2 for c in symptoms(lambda: Tower(act=nn.Sigmoid)).samples]
    assert found[0] == pytest.approx(0.0, abs=0.1)
    assert found[-1] == min(found) < -8


def test_sharpness_is_the_squared_gradient_of_one_output():
    build = partial(Tower, last=2.0)
    measured = []
    for model, x in drawn(build):
        gradients = torch.autograd.grad(model(x)[0, 0], list(model.parameters()))
        measured.append(sum(float((g * g).sum()) for g in gradients))
    assert symptoms(build).sharpness == pytest.approx(math.log2(sum(measured) / SEEDS), abs=0.4)


def test_output_band_and_share_follow_the_weights():
    small, large = symptoms(lambda: Tower(last=1.0)), symptoms(lambda: Tower(last=8.0))
    assert large.output - small.output == pytest.approx(3.0, abs=0.05)  # its bias hardly counts
    dying = symptoms(lambda: Tower(std=0.4))
    assert dying.band > small.band + 3
    assert dying.first < small.first - 3


def test_a_model_whose_output_is_zero_has_no_scale_of_output():
    found = symptoms(lambda: nn.Sequential(nn.Linear(WIDTH, 4, bias=False), Zero()))
    assert found.output is None


class Zero(nn.Module):
    def forward(self, x):
        return x * 0.0


def test_saturation_names_the_activation_with_the_smallest_slope():
    log2, node = symptoms(lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid())).saturation
    assert node == "sigmoid"
    assert log2 == pytest.approx(math.log2(0.24), abs=0.1)


def test_attention_without_skips_makes_tokens_alike():
    class Attend(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    layers = [Attend(), nn.Linear(WIDTH, WIDTH), Attend(), nn.Linear(WIDTH, WIDTH)]
    found = symptoms(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), *layers, nn.Linear(WIDTH, 2)), f"2,32,{WIDTH}")
    assert isinstance(found, Symptoms)
    assert found.tokens[0].log2 > -1
    assert found.tokens[-1].log2 < -4


def test_apart_counts_every_component_that_varies_along_the_axis():
    x = Moments.iid((4, 3), mean=1.0, var=1.0)
    assert apart(x, 0) == pytest.approx(0.5)
    assert apart(Moments.iid((1, 3)), 0) is None
    assert apart(Moments.zeros((4, 3)), 0) is None
