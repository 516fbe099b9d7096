"""Every layer of ``torch.nn``: no op is unknown, formulas where there should be some, gradients as measured."""

from __future__ import annotations

import pytest
import torch
from layers import LAYERS
from torch import nn

import gradlint
from gradlint.trace import InputSpec
from gradlint.verification import compare, measure

# Containers, bases and option objects: nothing to run. SyncBatchNorm needs several processes.
WITHOUT = {
    "Container", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "RNNBase", "RNNCellBase", "Sequential",
    "LinearCrossEntropyOptions", "SyncBatchNorm",
}  # fmt: skip


def test_every_class_is_here() -> None:
    classes = {name for name in nn.modules.__all__ if isinstance(getattr(nn, name, None), type)}
    missing = classes - {name.partition("-")[0] for name in LAYERS} - WITHOUT
    assert not missing, f"add them to tests/ops/layers.py: {sorted(missing)}"


@pytest.mark.filterwarnings(
    "ignore:Lazy modules", "ignore:enable_nested_tensor", "ignore:Using padding='same'", "ignore:.*weight_norm"
)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    layer = LAYERS[name]
    torch.manual_seed(0)
    analysis = gradlint.analyze(layer.build, (torch.randn(layer.shape),))
    assert analysis.coverage.opaque == {}
    assert layer.sampled or analysis.coverage.sampled == {}
    found = compare(analysis, measure(layer.build, [InputSpec("x", layer.shape, "float32")], layer.seeds))
    assert not found.zeros
    assert found.gradient.median < layer.tolerance, found.gradient.worst(5)
    assert found.forward.median < layer.tolerance, found.forward.worst(5)
