"""What a rule may know about one model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import fx

from gradlint.analysis import Analysis
from gradlint.comparison import Claim, Place
from gradlint.config import Settings
from gradlint.dormant import Dormant, dormant, woken
from gradlint.evidence import (
    Evidence,
    Symptoms,
    find_symptoms,
)
from gradlint.findings import Confidence, Factor, Location
from gradlint.idle import Cancelled, cancelled, unused
from gradlint.limits import LIMITS
from gradlint.mitigation import Mitigation
from gradlint.moments import Moments
from gradlint.paths import Paths, Segment, find_paths
from gradlint.recipe import Recipe
from gradlint.recurrence import Recurrence
from gradlint.spread import Spread
from gradlint.trace.graph import ParameterRecord, Step, op_name, step
from gradlint.wording import times

__all__ = ["Context"]

_SPREAD = 0.5  # bits; below, 80 % of the draws lie within a factor of 1.6 of the median


@dataclass(frozen=True)
class Context:
    """What a rule may know about one model.

    Args:
        analysis: the prediction.
        target: the model as the user named it.
        settings: of this run.
        recipe: what the training script or the configuration says; None where nothing was said.
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
    def awake(self) -> Context:
        """This model, or, where zeros keep all gradient from its input, the same after the steps that move them."""
        context, flowed = self, woken(self.analysis.flowed) if self.paths.log2 is None else None
        while context.paths.log2 is None and flowed is not None:
            context = replace(self, analysis=Analysis.of(flowed))
            flowed = woken(flowed)
        return context

    @cached_property
    def spread(self) -> Spread | None:
        """How far the end-to-end gain of one draw of the weights lies from the mean; None where that is not known."""
        scale = self.analysis.spreads.backward.get(self.paths.entry or "")
        return None if scale is None else scale.spread

    @cached_property
    def symptoms(self) -> Symptoms:
        """What else the moments say about training: collapse, scale of the output, sharpness."""
        return find_symptoms(self.analysis.flowed, self.paths)

    @cached_property
    def typical(self) -> float:
        """Bits by which the median end-to-end gain differs from the mean one; 0 where draws of the weights hardly differ."""
        return self.spread.typical if self.spread is not None and self.spread.bits > _SPREAD else 0.0

    def width(self, segment: Segment) -> int:
        """How many numbers each output of a segment's weight is made of, or feeds, whichever are fewer: its fan-in or fan-out."""
        shape = self.parameters[str(segment.parameter)].shape
        return min(math.prod(shape[1:]), shape[0] * math.prod(shape[2:]))

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

    @cached_property
    def mitigation(self) -> Mitigation:
        """What keeps training going where the cause of a gain cannot be removed."""
        return Mitigation(self.analysis, self.recipe)

    @cached_property
    def evidence(self) -> Evidence:
        """What the model is made of and does, beside the gains."""
        return Evidence(self.analysis.flowed)

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
    def dormant(self) -> Dormant:
        """Parameters that no gradient ever reaches because others are zero."""
        return dormant(self.analysis.flowed)

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
