"""Run a recorded graph again, without the model's forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import fx

from gradlint.trace import Traced, step


def _replay(traced: Traced, inputs: Sequence[torch.Tensor], outputs: dict[str, Any] | None = None) -> Any:
    """What the graph returns; ``outputs`` receives what each node made, by its name, as it was made."""
    modules = dict(traced.model.named_modules())
    parameters = dict(traced.model.named_parameters())
    given = iter(inputs)
    values: dict[fx.Node, Any] = {}
    for node in traced.graph.nodes:
        facts = step(node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        lowered = facts.autocast is not None
        graded = torch.is_grad_enabled() and facts.grad
        with torch.set_grad_enabled(graded), torch.autocast("cpu", getattr(torch, facts.autocast or "bfloat16"), enabled=lowered):
            match node.op:
                case "placeholder":
                    values[node] = next(given)
                case "get_attr":
                    values[node] = parameters[node.target] if facts.value is None else facts.value
                case "call_function":
                    values[node] = node.target(*args, **kwargs)
                case "call_method":
                    values[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
                case "call_module":
                    values[node] = modules[node.target](*args, **kwargs)
                case "output":
                    return args[0]
        made = values[node]
        if isinstance(made, torch.Tensor):
            assert (facts.shape, facts.dtype) == (tuple(made.shape), str(made.dtype).removeprefix("torch.")), node
        else:
            assert facts.shape is None
        if outputs is not None:
            outputs[node.name] = made
    raise AssertionError("no output node")


@pytest.fixture
def replay() -> Callable[[Traced, Sequence[torch.Tensor]], Any]:
    return _replay
