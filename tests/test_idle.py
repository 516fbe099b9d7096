"""Parameters without a gradient: dead by symmetry, unused, or only waiting behind a zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint


def findings(build, inputs, code):
    report = gradlint.lint(build, inputs, verify=True)
    assert not report.failures
    assert report.ok
    return [f for f in report.findings if f.code == code]


def names(found):
    return sorted(place.name for finding in found for place in finding.claim.end)


class Attention(nn.Module):
    """Attention over learned projections, by hand or fused; keys turned by position or not."""

    def __init__(self, *, fused: bool = False, turned: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        nn.init.normal_(self.query.bias, std=0.1)  # else the turned key bias would have no gradient at first
        nn.init.normal_(self.query.weight, std=0.2)
        self.fused, self.turned = fused, turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(4, 12, 2, 16).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.turned:
            angle = torch.arange(12.0).unsqueeze(1) / torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).repeat(2)
            k = k * angle.cos() + torch.cat((-k[..., 8:], k[..., :8]), -1) * angle.sin()
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(-1, -2) / 4.0, -1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_the_bias_of_the_keys_is_dead(fused):
    found = findings(lambda: Attention(fused=fused), ["4,12,32"], "GL302")
    assert names(found) == ["key.bias"]
    assert found[0].verified == "verified"
    assert found[0].message.startswith("key.bias is a dead parameter: the ")


def test_the_bias_of_keys_that_turn_with_the_position_is_alive():
    assert findings(lambda: Attention(turned=True), ["4,12,32"], "GL302") == []


class Shifts(nn.Module):
    """A bias of its own in front of each norm; a norm's bias in front of the next; one that a rectifier keeps alive."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Parameter(torch.zeros(8))
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first, self.second, self.third = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.InstanceNorm2d(8)
        self.alive = nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.conv(x) + self.dead.view(1, -1, 1, 1)))
        return self.third(torch.relu(x + self.alive))


def test_a_shift_is_followed_to_the_norm_and_not_through_an_activation():
    found = findings(Shifts, ["4,3,8,8"], "GL302")
    assert names(found) == ["dead", "first.bias"]
    assert {f.verified for f in found} == {"verified"}


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()) for _ in range(48))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return x


def test_forty_eight_blocks_are_one_finding():
    (finding,) = findings(Blocks, ["8,16"], "GL302")
    assert finding.message.startswith("48 biases built here are dead parameters: the batch_norm behind")
    assert finding.instances == ("blocks.{0…47}.0.bias",)
    assert str(finding.severity) == "info"
    assert finding.location.path == __file__


class ZeroBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skip, self.branch, self.gate = nn.Linear(16, 16), nn.Linear(16, 16), nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.skip(x) + self.gate * torch.tanh(self.branch(x))


def test_a_parameter_that_waits_behind_a_zero_is_neither_dead_nor_unused():
    report = gradlint.lint(ZeroBranch, ["4,16"])
    assert {p.name: p.grad_rms for p in report.targets[0].parameters}["branch.weight"] == 0.0
    assert report.findings == ()


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.second, self.idle, self.seen = (nn.Linear(8, 8) for _ in range(4))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.rnn(self.body(x))[0]
        return x + self.seen(x).detach(), self.second(x)


def test_unused_is_what_no_output_depends_on():
    found = findings(Parts, ["2,3,8"], "GL303")
    assert names(found) == ["idle.bias", "idle.weight", "seen.bias", "seen.weight"]
    assert {f.verified for f in found} == {"verified"}
    assert {str(f.severity) for f in found} == {"info"}
