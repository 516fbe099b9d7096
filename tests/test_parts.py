"""Parts: entries along an axis that are not exchangeable with one another keep their own laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradlint
from gradlint.moments import MAX_PARTS, Moments, cut, embed, energy, join, meet, piece
from gradlint.verification import compare, measure

small, large = Moments.iid((4, 2, 8), var=0.01), Moments.iid((4, 6, 8), mean=1.0, var=4.0)


def test_the_whole_is_the_average_of_its_parts() -> None:
    whole = join([small, large], 1)
    # (2·0.01 + 6·(4 + 1)) / 8
    assert whole.q == pytest.approx((2 * 0.01 + 6 * 5.0) / 8)
    assert whole.mean == pytest.approx(6 / 8)
    # pairs along the axis: both in the large part, 6·5 of 8·7, share mean² = 1
    assert whole.shared([1]) == pytest.approx(30 / 56)


def test_a_piece_has_the_law_of_the_part_it_lies_in() -> None:
    whole = join([small, large], 1)
    assert piece(whole, 1, 0, 2).q == pytest.approx(small.q)
    assert piece(whole, 1, 3, 5).q == pytest.approx(large.q)
    mixed = piece(whole, 1, 1, 4)
    assert mixed.q == pytest.approx((0.01 + 2 * 5.0) / 3)
    assert mixed.parts is not None
    assert mixed.parts.sizes == (1, 2)


def test_embedding_is_the_adjoint_of_a_piece() -> None:
    g = Moments.iid((4, 2, 8))
    back = embed(g, 1, 3, 8)
    assert energy(back) == pytest.approx(energy(g))
    assert piece(back, 1, 3, 5).q == pytest.approx(1.0)
    assert piece(back, 1, 0, 3).q == 0.0


def test_gradients_meet_part_by_part() -> None:
    first, last = embed(Moments.iid((4, 1, 8)), 1, 0, 8), embed(Moments.iid((4, 3, 8), var=2.0), 1, 5, 8)
    laws = cut(meet(first, last), 1, (1, 4, 3))
    assert [law.q for law in laws] == pytest.approx([1.0, 0.0, 2.0])


def test_views_that_keep_the_axis_keep_the_parts() -> None:
    whole = join([small, large], 1).permute((2, 1, 0)).scale(2.0)
    assert whole.parts is not None
    assert whole.parts.axis == 1
    assert [law.q for law in whole.parts.laws] == pytest.approx([4 * small.q, 4 * large.q])


def test_too_many_parts_are_merged_with_their_likest_neighbours() -> None:
    laws = [Moments.iid((4, 1, 8), var=1.0 + 0.001 * i) for i in range(20)] + [Moments.iid((4, 1, 8), var=100.0)]
    whole = join(laws, 1)
    assert whole.parts is not None
    assert len(whole.parts.laws) == MAX_PARTS
    assert whole.parts.laws[-1].q == pytest.approx(100.0)
    assert whole.q == pytest.approx(sum(law.q for law in laws) / len(laws))


class ClassToken(nn.Module):
    """A small token in front of large ones, pre-norm blocks, read out at the token: ViT."""

    def __init__(self, token_std: float, dim: int = 96, depth: int = 3) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * token_std)
        self.patch = nn.Linear(48, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth))
        self.attention = nn.ModuleList(nn.MultiheadAttention(dim, 4, batch_first=True) for _ in range(depth))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(dim, 192), nn.GELU(), nn.Linear(192, dim)) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x)], 1)
        for i, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            y = self.norms[2 * i](x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norm(x)[:, 0])


class DenseBlock(nn.Module):
    """Channels of different scales side by side in front of a BatchNorm: DenseNet."""

    def __init__(self, depth: int = 5, growth: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (i + 1)) for i in range(depth + 1))
        self.convs = nn.ModuleList(nn.Conv2d(growth * (i + 1), growth, 3, padding=1, bias=False) for i in range(depth))
        for i, conv in enumerate(self.convs):
            nn.init.normal_(conv.weight, std=0.3 ** (i + 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.norms[-1](x).mean((2, 3))


class LastStep(nn.Module):
    """The gradient of a sequence model that is read at one step only is zero at the others until attention spreads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        early = self.second(h[:, :4]).mean(1)
        return self.head(torch.tanh(self.second(h)[:, -1] + 3 * early))


class Causal(nn.Module):
    """Small embeddings and causal attention: the first positions average over few values, the last over many."""

    def __init__(self, dim: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(depth))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 0.03 * x
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in qkv(norm(x)).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
        return x


@pytest.mark.parametrize(
    ("build", "shape", "median", "p95"),
    [
        (lambda: ClassToken(0.02), "16,25,48", 0.1, 0.35),
        (lambda: ClassToken(3.0), "16,25,48", 0.1, 0.35),
        (DenseBlock, "8,3,16,16", 0.15, 0.4),
        (LastStep, "64,12,32", 0.08, 0.3),
        (Causal, "8,48,128", 0.1, 0.35),
    ],
    ids=["small class token", "large class token", "dense block", "last step", "causal"],
)
def test_gradients_agree_with_autograd(build: object, shape: str, median: float, p95: float) -> None:
    analysis = gradlint.analyze(build, [shape])  # type: ignore[arg-type]
    found = compare(analysis, measure(build, analysis.flowed.traced.inputs, seeds=12))  # type: ignore[arg-type]
    assert found.missing == ()
    assert found.gradient.median < median, found.gradient.worst(5)
    assert found.gradient.p95 < p95, found.gradient.worst(5)
    assert found.forward.p95 < 0.2, found.forward.worst(5)


def test_tokens_of_one_law_stay_together() -> None:
    """Halves that are put back side by side (rotary embeddings) are exchangeable: nothing needs to be kept apart."""
    x = Moments.iid((4, 8, 16))
    from gradlint.ops import Call, lookup

    cat = lookup(torch.cat)
    assert cat is not None
    assert cat.function(Call((4, 8, 32)), [x, Moments.iid((4, 8, 16))], -1).out.parts is None
    assert math.isclose(cat.function(Call((4, 8, 32)), [x, Moments.iid((4, 8, 16), var=3.0)], -1).out.q, 2.0)
