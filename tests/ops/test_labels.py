"""Labels that are known: their law against that of the array itself, and what a classifier's last layer feels of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.moments import Moments
from gradlint.ops.labels import Labels


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 2), st.integers(0, 99))
def test_counts_tell_what_the_array_would(rows: list[int], number: int, at: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    at = min(at, len(rows))
    classes, weights = draw.integers(0, number, rows), draw.random(rows) * (draw.random(rows) < 0.8)
    labels = Labels(classes, weights, number, at)
    hot = np.moveaxis(np.eye(number)[classes], -1, at) * np.expand_dims(weights, at)
    pull = 0.7 * (np.expand_dims(weights, at) / number - hot)
    for law, array in ((labels.hot(), hot), (labels.pull(0.7), pull)):
        assert law.dims == Moments.of_array(array).dims
        np.testing.assert_allclose(law.pairs(), Moments.of_array(array).pairs(), atol=1e-12)
        assert law.mean == pytest.approx(array.mean())


UNEVEN = torch.tensor([0] * 40 + [1] * 12 + [2] * 8 + [3] * 4)
EVEN = torch.arange(64) % 4
SOME = torch.where(torch.arange(64) % 3 > 0, UNEVEN, -100)
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0])
LOSSES: dict[str, Any] = {
    "plain": F.cross_entropy,
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
    "weighted": lambda z, y: F.cross_entropy(z, y, weight=WEIGHT.to(z.dtype)),
    "summed": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "by hand": lambda z, y: F.cross_entropy(z, y, reduction="none").mean(),
    "soft": lambda z, y: F.cross_entropy(z, F.one_hot(y.clamp(min=0), 4).to(z.dtype)),
    "log-likelihood": lambda z, y: F.nll_loss(F.log_softmax(z, -1), y),
    "pixels": lambda z, y: F.cross_entropy(z.reshape(8, 8, 4).transpose(1, 2), y.reshape(8, 8)),
}


class Classifier(nn.Module):
    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.body, self.head, self.loss = nn.Sequential(nn.Linear(32, 128), nn.ReLU()), nn.Linear(128, 4), loss

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.loss(self.head(self.body(x)), labels)
        return out


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [UNEVEN, EVEN, SOME], ids=["uneven", "even", "some ignored"])
def test_a_classifier_feels_how_its_labels_are_distributed(loss: str, labels: torch.Tensor) -> None:
    if loss == "soft":
        labels = labels.clamp(min=0)
    found = gradlint.verify(lambda: Classifier(LOSSES[loss]), (torch.randn(64, 32), labels), seeds=8).comparison
    assert not found.missing
    assert all(abs(e.bits) < 0.3 + 2 * e.noise for e in found.gradient.entries), found.gradient.entries


def test_labels_that_were_drawn_stand_for_any() -> None:
    """The seed of the labels that were traced is no part of the verdict: it is that of independent draws."""
    found = gradlint.verify(lambda: Classifier(F.cross_entropy), ["x:64,32", "labels:int64<4:64"], seeds=40).comparison
    assert all(abs(e.bits) < 0.2 + 2 * e.noise for e in found.gradient.entries), found.gradient.entries
