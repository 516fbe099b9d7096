"""Norms written by hand.

``x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)``, ``(x - mean) / (std + eps)``, a standardised weight: the statistic
is made of the very entries that it divides, so the pieces are not independent. There are too many ways to write it for
patterns; the piece of the graph between a tensor and a product is *evaluated* on random rows, and if what comes out is the
tensor over its root mean square (about zero or about its mean), it is that norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from gradlint.moments import Moments
from gradlint.numbering import first_of_value
from gradlint.ops import Call, Flow, by_parts
from gradlint.ops.apart import Plan
from gradlint.ops.norm import normalise
from gradlint.recognise import scalar_function
from gradlint.trace.graph import step

__all__ = ["Norm", "find_norms"]

_REDUCTIONS = {"mean", "sum", "var", "std", "norm", "vector_norm", "square"}
_DEPTH = 12
_LARGE, _SMALL, _TOLERANCE, _CLOSE = 1e4, 1e-12, 1e-6, 0.05


@dataclass(frozen=True)
class Norm:
    """A node that is ``factor · (x − mean?)/√(mean square + eps)`` of its root over ``dims``.

    ``repeats``: calls that the statistic is made of, equal to the root. The root is sent what arrives at all of them together.
    """

    root: fx.Node
    dims: tuple[int, ...]
    centred: bool
    eps: float
    factor: float
    repeats: tuple[fx.Node, ...] = ()

    def behind_statistic(self, at_root: Moments) -> Moments:
        """What arrives at one of the repeats, of n entries that share a statistic: a share 1/n of a direction."""
        n = math.prod(at_root.shape[d] for d in self.dims)
        return Moments.iid(at_root.shape, 0.0, at_root.q / max(n - 1, 1))

    def flow(self, call: Call, x: Moments) -> Flow:
        """Both directions."""

        def transfer(_: Call, y: Moments) -> Flow:
            inner = normalise(y, self.dims, self.eps, centred=self.centred)
            return Flow(inner.out.scale(self.factor), lambda g: inner.back(g.scale(self.factor)))

        def plan(_: Call, __: Any, ___: Any, y: Moments) -> Plan | None:
            kept = y.parts is not None and y.parts.axis not in self.dims
            return Plan(y.parts.axis, {y: y.parts.axis}) if kept and y.parts is not None else None

        return by_parts(plan, transfer, call, (x,), {}, transfer(call, x))


def find_norms(graph: fx.Graph) -> dict[fx.Node, Norm]:
    """Every node that ends a norm written by hand."""
    norms: dict[fx.Node, Norm] = {}
    position = {n: i for i, n in enumerate(graph.nodes)}
    same = first_of_value(graph)
    for node in graph.nodes:
        if _name(node) not in ("mul", "div", "truediv") or not step(node).floating or not step(node).grad:
            continue
        for root in _roots(node, position, same):
            found = _recognised(node, root, position, same)
            if found is not None:
                norms[node] = found
                break
    return norms


def _operands(node: fx.Node, same: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    """What a node is made of, each tensor by the first node that has its value."""
    return [same.get(n, n) for n in node.all_input_nodes]


def _roots(node: fx.Node, position: Mapping[fx.Node, int], same: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    """Tensors of the node's shape that all of it may be made of, the earliest first."""
    statistics = [n for n in node.all_input_nodes if step(n).shape != step(node).shape and step(n).value is None]
    if not statistics:
        return []
    seen: dict[fx.Node, int] = {}
    queue = [(n, 0) for n in _operands(node, same)]
    reduced = False
    for n, depth in queue:
        if n in seen or depth > _DEPTH:
            continue
        seen[n] = depth
        reduced = reduced or _name(n) in _REDUCTIONS
        if _member(n):
            queue += [(parent, depth + 1) for parent in _operands(n, same)]
    shape = step(node).shape
    full = [n for n in seen if step(n).shape == shape and step(n).floating and step(n).value is None]
    return sorted(full, key=position.__getitem__)[-_DEPTH:] if reduced else []


def _member(node: fx.Node) -> bool:
    return _name(node) in _REDUCTIONS or scalar_function(node) is not None


def _name(node: fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _recognised(node: fx.Node, root: fx.Node, position: Mapping[fx.Node, int], same: Mapping[fx.Node, fx.Node]) -> Norm | None:
    between = sorted(_between(root, node, same), key=position.__getitem__)
    if node not in between or not all(map(_member, between)):
        return None
    dims = _dims(between, root)
    if dims is None:
        return None
    shape = [n if d in dims else min(n, 2) for d, n in enumerate(step(root).shape or ())]
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    try:
        large, small = (_evaluate(between, root, rows * scale, same) for scale in (_LARGE, _SMALL))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    for centred in (True, False):
        about = rows - rows.mean(dims, keepdim=True) if centred else rows
        unit = about / about.square().mean(dims, keepdim=True).sqrt()
        factor = float((large * unit).sum() / unit.square().sum())
        if not math.isfinite(factor) or (large - factor * unit).abs().max() > _TOLERANCE * abs(factor):
            continue
        slope = float((small * about).sum() / about.square().sum()) / _SMALL
        eps = (factor / slope) ** 2 if slope else 0.0
        norm = Norm(root, dims, centred, eps if eps > _SMALL**1.5 else 0.0, factor)
        if _agrees(between, norm, about, same):  # a squashing function, such as x|x|/(1 + x²), has the same ends
            return _placed(norm, node, between, same)
    return None


def _placed(norm: Norm, node: fx.Node, between: list[fx.Node], same: Mapping[fx.Node, fx.Node]) -> Norm:
    """The norm with the call that is divided for its root, where the statistic is made of other calls of equal value."""
    alike = dict.fromkeys(n for m in between for n in m.all_input_nodes if same.get(n, n) is norm.root)
    direct, queue = norm.root, [node]
    for n in queue:
        if n in alike:
            direct = n
            break
        if _name(n) not in _REDUCTIONS - {"square"}:
            queue += n.all_input_nodes
    return replace(norm, root=direct, repeats=tuple(n for n in alike if n is not direct))


def _agrees(between: list[fx.Node], norm: Norm, about: torch.Tensor, same: Mapping[fx.Node, fx.Node]) -> bool:
    """A piece is that norm at a scale of one as well."""
    expected = norm.factor * about / (about.square().mean(norm.dims, keepdim=True) + norm.eps).sqrt()
    return bool((_evaluate(between, norm.root, about, same) - expected).abs().max() <= _CLOSE * expected.abs().max())


def _between(root: fx.Node, node: fx.Node, same: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """The nodes that ``node`` is made of, down to the root; more than that if the root is not enough."""
    needed: set[fx.Node] = set()
    queue = [node]
    while queue:
        n = queue.pop()
        if n is root or n in needed or _is_number(n):
            continue
        needed.add(n)
        if _member(n) and len(needed) <= 2 * _DEPTH:
            queue += _operands(n, same)
    return needed


def _is_number(node: fx.Node) -> bool:
    value = step(node).value
    return value is not None and value.numel() == 1


def _dims(between: list[fx.Node], root: fx.Node) -> tuple[int, ...] | None:
    """The axes that all reductions share."""
    rank = len(step(root).shape or ())
    found = set()
    for n in between:
        if _name(n) not in _REDUCTIONS - {"square"}:
            continue
        before, after = (step(m).shape or () for m in (n.all_input_nodes[0], n))
        if len(before) != rank or len(after) != rank:
            return None
        found.add(tuple(d for d in range(rank) if after[d] != before[d]))
    return found.pop() if len(found) == 1 else None


def _evaluate(between: list[fx.Node], root: fx.Node, rows: torch.Tensor, same: Mapping[fx.Node, fx.Node]) -> torch.Tensor:
    values: dict[fx.Node, Any] = {root: rows}

    def concrete(x: Any) -> Any:
        if not isinstance(x, fx.Node):
            return x
        x = same.get(x, x)
        return values[x] if x in values else step(x).value.double().reshape(())  # type: ignore[union-attr]

    for n in between:
        args = fx.node.map_aggregate(n.args, concrete)
        kwargs: Any = {k: v for k, v in fx.node.map_aggregate(n.kwargs, concrete).items() if k not in ("dtype", "out")}
        function = scalar_function(n)
        if function is None:
            function = getattr(torch.Tensor, n.target) if isinstance(n.target, str) else n.target
        values[n] = function(*args, **kwargs)
    out: torch.Tensor = values[between[-1]]
    return out
