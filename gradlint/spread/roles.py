"""What an op does to squared norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from torch import fx

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.ops import lookup
from gradlint.trace.graph import step

__all__ = ["Role", "Weight", "kurtosis", "role_of", "tensors", "weight_of"]


class Role(Enum):
    """See the package."""

    SCALAR = auto()
    NORM = auto()
    WEIGHTS = auto()
    PRODUCT = auto()
    QUOTIENT = auto()
    ATTENTION = auto()
    RECURRENT = auto()
    SHARES = auto()  # softmax: what is divided up is one
    PLAIN = auto()


_BY_NAME = {
    **dict.fromkeys(("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "unit_norm"), Role.NORM),
    **dict.fromkeys(("linear", "addmm", "baddbmm", "bilinear", "einsum_call", "matmul", "grouped_mm"), Role.WEIGHTS),
    **dict.fromkeys((f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)), Role.WEIGHTS),
    **dict.fromkeys(("rnn_tanh_cell", "rnn_relu_cell", "gru_cell", "lstm_cell"), Role.WEIGHTS),
    "multi_head_attention_forward": Role.WEIGHTS,
    "scaled_dot_product_attention": Role.ATTENTION,
    "softmax": Role.SHARES,
    "mul": Role.PRODUCT,
    "div": Role.QUOTIENT,
    **dict.fromkeys(("rnn", "gru", "lstm"), Role.RECURRENT),
}
_FIXED = ("constant", "identity")  # given values count as one draw: all that is known of them is their rms


@dataclass(frozen=True)
class Weight:
    """The random matrix of an op.

    Args:
        axis: of features, in the op's data.
        taps: entries that share one pair of input and output features.
        kurtosis: ``E w⁴/(E w²)²``.
        orthogonal: columns or rows are orthonormal.
    """

    axis: int
    taps: int
    kurtosis: float
    orthogonal: bool


def role_of(flowed: Flowed, node: fx.Node) -> Role:
    """Of a call."""
    if node.name in flowed.grids:
        return Role.SCALAR
    if node.name in flowed.norms:
        return Role.NORM
    target: Any = node.target
    if node.op == "call_module":
        target = type(flowed.traced.model.get_submodule(str(node.target)))
    op = lookup(target)
    role = Role.PLAIN if op is None else _BY_NAME.get(op.name, Role.PLAIN)
    if role is Role.WEIGHTS and weight_of(flowed, node) is None:
        fixed = any(n.op == "get_attr" for n in node.all_input_nodes)
        return Role.PLAIN if fixed else Role.PRODUCT
    if role in (Role.PRODUCT, Role.QUOTIENT) and len(tensors(flowed, node)) < 2:
        return Role.PLAIN
    return role


def tensors(flowed: Flowed, node: fx.Node) -> list[tuple[fx.Node, Moments]]:
    """The floating-point inputs of a call with their laws; the first of several."""
    found = []
    for n in node.all_input_nodes:
        value = flowed.forward.get(n.name)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, Moments) and (step(n).floating or step(n).shape is None):
            found.append((n, value))
    return found


def weight_of(flowed: Flowed, node: fx.Node) -> Weight | None:
    """The drawn matrix among the inputs of a call; None where there is none (its values are known, or constant)."""
    for n in node.all_input_nodes:
        if n.op != "get_attr" or step(n).value is not None:
            continue
        record = flowed.traced.parameters[str(n.target)]
        if len(record.shape) < 2 or record.law.kind in _FIXED or record.law.std <= 0.0:
            continue
        op = lookup(node.target)
        conv = op is not None and op.name.startswith("conv")
        taps = math.prod(record.shape[2:]) if conv else 1
        return Weight(1 if conv else -1, taps, kurtosis(record.law.kind), record.law.kind == "orthogonal")
    return None


def kurtosis(kind: str) -> float:
    """``E w⁴/(E w²)²`` of a draw of a law of mean zero."""
    return {"uniform": 1.8, "constant": 1.0, "identity": 1.0}.get(kind, 3.0)
