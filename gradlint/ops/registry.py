"""The one table of transfer functions.

A transfer function states both directions of an op in one body: from the moments of its inputs it returns the moments of its
output and a function from the output gradient's moments to the inputs':

    @transfer(torch.mul, "mul")
    def mul(call: Call, x: Moments, y: Moments) -> Flow:
        return Flow(product(x, y), lambda g: {x: product(g, y).fold(x.shape), y: product(g, x).fold(y.shape)})

It is called with the arguments of the traced call, tensors replaced by their :class:`Moments`. A *pointwise* op needs no body: it
is evaluated on a quadrature grid (see ``gradlint.recognise``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradlint.moments import Array, Moments
from gradlint.ops.apart import Planner

__all__ = [
    "IDENTITY",
    "POINTWISE",
    "TABLE",
    "Call",
    "Flow",
    "Gradients",
    "Op",
    "Returned",
    "check",
    "identity",
    "lookup",
    "pointwise",
    "transfer",
]

Gradients = Mapping[Moments, Moments]


@dataclass(frozen=True)
class Call:
    """What a transfer function knows of the traced call besides its arguments.

    Args:
        shape: of the output; None when it returns several tensors.
        options: of a leaf recurrent module, its attributes (``hidden_size``, ``bidirectional`` …).
        parameters: of a leaf recurrent module, the moments of its parameters by local name.
        given: the names of those that are known by their values, not by the law that they were drawn from.
        shared_width: of an attention whose keys and values are projections of one tensor: the width of that tensor.
        drawn: of a loss: its labels stand for any, drawn with the inputs.
    """

    shape: tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Moments] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    shared_width: int | None = None
    drawn: bool = False


_NEAR = 100
"""Gradients between 2 to the power of minus this and of this need no unit."""


class Returned(dict[Moments, Moments]):
    """Gradients that a call sends back over many steps, some of them outside the range of floats.

    ``units``: every gradient stands for itself times ``2^unit``. ``trail``: log2 of the root mean square of the gradient at the
    input, step by step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units: dict[Moments, int] = {}
        self.trail: Array = np.zeros(0)

    def put(self, handle: Moments, grad: Moments, unit: int) -> None:
        """A gradient times ``2^unit``."""
        near = abs(unit) < _NEAR
        self[handle], self.units[handle] = grad.scale(2.0**unit) if near and unit else grad, 0 if near else unit

    def near(self, handle: Moments) -> Moments:
        """A gradient as it is; zero where it is too small for a float."""
        return self[handle].scale(2.0 ** self.units[handle])

    def move(self, old: Moments, new: Moments, change: Callable[[Moments], Moments]) -> None:
        """Under another handle, changed."""
        self.put(new, change(self.pop(old)), self.units.pop(old))


@dataclass(frozen=True)
class Flow:
    """Both directions of one call.

    Args:
        out: moments of the output (a tuple where the op returns one; None for members that carry no moments).
        back: from the moments of the output's gradient to those of the inputs, keyed by the input's ``Moments`` object.
            For a tuple output it gets a tuple, None where no gradient arrives.
    """

    out: Any
    back: Callable[[Any], Gradients]


@dataclass(frozen=True)
class Op:
    """A registered transfer function and the targets it serves; ``apart`` says how a call falls into parts of an axis."""

    name: str
    function: Callable[..., Flow]
    targets: tuple[Any, ...]
    apart: Planner | None = None


TABLE: dict[Any, Op] = {}
"""Target (a callable, or the name of a tensor method) to transfer function."""

POINTWISE: dict[Any, str] = {}
"""Targets that act on every entry alone: the function itself is the formula."""

IDENTITY: dict[Any, str] = {}
"""Targets that return their first argument unchanged in value."""


def transfer(*targets: Any, apart: Planner | None = None) -> Callable[[Callable[..., Flow]], Callable[..., Flow]]:
    """Register a transfer function for ``targets``; a target already taken is a ``ValueError`` that names the other one.

    Args:
        apart: how a call falls into the parts of an axis; None: its result has none.
    """

    def register(function: Callable[..., Flow]) -> Callable[..., Flow]:
        op = Op(function.__name__.strip("_"), function, targets, apart)
        for target in dict.fromkeys(targets):  # torch gives some functions two homes
            if target in TABLE:
                raise ValueError(f"{target!r} already has the transfer function {TABLE[target].name!r}")
            TABLE[target] = op
        return function

    return register


def pointwise(name: str, *targets: Any) -> None:
    """Declare that ``targets`` act on every entry alone: the functions themselves are the formula."""
    POINTWISE.update(dict.fromkeys(targets, name))


def identity(name: str, *targets: Any) -> None:
    """Declare that ``targets`` return their first argument unchanged in value (casts, copies)."""
    IDENTITY.update(dict.fromkeys(targets, name))


def lookup(target: Any) -> Op | None:
    """The transfer function of a traced call's target, or None."""
    try:
        return TABLE.get(target)
    except TypeError:  # an unhashable target
        return None


def check(flow: Flow, call: Call) -> None:
    """That a formula gives moments, and of the right shape.

    Raises:
        ValueError: another shape than the call's, or infinite minus infinite, which is no number.
    """
    if not isinstance(flow.out, Moments):
        return
    if math.isnan(flow.out.q):
        raise ValueError("its moments are not numbers")
    if call.shape is not None and flow.out.shape != call.shape:
        raise ValueError(f"shape {flow.out.shape} where torch gives {call.shape}")
