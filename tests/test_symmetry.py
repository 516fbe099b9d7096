"""Gradients that are zero because what follows takes a shift out again, and their neighbours that are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint


class Mixer(nn.Module):
    """``pool(norm(x)) − norm(x)`` in a branch: an average takes a constant out, one that counts zeros does not."""

    def __init__(self, *, zeros_count: bool) -> None:
        super().__init__()
        self.stem, self.head, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.GroupNorm(1, 16)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=zeros_count)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.norm(x)
        out: torch.Tensor = self.head(x + 0.1 * (self.pool(y) - y))
        return out


@pytest.mark.parametrize("zeros_count", [True, False])
def test_an_average_of_the_neighbours_minus_the_place_itself(zeros_count: bool) -> None:
    found = gradlint.verify(lambda: Mixer(zeros_count=zeros_count), (torch.randn(4, 3, 12, 12),), seeds=6)
    assert not found.comparison.zeros
    assert ("norm.bias" in {e.name for e in found.comparison.small}) is not zeros_count
    assert all(abs(e.bits) < 0.35 + 2 * e.noise for e in found.comparison.gradient.entries), found.comparison.gradient.worst(3)


class Attention(nn.Module):
    """Attention whose mask is gated by its input, from layers of their own: biases put together, an empty packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.relative = nn.Linear(32, 32), nn.Linear(8, 1), nn.Embedding(19, 4)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        n, t, d = x.shape
        gate = torch.sigmoid(self.gate(x.view(n, t, 4, 8))).transpose(1, 2)
        places = torch.arange(t)
        bias = gate * self.relative(places[:, None] - places + 9).permute(2, 0, 1)
        y = x.transpose(0, 1)
        layers = self.query, self.key, self.value
        weights = dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), (f.weight for f in layers), strict=True))
        out, _ = F.multi_head_attention_forward(
            y, y, y, d, 4, torch.empty(0), torch.cat([f.bias for f in layers]), None, None, False, 0.0, self.out.weight,
            self.out.bias, attn_mask=bias.reshape(n * 4, t, t), use_separate_proj_weight=True, **weights,
        )  # fmt: skip
        return out


def test_packed_biases_of_queries_keys_and_values_keep_their_own_gradients() -> None:
    found = gradlint.verify(Attention, (torch.randn(4, 10, 32),), seeds=6)
    assert found.report.targets[0].coverage.sampled == found.report.targets[0].coverage.opaque == {}
    assert [e.name for e in found.comparison.small if e.kind == "parameter"] == ["key.bias"]
    assert not found.comparison.zeros
    assert not found.comparison.missing
    assert all(abs(e.bits) < 0.45 + 2 * e.noise for e in found.comparison.gradient.entries), found.comparison.gradient.worst(3)
