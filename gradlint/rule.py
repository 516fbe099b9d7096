"""All that a rule may import.

A rule reads a :class:`Context` (what was predicted about one model) and yields findings. Its docstring is its page; its
thresholds come from :data:`LIMITS`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from torch import fx

from gradlint.analysis import Analysis
from gradlint.comparison import Claim, Place
from gradlint.config import Settings
from gradlint.findings import Confidence, Factor, Finding, Location, Severity
from gradlint.idle import Cancelled, cancelled, unused
from gradlint.moments import Moments
from gradlint.paths import Paths, Segment, find_paths
from gradlint.recipe import Recipe
from gradlint.recurrence import Curve, Recurrence
from gradlint.trace.graph import ParameterRecord, Step, op_name, step

__all__ = [
    "LIMITS",
    "Cancelled",
    "Claim",
    "Confidence",
    "Context",
    "Curve",
    "Factor",
    "Finding",
    "Limit",
    "Location",
    "Moments",
    "Paths",
    "Place",
    "Recipe",
    "Recurrence",
    "Rule",
    "Segment",
    "Severity",
    "bits",
    "collapse",
    "times",
]


@dataclass(frozen=True)
class Limit:
    """One threshold in bits of rms, with where it comes from."""

    warning: float
    error: float
    source: str


LIMITS: Mapping[str, Limit] = {
    "explode": Limit(9.0, 10.0, "published failures lie above 1e3, the largest healthy model at 3e2"),
    "vanish": Limit(-11.0, -13.3, "published failures lie below 1e-4; SGD fails near -5.5 bits, Adam near -13.5"),
    "layer_large": Limit(1.5, 3.0, "He et al. 2015: a layer should keep the variance; 1.5 bits is 8 times it"),
    "layer_small": Limit(-3.0, -5.0, "PyTorch's default weights give -2.8 bits with a sigmoid, the smallest in common use"),
    "layers_total": Limit(4.0, 10.0, "one deviating layer shifts a scale; several multiply"),
    "activation": Limit(-1.0, -2.0, "Eφ'² = 1/4: half of the gradient norm per layer; ReLU keeps 2^-0.5"),
    "activation_total": Limit(-6.0, -10.0, "a sigmoid tower of three layers"),
    "recurrence": Limit(5.0, 10.0, "Pascanu et al. 2013: growth is certain above radius 1; T·log2 of it is what training sees"),
}
"""Every threshold of the built-in rules, in bits of gradient norm."""


_SPREAD = 0.5  # bits; below, 80 % of the draws lie within a factor of 1.6 of the median


@dataclass(frozen=True)
class Context:
    """What a rule may know about one model.

    Args:
        analysis: the prediction.
        target: the model as the user named it.
        settings: of this run.
        recipe: what the training script says; None where none was named.
    """

    analysis: Analysis
    target: str
    settings: Settings = field(default_factory=Settings)
    recipe: Recipe | None = None

    @cached_property
    def paths(self) -> Paths:
        """Gains over the graph."""
        return find_paths(self.analysis)

    @cached_property
    def typical(self) -> float:
        """Bits by which the median end-to-end gain differs from the mean one; 0 where draws of the weights hardly differ."""
        scale = self.analysis.spreads.backward.get(self.paths.entry or "")
        return scale.spread.typical if scale is not None and scale.spread.bits > _SPREAD else 0.0

    def steps_of(self, recurrence: Recurrence) -> int:
        """How many steps a recurrence is judged for: those configured, where it runs along a sequence, else those traced."""
        length = self.settings.sequence_length_of(self.target) if recurrence.along == "sequence" else None
        return recurrence.steps if length is None else length

    def place_of(self, recurrence: Recurrence) -> Location | None:
        """The line to blame for a recurrence: what wrote its matrix, else what made its module."""
        return self.guilty_line(recurrence.parameters[0]) if recurrence.parameters else self.constructed(recurrence.module)

    @property
    def parameters(self) -> Mapping[str, ParameterRecord]:
        """Parameter records (law, source line) by canonical name."""
        return self.analysis.flowed.traced.parameters

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """Node name to what the tracer knows of it."""
        return {n.name: step(n) for n in self.analysis.flowed.traced.graph.nodes if n.op != "output"}

    @cached_property
    def leaves(self) -> Mapping[str, object]:
        """Leaf recurrent modules by node name."""
        traced = self.analysis.flowed.traced
        return {n.name: traced.model.get_submodule(str(n.target)) for n in traced.graph.nodes if n.op == "call_module"}

    def leaf_path(self, node: str) -> str:
        """Module path of a leaf recurrent module."""
        return str(self._node(node).target)

    def output_shape(self, node: str) -> tuple[int, ...] | None:
        """Shape of the first output of an op that returns several."""
        value = self.analysis.flowed.forward.get(node)
        first = value[0] if isinstance(value, tuple) else value
        return first.shape if isinstance(first, Moments) else None

    def by_any_name(self, name: str) -> ParameterRecord | None:
        """A parameter by any of its names."""
        return next((record for record in self.parameters.values() if name in record.names), None)

    def is_leaf(self, module: str) -> bool:
        """The module has no modules inside: it was constructed to do this one thing."""
        modules = self.analysis.flowed.traced.modules
        return bool(module) and not any(path.startswith(module + ".") for path in modules)

    def op(self, node: str) -> str:
        """The name of what a node calls."""
        return op_name(self._node(node))

    @cached_property
    def cancelled(self) -> tuple[Cancelled, ...]:
        """Parameters whose only effect is taken out again by what follows: their gradient is zero, always."""
        return tuple(cancelled(self.analysis.flowed))

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Trainable parameters from which no differentiable path leads to an output."""
        return unused(self.analysis.flowed.traced)

    @cached_property
    def unknown_ops(self) -> Mapping[str, bool]:
        """Name of each op that nothing is known about, with: a gradient has to pass it."""
        flowed = self.analysis.flowed
        passed = flowed.unknown.passed(flowed.how, flowed.backward)
        return {name: name in passed for name in flowed.unknown.reasons}

    def why_unknown(self, node: str) -> str:
        """Why nothing is known about an op."""
        return self.analysis.flowed.unknown.reasons[node]

    def _node(self, name: str) -> fx.Node:
        nodes: Iterable[fx.Node] = self.analysis.flowed.traced.graph.nodes
        return next(n for n in nodes if n.name == name)

    def forward(self, node: str) -> Moments | None:
        """Moments of a node's output."""
        value = self.analysis.flowed.forward.get(node)
        return value if isinstance(value, Moments) else None

    def constructed(self, module: str) -> Location | None:
        """The line that constructed a module, or the nearest module around it that has one."""
        modules = self.analysis.flowed.traced.modules
        while True:
            record = modules.get(module)
            if record is not None and record.constructed is not None:
                return record.constructed
            if not module:
                return self.analysis.flowed.traced.location
            module = module.rpartition(".")[0]

    def guilty_line(self, parameter: str) -> Location | None:
        """The user's initialiser call that wrote a parameter, else the line that constructed its module."""
        record = self.parameters[parameter]
        built = self.constructed(parameter.rpartition(".")[0]) or record.location
        written = record.law.location
        if written is None or built is None:
            return written or built
        return written

    @cached_property
    def confidence(self) -> Confidence:
        """How sure the prediction is: all ops by formula, some sampled, some unknown."""
        coverage = self.analysis.coverage
        if coverage.opaque:
            return Confidence.LOW
        return Confidence.MEDIUM if coverage.sampled else Confidence.HIGH

    def causes(self, segments: Sequence[Segment]) -> tuple[Factor, ...]:
        """Bits by cause, the largest first."""
        total: dict[str, float] = {}
        count: dict[str, int] = {}
        for s in segments:
            total[s.cause] = total.get(s.cause, 0.0) + s.log2
            count[s.cause] = count.get(s.cause, 0) + 1
        order = sorted(total, key=lambda c: (-abs(total[c]), c))
        return tuple(Factor(c, total[c], f"{count[c]} × {times(total[c] / count[c])}") for c in order if abs(total[c]) > 0.05)

    @cached_property
    def measurable(self) -> Mapping[str, Place]:
        """Node name to the tensor by which a real run knows it: a module's output, or a floating-point input."""
        traced = self.analysis.flowed.traced
        places = {r.output: Place("module", path) for path, r in traced.modules.items() if r.output is not None}
        given = (n.name for n in traced.graph.nodes if n.op == "placeholder")
        inputs = zip(given, traced.inputs, strict=True)
        return {**places, **{node: Place("input", spec.name) for node, spec in inputs if self.steps[node].floating}}

    def claim(self, segments: Sequence[Segment], log2: float) -> Claim | None:
        """That the gradient gains ``log2`` bits over a stretch of the spine: between the tensors around it that a real run sees.

        Args:
            segments: of :attr:`paths`, in its order.
        """
        spine = [self.paths.segments[0].start, *(s.end for s in self.paths.segments)]
        before = reversed(spine[: spine.index(segments[0].start) + 1])
        behind = (*spine[spine.index(segments[-1].end) :], *self.paths.entries)
        start = next((self.measurable[n] for n in before if n in self.measurable), None)
        end = next((self.measurable[n] for n in behind if n in self.measurable), None)
        return None if end is None else Claim((end,), log2, start)

    def worst_group(self, segments: Iterable[Segment], sign: int) -> list[Segment]:
        """Segments that share a source line and push most in one direction."""
        segments = list(segments)
        if any(s.cause == "weights" for s in segments):  # what an ordinary activation takes, its weights should give back
            segments = [s for s in segments if s.cause != "activation" or s.log2 <= LIMITS["activation"].warning]
        groups: dict[Location | None, list[Segment]] = {}
        for s in segments:
            groups.setdefault(self.blamed(s), []).append(s)
        located = {place: group for place, group in groups.items() if place is not None}
        if not located:
            return []
        return max(located.values(), key=lambda group: sign * sum(s.log2 for s in group))

    def blamed(self, segment: Segment) -> Location | None:
        """The line a segment is the doing of."""
        if segment.cause == "weights" and segment.parameter is not None:
            return self.guilty_line(segment.parameter)
        if segment.cause == "residual":  # the sum grows, not the layers in its branch
            return self.steps[segment.start].location
        if segment.parameter is not None:
            return self.constructed(segment.parameter.rpartition(".")[0])
        return self.constructed(segment.module) if self.is_leaf(segment.module) else self.steps[segment.start].location


class Rule(ABC):
    """One check. Subclass it in a module named after its code; nothing to register."""

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]

    @abstractmethod
    def check(self, context: Context) -> Iterable[Finding]:
        """Yield what is wrong with the model."""

    def finding(
        self,
        context: Context,
        location: Location | None,
        message: str,
        *,
        severity: Severity | None = None,
        module: str = "",
        evidence: Mapping[str, float | int | str] | None = None,
        factors: tuple[Factor, ...] = (),
        instances: Sequence[str] = (),
        notes: Sequence[str] = (),
        fix: str = "",
        claim: Claim | None = None,
    ) -> Finding:
        """A finding of this rule about this model."""
        return Finding(
            self.code,
            self.name,
            severity or self.severity,
            context.confidence,
            message,
            location,
            context.target,
            module,
            dict(evidence or {}),
            factors,
            tuple(instances),
            tuple(notes),
            fix,
            claim,
        )


def bits(gain: float) -> float:
    """log2."""
    return math.log2(gain)


def times(log2: float) -> str:
    """A gain in bits as the factor a reader knows: ``×4.3e5``."""
    if abs(log2) > 1000:
        return f"×2^{log2:.0f}"
    factor = 2.0**log2
    if 100 <= factor < 1e4:
        text = f"{factor:.0f}"
    elif 1e-3 <= factor < 100:
        text = f"{factor:.2g}"
    else:
        mantissa, _, exponent = f"{factor:.1e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return f"×{text}"


def collapse(names: Iterable[str]) -> str:
    """``blocks.0.fc, blocks.1.fc, …`` as ``blocks.{0…47}.fc``."""
    patterns: dict[str, list[int]] = {}
    for name in names:
        match = re.search(r"\d+", name)
        key = name if match is None else name[: match.start()] + "{}" + name[match.end() :]
        patterns.setdefault(key, []).append(-1 if match is None else int(match.group()))
    shown = []
    for key, numbers in patterns.items():
        if numbers == [-1] * len(numbers):
            shown.append(key)
        elif len(numbers) == 1:
            shown.append(key.replace("{}", str(numbers[0])))
        else:
            shown.append(key.replace("{}", f"{{{min(numbers)}…{max(numbers)}}}"))
    return ", ".join(shown)
