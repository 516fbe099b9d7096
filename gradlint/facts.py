"""What was predicted about a model, by the names a user knows: places, parameters, modules, ops. Frozen, JSON-able, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradlint.comparison import Comparison, significant

__all__ = [
    "Coverage",
    "DepthFacts",
    "Hop",
    "Location",
    "ModuleFacts",
    "NodeFacts",
    "Page",
    "ParameterFacts",
    "RecurrenceFacts",
    "TargetReport",
    "placed",
]


@dataclass(frozen=True, order=True)
class Location:
    """A place in source code, counted from 1; ``library`` is the line of an installed package that it called, which did it."""

    path: str
    line: int
    column: int = 1
    library: Location | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True)
class ParameterFacts:
    """Prediction for one parameter. ``rms`` and ``grad_rms`` as defined in docs/how-it-works.md.

    A ``grad_rms`` of 0 says that no gradient arrives; None, that it has to pass an op that nothing is known about.
    ``grad_typical`` is the median over draws of the weights, ``grad_interval`` holds 80 % of them; None where they are not
    followed (behind ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``) and for an instance, whose weights are given.
    """

    name: str
    shape: tuple[int, ...]
    init: str
    rms: float
    grad_rms: float | None
    grad_typical: float | None = None
    grad_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModuleFacts:
    """Prediction for one module's output (its last call)."""

    name: str
    type: str
    location: Location | None
    rms: float | None
    grad_rms: float | None


@dataclass(frozen=True)
class NodeFacts:
    """Prediction for the output of one op."""

    name: str
    op: str
    module: str
    location: Location | None
    shape: tuple[int, ...]
    rms: float | None
    grad_rms: float | None


@dataclass(frozen=True)
class Page:
    """What a report tells of a rule.

    Args:
        severity: that of its findings unless they say otherwise.
        markdown: the whole page.
        path: of the file that it is written in; empty where that is not known.
    """

    code: str
    name: str
    severity: str
    summary: str
    markdown: str
    path: str = ""


@dataclass(frozen=True)
class Hop:
    """One step of the gradient's way from the output to the input.

    Args:
        node: the op in whose backward it is.
        module: the module that the op is in.
        cause: ``weights``, ``activation``, ``norm``, ``residual``, ``recurrence`` or ``other``.
        log2: bits of gradient norm gained in it.
        total_log2: bits gained from the output up to its end.
    """

    node: str
    module: str
    location: Location | None
    cause: str
    log2: float
    total_log2: float


@dataclass(frozen=True)
class Coverage:
    """How the ops were understood: by a formula, by sampling, or not at all. Values of the maps are call counts."""

    known: int
    sampled: Mapping[str, int] = field(default_factory=dict)
    opaque: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of op calls in the graph."""
        return self.known + sum(self.sampled.values()) + sum(self.opaque.values())

    def __str__(self) -> str:
        text = f"covered {self.total - sum(self.opaque.values())} of {self.total} ops"
        for label, ops in (("sampled", self.sampled), ("unknown", self.opaque)):
            if ops:
                text += f"; {label}: " + ", ".join(f"{op} ({n})" for op, n in sorted(ops.items()))
        return text

    def to_dict(self) -> dict[str, Any]:
        """The counts as the JSON report shows them."""
        return {
            "known": self.known,
            "sampled": dict(sorted(self.sampled.items())),
            "opaque": dict(sorted(self.opaque.items())),
        }


@dataclass(frozen=True)
class RecurrenceFacts:
    """One recurrence at the number of steps it is judged for.

    Args:
        module: dotted path; ``""`` is the model.
        cell: ``RNN_TANH``, ``RNN_RELU``, ``LSTM``, ``GRU``, or ``loop`` for anything else.
        along: ``sequence`` or ``depth``.
        parameters: used at every step, the recurrent matrix first.
        location: the line to blame: what wrote the recurrent matrix.
        steps: as configured or traced.
        log2_per_step: bits of gradient norm per step back, once it has settled.
        log2: over all steps.
        transient: the most by which it rises above its settled line, in bits.
        half_life: steps in which half of the gradient is lost; None where it is not lost.
    """

    module: str
    cell: str
    along: str
    parameters: tuple[str, ...]
    location: Location | None
    steps: int
    log2_per_step: float
    log2: float
    transient: float
    half_life: float | None

    def to_dict(self) -> dict[str, Any]:
        """The recurrence as the JSON report shows it."""
        return {
            "module": self.module,
            "cell": self.cell,
            "along": self.along,
            "parameters": list(self.parameters),
            "location": placed(self.location),
            "steps": self.steps,
            "log2_per_step": significant(self.log2_per_step),
            "log2": significant(self.log2),
            "transient": significant(self.transient),
            "half_life": significant(self.half_life),
        }


@dataclass(frozen=True)
class DepthFacts:
    """How the gradient grows over blocks that repeat.

    Args:
        blocks: their paths, with ``{}`` for the number: ``layers.{}``.
        count: how many there are.
        law: ``exponential``: each multiplies alike; ``algebraic``: L of them give a power of L + 1.
        rate: bits of gradient norm per block, or per doubling of L + 1.
        log2: bits over all.
        critical: the most blocks that stay within the limits of GL101 and GL102; None: any number does.
    """

    blocks: str
    count: int
    law: str
    rate: float
    log2: float
    critical: int | None

    def to_dict(self) -> dict[str, Any]:
        """The law as the JSON report shows it."""
        return {
            "blocks": self.blocks,
            "count": self.count,
            "law": self.law,
            "rate": significant(self.rate),
            "log2": significant(self.log2),
            "critical": self.critical,
        }


@dataclass(frozen=True)
class TargetReport:
    """All that is reported about one model.

    Args:
        inputs_origin: where the inputs come from: ``given``, ``guessed``, or the name of the model's attribute that has them.
        rung: how it was traced: ``real`` or ``hybrid``.
        gain_log2: gradient norm at the input over that at the output, in bits; None when no gradient gets there.
        verification: the prediction beside real backward passes; None where none were asked for.
        gain_typical_log2: the median of the gain over draws of the weights.
        gain_interval_log2: between these lie 80 % of the draws.
        path: the way that all gradient takes to the input; its bits add up to ``gain_log2``.
        recurrences: weights that act again and again on what they made.
        depths: blocks that repeat, and how the gradient grows with their number.
    """

    name: str
    location: Location | None
    inputs: tuple[str, ...]
    rung: str
    coverage: Coverage
    gain_log2: float | None = None
    parameters: tuple[ParameterFacts, ...] = ()
    modules: tuple[ModuleFacts, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    assumptions: tuple[str, ...] = ()
    verification: Comparison | None = None
    inputs_origin: str = "given"
    gain_typical_log2: float | None = None
    gain_interval_log2: tuple[float, float] | None = None
    path: tuple[Hop, ...] = ()
    recurrences: tuple[RecurrenceFacts, ...] = ()
    depths: tuple[DepthFacts, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The target as the JSON report shows it."""
        return {
            "name": self.name,
            "location": placed(self.location),
            "inputs": list(self.inputs),
            "inputs_origin": self.inputs_origin,
            "rung": self.rung,
            "gain_log2": significant(self.gain_log2),
            "gain_typical_log2": significant(self.gain_typical_log2),
            "gain_interval_log2": _interval(self.gain_interval_log2),
            "coverage": self.coverage.to_dict(),
            "assumptions": list(self.assumptions),
            "parameters": [
                {
                    "name": p.name,
                    "shape": list(p.shape),
                    "init": p.init,
                    "rms": significant(p.rms),
                    "grad_rms": significant(p.grad_rms),
                    "grad_typical": significant(p.grad_typical),
                    "grad_interval": _interval(p.grad_interval),
                }
                for p in self.parameters
            ],
            "modules": [
                {
                    "name": m.name,
                    "type": m.type,
                    "location": placed(m.location),
                    "rms": significant(m.rms),
                    "grad_rms": significant(m.grad_rms),
                }
                for m in self.modules
            ],
            "nodes": [
                {
                    "name": n.name,
                    "op": n.op,
                    "module": n.module,
                    "location": placed(n.location),
                    "shape": list(n.shape),
                    "rms": significant(n.rms),
                    "grad_rms": significant(n.grad_rms),
                }
                for n in self.nodes
            ],
            "path": [
                {
                    "node": h.node,
                    "module": h.module,
                    "location": placed(h.location),
                    "cause": h.cause,
                    "log2": significant(h.log2),
                    "total_log2": significant(h.total_log2),
                }
                for h in self.path
            ],
            "recurrences": [r.to_dict() for r in self.recurrences],
            "depths": [d.to_dict() for d in self.depths],
            "verification": None if self.verification is None else self.verification.to_dict(),
        }


def placed(location: Location | None) -> dict[str, Any] | None:
    """A location as the JSON report shows it."""
    return None if location is None else {"path": location.path, "line": location.line, "column": location.column}


def _interval(ends: tuple[float, float] | None) -> list[Any] | None:
    return None if ends is None else [significant(end) for end in ends]
