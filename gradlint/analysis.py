"""What the flow found, by the names a user knows: parameters, modules, nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from gradlint.findings import Coverage, ModuleFacts, NodeFacts, ParameterFacts, TargetReport
from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.spread import Spread, Spreads, spread_of
from gradlint.trace.graph import op_name, step

__all__ = ["Analysis"]


@dataclass(frozen=True)
class Analysis:
    """Predicted root mean squares of every parameter, module output and op, and of their gradients.

    ``grad_rms`` is the root mean square, over entries and over the randomness of initialisation and input, of the gradient of
    ``Σ cot·output``, ``cot`` iid N(0, 1) on the first floating-point output, floating inputs iid N(0, 1), integer inputs uniform,
    in train mode.

    Args:
        flowed: the moments it is read from.
    """

    flowed: Flowed

    @staticmethod
    def of(flowed: Flowed) -> Analysis:
        """Wrap the result of the flow."""
        return Analysis(flowed)

    @cached_property
    def parameters(self) -> Mapping[str, ParameterFacts]:
        """Canonical parameter name to its facts; ``grad_rms`` is 0 where no gradient arrives, None where it is unknown."""
        unknown = self.flowed.unknown.parameters
        facts = {}
        for name, record in self.flowed.traced.parameters.items():
            grad = None if name in unknown else self.flowed.rms(name, parameter=True) or 0.0
            facts[name] = ParameterFacts(name, record.shape, str(record.law), record.law.moments.rms, grad)
        return facts

    @cached_property
    def modules(self) -> Mapping[str, ModuleFacts]:
        """Module path to the facts of its output at its last call."""
        facts = {}
        for path, record in self.flowed.traced.modules.items():
            rms, grad = (None, None) if record.output is None else self._rms(record.output)
            facts[path] = ModuleFacts(path, record.type, record.constructed, rms, grad)
        return facts

    @cached_property
    def inputs(self) -> Mapping[str, NodeFacts]:
        """Name of a floating-point input to its facts."""
        placeholders = (n for n in self.flowed.traced.graph.nodes if n.op == "placeholder")
        facts = {node.name: node for node in self.nodes}
        pairs = zip(placeholders, self.flowed.traced.inputs, strict=True)
        return {spec.name: facts[n.name] for n, spec in pairs if step(n).floating}

    @cached_property
    def nodes(self) -> tuple[NodeFacts, ...]:
        """Every op in order of execution."""
        return tuple(
            NodeFacts(
                node.name,
                op_name(node),
                step(node).module,
                step(node).location,
                step(node).shape or (),
                *self._rms(node.name),
            )
            for node in self.flowed.traced.graph.nodes
            if node.op not in ("output", "get_attr")
        )

    @cached_property
    def trails(self) -> Mapping[str, tuple[float, ...]]:
        """Path of an ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` to the gradient at its input, step by step, at its last call.

        In bits, log2 of the root mean square over samples and features: far back in time it leaves the range of floats.
        ``-inf`` where no gradient arrives.
        """
        targets = {node.name: str(node.target) for node in self.flowed.traced.graph.nodes}
        return {targets[name]: tuple(map(float, trail)) for name, trail in reversed(list(self.flowed.trails.items()))}

    @cached_property
    def spreads(self) -> Spreads:
        """How far one draw of the weights lies from the root mean squares; computed when first read."""
        return spread_of(self.flowed)

    def grad_typical(self, parameter: str) -> tuple[float, tuple[float, float]] | None:
        """The median of a parameter's gradient rms over draws of the weights, and the interval that holds 80 % of them.

        None where the gradient is unknown, or passes recurrent modules.
        """
        grad = self.parameters[parameter].grad_rms
        scale = self.spreads.parameters.get(parameter)
        if not grad:
            return None if grad is None else (0.0, (0.0, 0.0))
        return None if scale is None else _scaled(grad, scale.spread)

    @cached_property
    def coverage(self) -> Coverage:
        """How the ops were understood."""
        counts: dict[str, dict[str, int]] = {"sampled": {}, "opaque": {}}
        known = 0
        names = {n.name: n for n in self.flowed.traced.graph.nodes}
        for name, how in self.flowed.how.items():
            if how == "known":
                known += 1
            else:
                op = op_name(names[name])
                counts[how][op] = counts[how].get(op, 0) + 1
        return Coverage(known, counts["sampled"], counts["opaque"])

    def to_target_report(self, name: str, gain_log2: float | None = None, entry: str | None = None) -> TargetReport:
        """The facts as the report carries them.

        Args:
            gain_log2: the end-to-end gain that the paths give.
            entry: the node where they end.
        """
        found = self.spreads.backward.get(entry or "") if gain_log2 is not None else None
        spread = None if found is None else found.spread
        traced = self.flowed.traced
        return TargetReport(
            name,
            traced.location,
            tuple(str(spec) for spec in traced.inputs),
            traced.rung,
            self.coverage,
            gain_log2,
            tuple(self._with_spread(facts) for facts in self.parameters.values()),
            tuple(self.modules.values()),
            self.nodes,
            (*traced.assumptions, *self.flowed.notes),
            inputs_origin=traced.arguments.origin,
            gain_typical_log2=None if spread is None or gain_log2 is None else gain_log2 + spread.typical,
            gain_interval_log2=None if spread is None or gain_log2 is None else _shifted(gain_log2, spread),
        )

    def _with_spread(self, facts: ParameterFacts) -> ParameterFacts:
        typical = self.grad_typical(facts.name)
        return facts if typical is None else replace(facts, grad_typical=typical[0], grad_interval=typical[1])

    def _rms(self, node: str) -> tuple[float | None, float | None]:
        value, grad = self.flowed.forward.get(node), self.flowed.rms(node)
        rms = _number(value.rms) if isinstance(value, Moments) else None
        unknown = self.flowed.unknown
        if isinstance(value, tuple) or node in unknown.nodes or node in unknown.inner:
            return rms, None
        return rms, 0.0 if grad is None else _number(grad)


def _shifted(log2: float, spread: Spread) -> tuple[float, float]:
    low, high = spread.ends
    return log2 + low, log2 + high


def _scaled(rms: float, spread: Spread) -> tuple[float, tuple[float, float]]:
    low, high = (rms * 2.0**end for end in spread.ends)
    return rms * 2.0**spread.typical, (low, high)


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x
