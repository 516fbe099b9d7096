"""The traced model: an ``fx.Graph`` and what is known about each of its nodes, parameters and modules.

Node kinds in the graph:

* ``placeholder``: one per tensor of the inputs;
* ``get_attr``: a parameter (``target`` is its dotted name), or a constant (``Step.value`` is set): a buffer or any tensor
  that depends on no input and no parameter, evaluated while tracing;
* ``call_function`` / ``call_method``: the *outermost* torch call as the user wrote it (``F.linear``, ``"view"``), in-place
  calls renamed SSA-style (``add_`` is recorded as ``add``; the later readers use the new node);
* ``call_module``: a leaf ``nn.RNN``/``nn.LSTM``/``nn.GRU`` (``target`` is its dotted path);
* ``output``.

A call that returns several tensors is followed by ``operator.getitem`` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlint.errors import AnalysisError
from gradlint.moments import Moments

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from gradlint.findings import Location
    from gradlint.trace.arguments import Arguments
    from gradlint.trace.law import Law

__all__ = ["InputSpec", "ModuleRecord", "ParameterRecord", "Step", "Traced", "callable_of", "op_name", "place_of", "step"]

_KEY = "gradlint"


@dataclass(frozen=True)
class Step:
    """What is known about one node.

    Args:
        shape: of the output tensor; None when the node yields no single tensor.
        dtype: such as ``"float32"``; None with ``shape``.
        module: dotted path of the innermost module whose forward made the call; ``""`` is the model itself.
        location: the user's line that made the call.
        grad: autograd would record this call (grad mode on, not detached).
        value: the real tensor of a constant, else None.
        scalar: the number a floating-point tensor of one entry had in this run; means something where no input enters it.
        law: of a constant whose entries were drawn at random while tracing (a dropped path's mask), or of an input of which more
            is known than that it is random; else None.
        autocast: the dtype that ``torch.autocast`` gave matrix products where the call was made; None outside of it.
    """

    shape: tuple[int, ...] | None
    dtype: str | None
    module: str
    location: Location | None
    grad: bool = True
    value: torch.Tensor | None = None
    law: Law | None = None
    scalar: float | None = None
    autocast: str | None = None

    @property
    def floating(self) -> bool:
        """The output is a floating-point tensor."""
        return self.dtype is not None and ("float" in self.dtype)

    @property
    def is_known(self) -> bool:
        """:meth:`constant` has what to tell: a law, values, or that there are none that gradients would feel."""
        return self.law is not None or self.value is not None or not self.floating

    def constant(self) -> Moments:
        """The law of a constant: what it was drawn from in the forward (a drop-path mask, noise), else its real values."""
        if self.law is not None:
            return self.law.moments
        value = self.value
        if value is None:
            raise AnalysisError("a constant without a value")
        array = (value.detach().double() if value.is_floating_point() else value.detach()).cpu().numpy()
        return Moments.of_table(array) if value.is_floating_point() else Moments.of_array(array)

    @property
    def differentiable(self) -> bool:
        """The output is a tensor of a kind that can have a gradient."""
        return self.floating or (self.dtype is not None and "complex" in self.dtype)


@dataclass(frozen=True)
class ParameterRecord:
    """One parameter.

    Args:
        names: every name it is reachable by (tied weights), the first is canonical.
        drawn_with: canonical name of the first parameter that starts with the same random values (a copied layer); its own
            if there is none before it.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    law: Law
    location: Location | None
    drawn_with: str = ""

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.names[0]


@dataclass(frozen=True)
class ModuleRecord:
    """One module that was called.

    Args:
        output: name of the node that made its first floating-point output at its last call; None if it made none.
        constructed: the user's line that constructed it.
        called: the user's line that called it last.
    """

    path: str
    type: str
    output: str | None
    constructed: Location | None
    called: Location | None


@dataclass(frozen=True)
class InputSpec:
    """One input tensor: its argument name, shape, dtype, and for integers the exclusive upper bound of its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    high: int | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Traced:
    """A model's forward, recorded.

    Args:
        graph: see the module docstring.
        model: the module itself, for its structure and RNN leaves; its forward is not run again.
        arguments: what it was run on.
        output: name of the node of the first floating-point output tensor.
        rung: how it was traced: ``"real"``, or ``"hybrid"`` (large weights, and what is computed from them, have no values).
        assumptions: values that had to be assumed, each with its source line.
        chance: with other random numbers forward might have done something else.
        realise: gives the model's parameters values, where they have none yet.
    """

    graph: fx.Graph
    model: nn.Module
    parameters: Mapping[str, ParameterRecord]
    modules: Mapping[str, ModuleRecord]
    arguments: Arguments
    output: str
    location: Location | None
    rung: str = "real"
    assumptions: tuple[str, ...] = ()
    chance: bool = False
    realise: Callable[[], None] = lambda: None

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The tensors among the arguments, in the order of the placeholders."""
        return self.arguments.specs


def step(node: fx.Node) -> Step:
    """The :class:`Step` of a node (KeyError if the recorder did not make it)."""
    found: Step = node.meta[_KEY]
    return found


def annotate(node: fx.Node, facts: Step) -> None:
    """Attach a :class:`Step`; the recorder is the only caller."""
    node.meta[_KEY] = facts


def place_of(node: fx.Node) -> str:
    """The user's line that made a call, else its module."""
    facts = step(node)
    return str(facts.location) if facts.location else f"{facts.module or 'model'} ({node.name})"


def op_name(node: fx.Node) -> str:
    """What a node calls, by its own name: ``linear``, ``view``, the class of an ``autograd.Function``."""
    if isinstance(node.target, str):
        return node.target
    name: str = getattr(node.target, "__name__", str(node.target))
    name = name.partition(".")[0]  # aten operators: without their overload
    return getattr(getattr(node.target, "__self__", None), "__name__", name) if name == "apply" else name


def callable_of(node: fx.Node) -> Any:
    """What a node calls, as a function of its arguments."""
    if node.op == "call_method":
        name = str(node.target)
        return lambda self, *args, **kwargs: getattr(self, name)(*args, **kwargs)
    return node.target
