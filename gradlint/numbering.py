"""Value numbering: which nodes of the graph have one value.

Two calls of one op on the same operands give the same tensor (Click 1995, doi:10.1145/207110.207154): ``f(x) * rsqrt(f(x).pow(2)
.mean(-1))`` calls ``f`` twice and is a norm all the same. In the recorded graph a tensor that was written in place is another
node, so the operands tell all; calls that draw random numbers are never the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from gradlint.ops import IDENTITY, POINTWISE, lookup
from gradlint.trace.graph import op_name, step

__all__ = ["first_of_value"]

_RANDOM = ("dropout", "attention", "rand", "bernoulli", "multinomial", "rrelu", "gumbel", "fractional", "normal_", "empty")
"""Parts of the names of ops that draw random numbers, or may."""


def first_of_value(graph: fx.Graph) -> Mapping[fx.Node, fx.Node]:
    """Every node that repeats an earlier one, with the first node that has its value."""
    first: dict[tuple[object, ...], fx.Node] = {}
    same: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if not _repeatable(node):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: same.get(n, n))
        key = node.target, step(node).grad, step(node).autocast, repr(args), repr(kwargs)  # nodes are represented by their names
        found = first.setdefault(key, node)
        if found is not node:
            same[node] = found
    return same


def _repeatable(node: fx.Node) -> bool:
    """A call of an op whose value its operands decide."""
    if node.op not in ("call_function", "call_method") or step(node).value is not None:
        return False
    name = op_name(node)
    try:
        known = lookup(node.target) is not None or node.target in POINTWISE or node.target in IDENTITY
    except TypeError:  # an unhashable target
        return False
    return known and not any(part in name for part in _RANDOM)
