"""What a stretch of the spine does to the gradient, by a name that a user knows."""

from __future__ import annotations

from torch import fx

from gradlint.trace.graph import op_name, step
from gradlint.trace.names import CONVOLUTIONS, NORMS, PRODUCTS

__all__ = ["NEUTRAL", "cause_of"]

NEUTRAL = frozenset({"other", "scale", "pooling"})
"""Causes that are nobody's layer: what they multiply the gradient by, no weight or activation makes."""

_WEIGHTED = frozenset({"linear", "addmm"}) | CONVOLUTIONS
_PRODUCTS = PRODUCTS | {"bilinear"}
_SUMS = ("add", "iadd", "sub", "isub", "rsub", "lerp", "addcmul")
_SCALES = ("mul", "imul", "multiply", "div", "divide", "truediv", "itruediv", "neg")
_MEANS = ("mean", "sum", "amax", "max", "logsumexp")
_JOINS = ("cat", "concat", "stack", "hstack", "vstack")
_FLAT = ("view", "reshape", "clone", "contiguous", "to", "float", "getitem", "permute", "transpose", "flip", "roll", "dropout",
         "softmax")  # fmt: skip


def cause_of(node: fx.Node, *, several: bool) -> str:
    """The cause of a stretch whose gradient enters at ``node``.

    Args:
        several: it has more than one path, and so begins with the op that joins them on the way forward.

    Returns:
        ``weights``, ``activation``, ``norm``, ``residual`` (a sum), ``concatenation``, ``attention``, ``gate`` (a product),
        ``pooling``, ``scale``, ``branches`` or ``other``.
    """
    op = op_name(node)
    if several:
        return _joined(op)
    if op in _WEIGHTED or (op in _PRODUCTS and any(n.op == "get_attr" for n in node.all_input_nodes)):
        return "weights"
    if op in NORMS:
        return "norm"
    if "attention" in op:
        return "attention"
    if "pool" in op or op in _MEANS or "interpolate" in op:
        return "pooling"
    if op in _SCALES:
        return "scale"
    facts = step(node)
    inputs = [n for n in node.all_input_nodes if step(n).floating]
    if len(inputs) == 1 and step(inputs[0]).shape == facts.shape and op not in _FLAT and op not in _SUMS:
        return "activation"
    return "other"


def _joined(op: str) -> str:
    """The name of a region with several paths, by the op that joins them."""
    if op in _SUMS:
        return "residual"
    if op in _JOINS:
        return "concatenation"
    if "attention" in op or op in _PRODUCTS:
        return "attention"
    return "gate" if op in _SCALES else "branches"
