"""What the interpreter has found so far, as the covariances read it: values, gradients, and how every call was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from gradlint.covary.repeats import Repeats
from gradlint.gathered import Gathered
from gradlint.handwritten import Norm
from gradlint.moments import GRID, Array, Moments
from gradlint.ops import IDENTITY, Call, Op, lookup
from gradlint.recognise import Cone, Grid
from gradlint.trace.graph import step

__all__ = ["Curve", "Ledger", "Record"]


@dataclass(eq=False)
class Record:
    """One call that a formula answered.

    Args:
        op: its transfer function; None for an identity.
        call: as the transfer function saw it.
        args: its arguments, tensors as handles.
        kwargs: likewise.
        inputs: every handle with the node (or the leaf's parameter) that it stands for.
    """

    op: Op | None
    call: Call
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Mapping[Moments, fx.Node | str]

    @property
    def name(self) -> str:
        """Of the transfer function."""
        return "identity" if self.op is None else self.op.name

    @cached_property
    def handles(self) -> list[Moments]:
        """The tensors among the arguments, in their order: a *slot* is a position in this list."""
        return list(self.inputs)

    def node(self, handle: Any) -> fx.Node | None:
        """The node that a handle stands for; None for anything else."""
        found = self.inputs.get(handle) if isinstance(handle, Moments) else None
        return found if isinstance(found, fx.Node) else None

    @cached_property
    def signature(self) -> str:
        """Equal for calls of one function that differ in their tensors only."""

        def shown(x: Any) -> Any:
            if isinstance(x, Moments):
                return "tensor", x.shape, x.value is None
            if isinstance(x, list | tuple):
                return [shown(y) for y in x]
            return repr(x)

        return repr((self.name, self.call.shape, shown(self.args), [(k, shown(v)) for k, v in sorted(self.kwargs.items())]))

    def rebuilt(self, new: Mapping[Moments, Moments]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other laws for the tensors."""

        def swap(x: Any) -> Any:
            return new.get(x, x) if isinstance(x, Moments) else x

        args, kwargs = fx.node.map_aggregate(self.args, swap), fx.node.map_aggregate(dict(self.kwargs), swap)
        return args, kwargs


@dataclass(frozen=True)
class Curve:
    """A scalar function of its cone's root and its derivative: values on the grid and their Hermite coefficients.

    Args:
        values: φ.
        slopes: φ'.
        root: coefficients of the root itself.
    """

    values: tuple[Array, Array]
    slopes: tuple[Array, Array]
    root: Array

    @property
    def slope(self) -> float:
        """``E φ'``, which a gradient is multiplied by on average."""
        return float(self.slopes[1][0])

    @property
    def regression(self) -> float:
        """``cov(φ(u), b)/cov(u, b)``, the ratio of first coefficients: ``E φ'`` where u is Gaussian (Stein 1981)."""
        return float(self.values[1][1] / self.root[1]) if self.root[1] else 0.0

    @property
    def affine(self) -> bool:
        """φ' is constant."""
        slopes = self.slopes[0]
        return bool(slopes.max() - slopes.min() <= 1e-12 * abs(slopes).max())


@dataclass
class Ledger:
    """See the module; the interpreter fills the mappings, the covariances read them.

    Args:
        graph: the model's.
        drawn: parameter name to the first parameter with the same random values; parameters with constant values are absent.
        gathered: the gradients, with their units.
        weights: nodes that are made of parameters and constants alone.
    """

    graph: fx.Graph
    drawn: Mapping[str, str]
    values: Mapping[fx.Node, Any]
    gathered: Gathered[fx.Node]
    grids: Mapping[fx.Node, Grid]
    cones: Mapping[fx.Node, Cone] = field(default_factory=dict)
    norms: Mapping[fx.Node, Norm] = field(default_factory=dict)
    records: dict[fx.Node, Record] = field(default_factory=dict)
    order: dict[fx.Node, int] = field(default_factory=dict)
    weights: set[fx.Node] = field(default_factory=set)
    _curves: dict[fx.Node, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grads: Mapping[fx.Node, Any] = self.gathered.grads
        self.repeats = Repeats(self.graph, self.drawn)

    def found(self, cones: Mapping[fx.Node, Cone], norms: Mapping[fx.Node, Norm]) -> None:
        """What was recognised in the graph."""
        self.cones, self.norms = cones, norms

    def enter(self, node: fx.Node) -> None:
        """The interpreter has a value for ``node``."""
        self.order[node] = len(self.order)
        facts = step(node)
        looked_up = facts.shape is not None and not facts.floating  # ids: what they pick is data
        if node.op != "placeholder" and not looked_up and all(n in self.weights for n in node.all_input_nodes):
            self.weights.add(node)

    def called(self, node: fx.Node, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any],
               inputs: Mapping[Moments, fx.Node | str]) -> None:  # fmt: skip
        """A formula answered the call of ``node``."""
        op = None if node.op == "call_module" or node.target in IDENTITY else lookup(node.target)
        if node.op != "call_module":
            self.records[node] = Record(op, call, args, kwargs, inputs)

    def root(self, node: fx.Node) -> fx.Node | None:
        """The root of the cone that a node is a member of; None for functions of real values."""
        cone = self.cones.get(node)
        if cone is None or cone.root not in self.grids or self.values[cone.root].value is not None:
            return None  # of a tensor whose values are known, functions are evaluated there and not on a grid
        return cone.root

    def curve(self, node: fx.Node) -> Curve:
        """A member of a cone as a function of its root."""
        if node not in self._curves:
            values, slopes = self.grids[self.cones[node].root].curve(node)
            root = GRID.coefficients(self.values[self.cones[node].root].on_grid())
            self._curves[node] = Curve((values, GRID.coefficients(values)), (slopes, GRID.coefficients(slopes)), root)
        return self._curves[node]
