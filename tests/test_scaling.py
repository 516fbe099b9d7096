"""Work grows in proportion to the number of layers, and no layer needs a frame of its own."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import gradlint
from gradlint.analysis import Analysis
from gradlint.flow import propagate
from gradlint.paths import find_paths
from gradlint.trace import build, parse_input, recording, trace


def convolutions(depth):
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + torch.relu(layer(norm(x)))
        return x


class Shared(nn.Module):
    """One layer again and again."""

    def __init__(self, depth):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.depth = depth

    def forward(self, x):
        for _ in range(self.depth):
            x = torch.tanh(self.layer(x))
        return x


def calls(function):
    """Number of calls, of Python and of C functions, that ``function`` makes."""
    count = 0

    def event(_frame, kind, _arg):
        nonlocal count
        count += kind in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(event)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def work(make, text, depth):
    """Calls made by trace, flow and paths for one depth."""
    with recording() as laws:
        model = build(lambda: make(depth))

    def analyse():
        analysis = Analysis.of(propagate(trace(model, [parse_input(text)], laws=laws)))
        find_paths(analysis)
        assert analysis.nodes

    return calls(analyse)


@pytest.mark.parametrize(
    ("make", "text", "depths", "powers"),
    [
        (convolutions, "2,3,6,6", (30, 120), (0.8, 1.05)),
        (Residual, "4,6", (30, 120), (0.8, 1.05)),
        (Shared, "4,6", (40, 160), (0.3, 0.8)),  # steps that repeat the one before are filled in
    ],
)
def test_work_is_in_proportion_to_the_layers(make, text, depths, powers):
    work(make, text, 3)  # what is done once in a process
    few, many = (work(make, text, depth) for depth in depths)
    ratio = depths[1] / depths[0]
    least, most = powers
    assert ratio**least < many / few < ratio**most


def test_thousands_of_layers_need_no_frames_of_their_own():
    depth = sys.getrecursionlimit() + 100
    report = gradlint.lint(lambda: convolutions(depth), ["2,3,4,4"])
    assert report.targets[0].coverage.total == 2 * depth
    assert any(finding.code == "GL102" for finding in report.findings)
