"""What the rules of depth say, beside closed forms and real draws; and that the number in the fix mends it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlint
from gradlint.findings import Finding, Severity


def findings(code: str, build: Callable[[], nn.Module], *shape: int) -> list[Finding]:
    report = gradlint.lint(build, (torch.randn(*shape),), select=(code,))
    return [f for f in report.findings if f.code == code]


def he(width: int) -> nn.Linear:
    layer = nn.Linear(width, width, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


# ---- GL103 ------------------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    def __init__(self, width: int, scale: float = 1.0, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.first, self.second, self.scale = he(width), he(width), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(torch.relu(self.first(self.norm(x))))


def test_residual_growth_is_the_gain_and_its_fix_mends_it() -> None:
    (found,) = findings("GL103", lambda: nn.Sequential(*[Sum(64) for _ in range(20)]), 8, 64)
    assert found.severity is Severity.ERROR
    gain = 0.5 * math.log2(1 + 2)  # skip 1; branch: ReLU halves, the second matrix doubles 2·(1/2)·2
    assert found.evidence["log2_per_sum"] == pytest.approx(gain, abs=0.02)
    scale = float(re.search(r"= ([\d.]+),", found.fix)[1])
    assert scale == pytest.approx(20**-0.5, abs=0.01)
    assert findings("GL103", lambda: nn.Sequential(*[Sum(64, scale) for _ in range(20)]), 8, 64) == []


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_normed_branches_are_no_growth_however_small_the_stream_starts(size: float) -> None:
    def build() -> nn.Module:
        first = nn.Linear(64, 64, bias=False)
        nn.init.normal_(first.weight, std=size / 8)
        return nn.Sequential(first, *[Sum(64, norm=True) for _ in range(24)])

    assert findings("GL103", build, 8, 64) == []


# ---- GL104 ------------------------------------------------------------------------------------------------------------


def stack(norm: type[nn.Module], depth: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(64, 64, bias=False), norm(64), nn.ReLU())])


def test_batchnorm_grows_the_gradient_as_its_mean_field_theory_says() -> None:
    (found,) = findings("GL104", stack(nn.BatchNorm1d, 60), 256, 64)
    assert found.evidence["log2_per_layer"] == pytest.approx(0.5 * math.log2(math.pi / (math.pi - 1)), abs=0.02)  # Yang 2019
    assert found.severity is Severity.ERROR
    assert found.evidence["layers_within_limit"] == pytest.approx(31, abs=2)


@pytest.mark.parametrize("depth", [13, 27])
def test_as_many_layers_as_are_in_common_use_pass(depth: int) -> None:
    assert findings("GL104", stack(nn.BatchNorm1d, depth), 256, 64) == []


# ---- GL105 ------------------------------------------------------------------------------------------------------------


def test_samples_collapse_as_they_do_in_reality() -> None:
    depth, width = 128, 512
    (found,) = findings("GL105", lambda: nn.Sequential(*[m for _ in range(depth) for m in (he(width), nn.ReLU())]), 8, width)
    torch.manual_seed(0)
    apart = []
    with torch.no_grad():
        for _ in range(6):
            x = torch.randn(32, width)
            for _ in range(depth - 1):
                x = torch.relu(he(width)(x))
            unit = x / x.norm(dim=1, keepdim=True)
            cosines = unit @ unit.T
            apart.append(1 - float(cosines[~torch.eye(32, dtype=torch.bool)].mean()))
    assert math.log2(float(found.evidence["measured"])) == pytest.approx(math.log2(sum(apart) / len(apart)), abs=0.5)
    assert found.severity is Severity.WARNING


class Attention(nn.Module):
    """Self-attention of every token on all, with or without its residual connection."""

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.attention, self.skip = nn.MultiheadAttention(width, 4, batch_first=True), skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.attention(x, x, x, need_weights=False)[0]
        return x + out if self.skip else out


def test_tokens_collapse_under_attention_without_skips() -> None:
    found = findings("GL105", lambda: nn.Sequential(*[Attention(64, skip=False) for _ in range(6)]), 2, 16, 64)
    assert any("positions" in f.message for f in found)  # Dong et al. 2021
    assert findings("GL105", lambda: nn.Sequential(*[Attention(64, skip=True) for _ in range(6)]), 2, 16, 64) == []


# ---- GL106 ------------------------------------------------------------------------------------------------------------


def narrow(width: int, depth: int = 30) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*[m for _ in range(depth) for m in (he(width), nn.ReLU())])


def spread(width: int, draws: int = 200) -> float:
    """Standard deviation over draws of log2 of the gradient's norm from end to end; draws that died are left out."""
    torch.manual_seed(0)
    logs = []
    for _ in range(draws):
        x = torch.randn(64, width, requires_grad=True)
        out = narrow(width)()(x)
        (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
        if float(grad.norm()) > 0:
            logs.append(math.log2(float(grad.norm())))
    return float(torch.tensor(logs).std())


def test_the_width_in_the_fix_brings_the_spread_to_its_limit() -> None:
    (found,) = findings("GL106", narrow(16), 64, 16)
    assert found.evidence["measured"] == pytest.approx(spread(16), rel=0.3)
    wider = int(re.search(r"→ (\d+)", found.fix)[1])
    assert spread(wider, 100) < float(found.evidence["expected"]) * 1.2
    assert findings("GL106", narrow(wider + 4), 64, wider + 4) == []


def test_the_variance_of_a_relu_stack_is_the_published_one() -> None:
    (found,) = findings("GL106", narrow(48, 80), 1, 48)
    assert found.evidence["variance_of_ln"] == pytest.approx(5 * 80 / 48, rel=0.2)  # Hanin 2018, to first order in 1/n


# ---- GL108 ------------------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Learned tokens that start at zero, in front of a norm that divides them by the root of its epsilon."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, 4, 32) * std)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)).mean(1))


def test_zeros_and_weights_in_front_of_a_norm_are_no_steep_start() -> None:
    def normed() -> nn.Module:
        first = nn.Linear(32, 64, bias=False)
        nn.init.normal_(first.weight, std=1e-4)  # the gradient is as large as the weight is small
        return nn.Sequential(first, nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    assert findings("GL108", lambda: Tokens(0.0), 8, 4, 32) == []
    assert findings("GL108", normed, 32, 32) == []
