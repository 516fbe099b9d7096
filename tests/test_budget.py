"""GL190: what a project allows its models, beside what is known to fail."""

from __future__ import annotations

import math

import pytest
from torch import nn

import gradlint


def build(std=0.125, scale=1.0):
    def make():
        first = nn.Linear(128, 128, bias=False)
        second = nn.Linear(128, 128, bias=False)
        nn.init.normal_(first.weight, std=std)
        nn.init.normal_(second.weight, std=scale * 0.125)
        return nn.Sequential(first, nn.ReLU(), second)

    return make


def findings(model, **settings):
    return gradlint.lint(model, ["4,128"], select=["GL190"], **settings).findings


def test_without_a_budget_there_is_nothing_to_say():
    assert findings(build(std=10.0)) == ()


@pytest.mark.parametrize(("name", "limit", "std"), [("max-gain", 1.9, 0.25), ("min-gain", 0.8, 0.0625)])
def test_the_gain_is_held_against_its_limit(name, limit, std):
    """×√2 by the second layer, ×1/√2 by the ReLU, ×std·√128 by the first."""
    setting = name.replace("-", "_")
    gain = std * 128**0.5 * 2**0.5 * 2**-0.5
    (found,) = findings(build(std), **{setting: limit})
    assert found.evidence["measured"] == pytest.approx(gain, rel=0.01)
    assert found.evidence["expected"] == limit
    assert name in found.message
    assert findings(build(std), **{setting: gain * (1.02 if name == "max-gain" else 0.98)}) == ()


def test_headroom_is_counted_from_the_largest_entry():
    """The output's rms is 1000·√2, the largest of 512 entries near √(2 ln 512) = 3.5 times that: 3.7 bits are left of 65504."""
    model = build(scale=1000.0)
    (found,) = findings(model, fp16_headroom_bits=5.0)
    assert found.evidence["measured"] == pytest.approx(1000 * 2**0.5 * (2 * math.log(512)) ** 0.5, rel=0.02)
    assert "3.7 bits below" in found.message
    assert findings(model, fp16_headroom_bits=3.5) == ()
