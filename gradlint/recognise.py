"""What must be recognised in the graph before moments are propagated.

An *elementwise cone* is a maximal piece of the graph that is one scalar function of one tensor.

``x·σ(x)``, ``x·(x > 0)``, a hand-written GELU, ``x + (round(x) − x).detach()``: treating their branches as independent
tensors is silently wrong (by 37 % for swish), so the piece is found first and evaluated as a whole, on a quadrature grid, with
the very functions the user called. What lies inside gets its own moments too.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from gradlint.moments import GRID, Array, Moments, Parts, along, carried, cut, join, product
from gradlint.ops.registry import IDENTITY, POINTWISE
from gradlint.trace.graph import step

__all__ = ["Cone", "Grid", "elementwise", "find_cones", "grid_of", "scalar_function", "shared_width"]

_ARITHMETIC = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "rsub": torch.rsub,
    "neg": torch.neg,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "masked_fill": torch.masked_fill,
}
_COMPARISONS = """
gt lt ge le eq ne greater less greater_equal less_equal not_equal logical_and logical_or logical_not logical_xor bitwise_and
bitwise_or bitwise_not bitwise_xor isnan isinf isfinite
"""
_ARITHMETIC.update((name, getattr(torch, name)) for name in _COMPARISONS.split())
_BY_FUNCTION = {
    **{getattr(torch, name): function for name, function in _ARITHMETIC.items()},
    operator.add: torch.add,
    operator.sub: torch.sub,
    operator.mul: torch.mul,
    operator.truediv: torch.div,
    operator.neg: torch.neg,
    operator.gt: torch.gt,
    operator.lt: torch.lt,
    operator.ge: torch.ge,
    operator.le: torch.le,
    operator.and_: torch.logical_and,
    operator.or_: torch.logical_or,
    operator.invert: torch.logical_not,
    torch.where: torch.where,
}
_ARITHMETIC["where"] = torch.Tensor.where


@dataclass
class Cone:
    """A root and the ops that are scalar functions of it, in graph order."""

    root: fx.Node
    members: list[fx.Node] = field(default_factory=list)


def find_cones(graph: fx.Graph) -> dict[fx.Node, Cone]:
    """Every member node with its cone; roots are not members."""
    cones: dict[fx.Node, Cone] = {}
    by_root: dict[fx.Node, Cone] = {}
    for node in graph.nodes:
        if not elementwise(node):
            continue
        tensors = [n for n in node.all_input_nodes if not _is_scalar_constant(n)]
        roots = {cones[n].root if n in cones else n for n in tensors}
        same_shape = all(step(n).shape == step(node).shape for n in tensors)
        known = any(n not in cones and (step(n).value is not None or not step(n).floating) for n in tensors)
        if len(roots) != 1 or not same_shape or known:
            continue
        root = roots.pop()
        cone = by_root.setdefault(root, Cone(root))
        cone.members.append(node)
        cones[node] = cone
    return cones


def elementwise(node: fx.Node) -> bool:
    """A call that acts on every entry alone, on however many tensors."""
    return node.op in ("call_function", "call_method") and scalar_function(node) is not None and _of_entries(node)


def _of_entries(node: fx.Node) -> bool:
    """The result is a number, or true or false, for every entry."""
    return step(node).floating or step(node).dtype == "bool"


def scalar_function(node: fx.Node) -> Any:
    """What the node applies to every entry alone, as a function of tensors; None if it is no such op."""
    key = node.target
    try:
        if key in IDENTITY:
            return _identity
        if key in POINTWISE:
            return getattr(torch.Tensor, key) if isinstance(key, str) else key
        return _ARITHMETIC.get(key) if isinstance(key, str) else _BY_FUNCTION.get(key)
    except TypeError:  # an unhashable target
        return None


def _identity(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _is_scalar_constant(node: fx.Node) -> bool:
    """A known tensor whose entries are all one number (``zeros_like(x)``), and not drawn at random."""
    value = step(node).value
    if value is None or value.numel() == 0 or step(node).law is not None:
        return False
    return value.numel() == 1 or bool((value == value.reshape(-1)[0]).all())


class Grid:
    """A cone evaluated at ``mean + σz`` of its root.

    Args:
        cone: what to evaluate.
        root: moments of its root.
    """

    def __init__(self, cone: Cone, root: Moments) -> None:
        self._cone = cone
        self._root = root
        self._leaf = torch.tensor(self._points(), requires_grad=True)
        self._values: dict[fx.Node, torch.Tensor] = {cone.root: self._leaf}
        with torch.enable_grad():
            for node in cone.members:
                self._values[node] = self._evaluate(node)

    def _points(self) -> Array:
        return self._root.on_grid()

    def _evaluate(self, node: fx.Node) -> torch.Tensor:
        def concrete(x: Any) -> Any:
            if not isinstance(x, fx.Node):
                return x
            if x in self._values or (value := step(x).value) is None:
                return self._values.get(x, x)
            number = value.reshape(-1)[0]
            return number if number.dtype == torch.bool else number.double()

        args = fx.node.map_aggregate(node.args, concrete)
        kwargs = fx.node.map_aggregate(node.kwargs, concrete)
        dropped: Mapping[str, Any] = {k: v for k, v in kwargs.items() if k not in ("inplace", "out")}
        out: torch.Tensor = scalar_function(node)(*args, **dropped)
        if step(node).floating and not out.is_floating_point():
            out = out.double()
        return out if step(node).grad else out.detach()

    @property
    def cone(self) -> Cone:
        """What is evaluated."""
        return self._cone

    @property
    def root(self) -> fx.Node:
        """The node that all members are functions of."""
        return self._cone.root

    def moments(self, node: fx.Node) -> Moments:
        """Law of a member's value; exact (not through the series) where it is an affine function of the root."""
        values = _finite(self._values[node].detach().numpy())
        line = self._line(values)
        return self._root.map(values) if line is None else self._root.scale(line[0]).shift(line[1])

    def affine(self, node: fx.Node) -> bool:
        """A member is a multiple of the root plus a number."""
        return self._line(_finite(self._values[node].detach().numpy())) is not None

    def gradient(self, tail: fx.Node, g: Moments, wanted: list[fx.Node]) -> dict[fx.Node, Moments]:
        """Moments of the gradient at the root and at members ``wanted``, from the gradient ``g`` at ``tail``."""
        nodes = [n for n in wanted if n is not tail and self._values[n].requires_grad]
        out = self._values[tail]
        if not out.requires_grad:
            return {}
        slopes: Any = torch.autograd.grad(out.sum(), [self._values[n] for n in nodes], retain_graph=True, allow_unused=True)
        arrived = self._at_root(tail, g)
        found = {}
        for n, slope in zip(nodes, slopes, strict=True):
            if slope is not None:
                slopes_at = _finite(slope.numpy())
                grad, at_root = self._times(arrived, slopes_at), n is self._cone.root
                if at_root and g.radial is not None and len(g.dims) > 1:
                    grad = replace(self._confined(grad, tail, g, slopes_at), radial=self._radial(tail, g, slopes_at))
                found[n] = grad if at_root else replace(grad, profile=None)
        return found

    def curve(self, node: fx.Node) -> tuple[Array, Array]:
        """A member's values and slopes on the root's grid."""
        values = self._values[node]
        if not values.requires_grad:
            return _finite(values.detach().numpy()), np.zeros_like(GRID.z)
        (slope,) = torch.autograd.grad(values.sum(), self._leaf, retain_graph=True)
        return _finite(values.detach().numpy()), _finite(slope.numpy())

    def _confined(self, grad: Moments, tail: fx.Node, g: Moments, slope: Array) -> Moments:
        """The gradient at the root where ``Σ g φ`` is known per channel: ``Σ g φ'`` has what φ' owes to φ from there.

        With ``φ' = α + βφ + rest`` a channel's sum contains ``β²(Σ g φ)²`` and not, as for an independent g, ``β² n q_g Var φ``.
        """
        phi = _finite(self._values[tail].detach().numpy())
        n = math.prod(size for d, size in enumerate(g.shape) if d != 1)
        if n < 2 or phi.shape != GRID.z.shape or g.radial is None:
            return grad
        phi = phi - GRID.weights @ phi
        variance = float(GRID.weights @ phi**2)
        beta = float(GRID.weights @ (phi * slope)) / variance if variance > 0.0 else 0.0
        change = beta**2 * (g.radial**2 - n * g.q * variance)
        now = grad.sum([d for d in range(len(g.dims)) if d != 1]).q
        v, channel = grad.v.copy(), grad.atoms(1)
        shared = max(change, -now) / (n * (n - 1))
        v[tuple(int(a in channel) for a in range(v.ndim))] += shared
        v[(1,) * v.ndim] -= shared
        return replace(grad, v=v)

    def _radial(self, tail: fx.Node, g: Moments, slope: Array) -> float:
        """``Σ g φ'(x) x = Σ g φ(x) + Σ g (x φ'(x) − φ(x))`` per channel; the last term is zero for a ReLU."""
        assert g.radial is not None  # noqa: S101  (asked for only then)
        rest = self._root.map(self._root.on_grid() * slope - _finite(self._values[tail].detach().numpy()))
        others = [d for d in range(len(g.dims)) if d != 1]
        return math.hypot(g.radial, product(replace(g, profile=None, radial=None), rest).sum(others).rms)

    def _at_root(self, tail: fx.Node, g: Moments) -> Moments:
        """The gradient at a member with its profile as a function of the root's grid."""
        if g.profile is None:
            return g
        values = _finite(self._values[tail].detach().numpy())
        if np.all(np.diff(values) >= 0):
            return g
        own = self.moments(tail)
        if own.var <= 0.0:
            return replace(g, profile=None)
        grid = own.on_grid()
        return replace(g, profile=g.profile.on(lambda f: np.interp(values, grid, f)))

    def _times(self, g: Moments, slope: Array) -> Moments:
        if np.ptp(slope) <= 1e-12 * np.abs(slope).max():
            out = g.scale(float(slope[0]))
            return out if slope[0] >= 0 else replace(out, profile=g.scale(-float(slope[0])).profile)  # on the root's grid already
        return along(g, self._root, slope)

    def _line(self, values: Array) -> tuple[float, float] | None:
        u = self._root.on_grid()
        if u[-1] == u[0]:
            return None
        slope = (values[-1] - values[0]) / (u[-1] - u[0])
        offset = values[0] - slope * u[0]
        fits = np.abs(values - slope * u - offset).max() <= 1e-9 * np.abs(values).max()
        return (float(slope), float(offset)) if fits else None


class _GridByParts(Grid):
    """One grid per part of the root's axis, beside that of the pooled law."""

    def __init__(self, cone: Cone, root: Moments, parts: Parts) -> None:
        super().__init__(cone, root)
        self._axis, self._sizes = parts.axis, parts.sizes
        self._grids = [Grid(cone, law) for law in parts.laws]
        self._pairs = None if parts.pairs is None else [Grid(cone, law) for law in parts.pairs]

    def moments(self, node: fx.Node) -> Moments:
        pairs = None if self._pairs is None else [grid.moments(node) for grid in self._pairs]
        return join([grid.moments(node) for grid in self._grids], self._axis, super().moments(node), pairs)

    def gradient(self, tail: fx.Node, g: Moments, wanted: list[fx.Node]) -> dict[fx.Node, Moments]:
        guides = super().gradient(tail, g, wanted)
        cuts = cut(g, self._axis, self._sizes)
        found = [grid.gradient(tail, mine, wanted) for grid, mine in zip(self._grids, cuts, strict=True)]
        return {n: carried(join([f[n] for f in found], self._axis, guide), guide) for n, guide in guides.items()}


class _GridOfValues(Grid):
    """A cone on real values: nothing needs a law."""

    def __init__(self, cone: Cone, root: Moments) -> None:
        self._shape = root.shape
        super().__init__(cone, root)

    def _points(self) -> Array:
        return np.asarray(self._root.value, dtype=np.float64).ravel()

    def moments(self, node: fx.Node) -> Moments:
        return Moments.of_array(_finite(self._values[node].detach().numpy()).reshape(self._shape))

    def gradient(self, tail: fx.Node, g: Moments, wanted: list[fx.Node]) -> dict[fx.Node, Moments]:
        if g.profile is not None:  # it depends on the values: on their law, where a profile is kept
            return Grid(self._cone, replace(self._root, value=None)).gradient(tail, g, wanted)
        return super().gradient(tail, g, wanted)

    def _times(self, g: Moments, slope: Array) -> Moments:
        return product(g, Moments.of_array(slope.reshape(self._shape)))


def grid_of(cone: Cone, root: Moments) -> Grid:
    """The cone evaluated on the law of its root, on each part's where it has parts, on its values where it has those."""
    if root.value is not None and root.var > 0:
        return _GridOfValues(cone, root)
    return Grid(cone, root) if root.parts is None else _GridByParts(cone, root, root.parts)


def _finite(values: Array) -> Array:
    """Outside the domain of a function (sqrt, log) the Gaussian tail takes the value at its edge."""
    good = np.isfinite(values)
    if good.all() or not good.any():
        return values
    index = np.arange(len(values))
    return np.asarray(
        values[good][np.abs(index[:, None] - index[good]).argmin(1)]
        if good.sum() < 64
        else np.interp(index, index[good], values[good])
    )


def shared_width(node: fx.Node) -> int | None:
    """Width of the one tensor that an attention's keys and values are projections of, or None."""
    key, value = node.args[1], node.args[2]
    if not isinstance(key, fx.Node) or not isinstance(value, fx.Node):
        return None
    source = _projected(key)
    if source is None or source is not _projected(value):
        return None
    shape = step(source).shape
    return shape[-1] if shape else None


def _projected(node: fx.Node) -> fx.Node | None:
    """The tensor whose linear projection a node is, through reshapes and rotations; the node itself if none is found."""
    at = node
    for _ in range(32):
        inputs = at.all_input_nodes
        if any(n.op == "get_attr" and step(n).value is None and len(step(n).shape or ()) == 2 for n in inputs):
            return next((n for n in inputs if n.op != "get_attr"), None)
        live = [n for n in inputs if n.op != "get_attr" and (step(n).floating or step(n).shape is None)]
        if not live:
            return node
        at = live[0]
    return None
