"""The interpreter: moments forward through the graph, squared-gradient moments backward, coverage counted on the way."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from gradlint.covary import Covariances, Ledger
from gradlint.errors import AnalysisError
from gradlint.flowed import Edge, Flowed, Units
from gradlint.folds import Resting, Returning
from gradlint.gathered import Gathered, in_units
from gradlint.handles import Inputs, arguments, call_of, target_of, without_moments
from gradlint.handwritten import Norm, find_norms
from gradlint.moments import Array, Moments, energy, meet
from gradlint.ops import IDENTITY, Call, Flow, Returned, by_parts, check, lookup
from gradlint.ops.sampled import or_sampled, said, sampled
from gradlint.recognise import Cone, Grid, find_cones, grid_of
from gradlint.region import Region
from gradlint.tails import bounded, source_of
from gradlint.tangles import Tangles
from gradlint.trace.graph import Traced, callable_of, op_name, place_of, step
from gradlint.unknown import Unknown

__all__ = ["propagate"]


def propagate(traced: Traced) -> Flowed:
    """Both directions over the whole graph.

    The gradient is that of ``Σ cot·output`` with ``cot`` iid N(0, 1) on the first floating-point output.

    Raises:
        AnalysisError: the graph refers to something unknown, a bug in gradlint.
    """
    run = _Run(traced)
    # Slopes are differentiated, whatever mode the caller is in; moments that overflow are noticed (``bounded``).
    with torch.enable_grad(), np.errstate(over="ignore", invalid="ignore"):
        run.forward()
        run.backward()
    return run.result()


@dataclass
class _Run:
    traced: Traced
    values: dict[fx.Node, Any] = field(default_factory=dict)
    flows: dict[fx.Node, tuple[Flow, Inputs]] = field(default_factory=dict)
    grids: dict[fx.Node, Grid] = field(default_factory=dict)
    gathered: Gathered[fx.Node] = field(default_factory=lambda: Gathered(meet))
    inside: Gathered[fx.Node] = field(default_factory=lambda: Gathered(operator.add))
    parameters: Gathered[str] = field(default_factory=lambda: Gathered(operator.add))
    edges: list[Edge] = field(default_factory=list)
    trails: dict[str, Array] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cones: dict[fx.Node, Cone] = field(default_factory=dict)
    norms: dict[fx.Node, Norm] = field(default_factory=dict)
    fixed: set[fx.Node] = field(default_factory=set)
    unbounded: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        drawn = {name: p.drawn_with for name, p in self.traced.parameters.items() if p.law.std > 0}
        self.covariances = Covariances(Ledger(self.traced.graph, drawn, self.values, self.gathered, self.grids))
        self.unknown = Unknown(self.traced)
        self.tangles = Tangles(self.traced.graph)

    def forward(self) -> None:
        self.norms = find_norms(self.traced.graph)
        self.cones = {n: cone for n, cone in find_cones(self.traced.graph).items() if n not in self.tangles.members}
        self.covariances.ledger.found(self.cones, self.norms)
        resting = Resting(self.covariances, self.flows, self.cones, self.how, self.fixed, self.tangles.members)
        for node in self.traced.graph.nodes:
            if node.op != "output" and (taken := resting.repeated(node, self._known)) is not None:
                self.values[node] = taken
            elif node.op != "output":
                self.values[node] = self._corrected(self.covariances.entered, node, self._pinned(node, self._known(node)))
        self.returning = Returning(self.covariances, resting, self.gathered, self.inside, self.edges, self.unknown.nodes)

    def _known(self, node: fx.Node) -> Any:
        """Moments of a node; None where they are unknown, be it for a formula that breaks: the rest is still judged."""
        try:
            return self._value(node)
        except _Unknown as error:
            self._lose(node, str(error))
        except AnalysisError:
            raise
        except Exception as error:  # noqa: BLE001  (as in _apply)
            self._lose(node, said(error))
        return None

    def _lose(self, node: fx.Node, reason: str) -> None:
        """Nothing is known about an op."""
        self.how[node.name] = "opaque"
        self.unknown.reasons[node.name] = reason

    def _corrected(self, by: Callable[[fx.Node, Any], Any], node: fx.Node, value: Any) -> Any:
        """Moments with what their terms have in common, as far as that can be followed."""
        try:
            return by(node, value)
        except Exception as error:  # noqa: BLE001  (as in _apply)
            self.notes.append(f"{place_of(node)}: {op_name(node)}: terms taken as independent ({said(error)})")
            return value

    def _pinned(self, node: fx.Node, value: Any) -> Any:
        """A number made of weights alone is what it was when traced: a spectral norm, a learned scale."""
        scalar = step(node).scalar
        if node.op == "placeholder" or not all(n in self.fixed for n in node.all_input_nodes):
            return value
        self.fixed.add(node)
        if scalar is None or node.op == "get_attr" or not isinstance(value, Moments):
            return value
        return replace(value, mean=scalar, v=np.zeros_like(value.v))

    def _value(self, node: fx.Node) -> Any:
        facts = step(node)
        if node.op == "placeholder":
            return facts.constant() if facts.is_known else Moments.iid(facts.shape or ())
        if node.op == "get_attr":
            if facts.value is None:
                return self.traced.parameters[str(node.target)].law.moments
            return None if "complex" in str(facts.dtype) or not facts.value.numel() else facts.constant()
        self.how[node.name] = "known"
        if facts.value is not None:
            return facts.constant()
        source: Any = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(self.values.get(source), tuple):
            index: Any = node.args[1]
            member = self.values[source][index]
            if member is None:
                raise _Unknown("nothing is predicted for this member of a tuple")
            return member
        if facts.shape is not None and not facts.floating:
            raise _Unknown("it returns complex numbers")
        blank = [n for n in without_moments(node, self.values) if n not in self.unbounded]
        if blank and all(step(n).floating for n in blank):  # complex ones are sampled on the way; behind others all is unknown
            self.how[node.name] = "opaque"
            return None
        value = self._judged(node)
        if not bounded(value):
            self.unbounded.add(node)
            self.cones.pop(node, None)
            raise _Unknown("its entries are unbounded")
        return value

    def _judged(self, node: fx.Node) -> Any:
        """By what was recognised in the graph, else as a call of its own."""
        if node in self.norms and self.values[self.norms[node].root] is not None:
            return self._norm_value(node, self.norms[node])
        if node in self.cones and self.values[self.cones[node].root] is not None:
            return self._cone_value(node)
        self.cones.pop(node, None)
        if node in self.tangles.members:
            self.how[node.name] = "sampled"
            return self.tangles.enter(node, self.values)
        return self._call(node)

    def _norm_value(self, node: fx.Node, norm: Norm) -> Any:
        x: Moments = self.values[norm.root].twin()
        flow = norm.flow(Call(step(node).shape), x)
        self.flows[node] = (flow, {x: norm.root})
        return flow.out

    def _cone_value(self, node: fx.Node) -> Any:
        cone = self.cones[node]
        root: Moments = self.values[cone.root]
        if cone.root not in self.grids:
            self.grids[cone.root] = grid_of(cone, root)
        inside = source_of(node, cone, self.grids[cone.root], self.values)
        if inside is None:
            return self.grids[cone.root].moments(node)
        del self.cones[node]
        inputs: Inputs = {}
        flow = self._region(node, inside, inputs, "its moments tell too little")
        self.flows[node] = (flow, inputs)
        return flow.out

    def _call(self, node: fx.Node) -> Any:
        args, kwargs, inputs = arguments(node, self.values)
        call = call_of(node, self.traced, inputs)
        flow = self._apply(node, call, args, kwargs, inputs)
        self.flows[node] = (flow, inputs)
        if self.how[node.name] == "known":
            self.covariances.ledger.called(node, call, args, kwargs, inputs)
        return flow.out

    def _apply(self, node: fx.Node, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Inputs) -> Flow:
        op = lookup(target_of(node, self.traced))
        if without_moments(node, self.values):
            return self._region(node, lambda n: self.values[n] is None, inputs, "it depends on a tensor without moments")
        if target_of(node, self.traced) in IDENTITY and isinstance(args[0], Moments):
            return Flow(args[0], lambda g: {args[0]: g})
        reason = "no transfer function"
        if op is not None:
            try:
                flow = op.function(call, *args, **kwargs)
                check(flow, call)
                flow = by_parts(op.apart, op.function, call, args, kwargs, flow)
            except NotImplementedError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001  (a formula that breaks must not hide the rest; it is reported)
                reason = f"formula failed ({said(error)})"
                self.notes.append(f"{place_of(node)}: {op_name(node)}: {reason}")
            else:
                if node.op == "call_module":
                    return flow
                return or_sampled(flow, callable_of(node), args, kwargs, lambda why: self._sampled_back(node, why))
        if node.op == "call_module":
            raise _Unknown(reason)
        if any(n.op.startswith("call") for n in node.all_input_nodes) and all(n in self.fixed for n in node.all_input_nodes):
            return self._region(node, lambda n: n.op.startswith("call") and n in self.fixed, inputs, reason)
        return self._sampled(node, callable_of(node), args, kwargs, reason)

    def _region(self, node: fx.Node, inside: Callable[[fx.Node], bool], inputs: Inputs, reason: str) -> Flow:
        """What is made of tensors without moments, or of weights alone: sampled together with what they are made of."""
        region = Region(node, inside)
        inputs.clear()
        inputs.update({replace(self.values[leaf]): leaf for leaf in region.leaves})
        flow = self._sampled(node, region, list(inputs), {}, reason)
        self.how.update({n.name: "sampled" for n in region.members if self.how.get(n.name) == "opaque"})
        self.unknown.sampled_with(node, region.members)
        return flow

    def _sampled(self, node: fx.Node, function: Any, args: Any, kwargs: Any, reason: str) -> Flow:
        try:
            flow = sampled(function, args, kwargs)
        except Exception as error:
            raise _Unknown(f"{reason}, and sampling it failed ({said(error)})") from error
        self.how[node.name] = "sampled"
        return flow

    def _sampled_back(self, node: fx.Node, reason: str) -> None:
        self.how[node.name] = "sampled"
        self.notes.append(f"{place_of(node)}: {op_name(node)}: formula of its gradient failed ({reason})")

    def backward(self) -> None:
        nodes = {n.name: n for n in self.traced.graph.nodes}
        if self.traced.output not in nodes:
            raise AnalysisError(f"the output node {self.traced.output!r} is not in the graph")
        start = nodes[self.traced.output]
        cotangent = Moments.iid(step(start).shape or ())
        self.gathered.add(start, cotangent, 0)
        self.covariances.sent(None, 0, start, cotangent)
        for node in reversed(list(self.traced.graph.nodes)):
            if self.returning.reached(node):
                continue
            alone, lost = self._alone(node), node.name in self.unknown.nodes
            self.gathered.add(node, self.tangles.arrived(node), 0)
            g = self.gathered.grads.get(node)
            if g is not None:
                self.gathered.grads[node] = self._corrected(self.covariances.met, node, g)
                g = self.gathered.settle(node)
                if node.op == "get_attr":
                    self.parameters.add(str(node.target), g, self.gathered.units[node])
            if (g is None and not lost) or not step(node).grad or node.op in ("placeholder", "get_attr", "output"):
                continue
            if lost or not self._back(node, g, alone):
                self.unknown.behind(node)

    def _alone(self, node: fx.Node) -> Any:
        """What has arrived at a member of a tangle from outside, as it is."""
        return in_units(self.gathered.grads.get(node), self.gathered.units.get(node, 0)) if node in self.tangles.members else None

    def _back(self, node: fx.Node, g: Any, alone: Any) -> bool:
        """Send the gradient of a node (``alone``: without a tangle's share) to its inputs; False where the way is unknown."""
        try:
            if node in self.tangles.members:
                self.edges += [Edge(node.name, source.name, arrived, 0) for source, arrived in self.tangles.back(node, alone)]
            elif node in self.cones and isinstance(self.values[node], Moments):
                self._back_cone(node, g)
            elif node in self.flows:
                self._back_call(node, g)
            elif node.target is operator.getitem and isinstance(self.values[node.all_input_nodes[0]], tuple):
                args: Any = node.args
                call, index = args
                self.gathered.add_member(call, (index, len(self.values[call])), g, self.gathered.units[node])
            else:
                return False
        except Exception as error:  # noqa: BLE001  (as in _apply)
            self._lose(node, f"its gradient failed ({said(error)})")
            return False
        return True

    def _back_cone(self, node: fx.Node, g: Moments) -> None:
        cone = self.cones[node]
        interior = cone.members[: cone.members.index(node)]
        for member, grad in self.grids[cone.root].gradient(node, g, [cone.root, *interior]).items():
            if member is cone.root:
                self._send(node, member, grad)
            else:
                self.inside.add(member, grad, self.gathered.units[node])

    def _back_call(self, node: fx.Node, g: Any) -> None:
        flow, inputs = self.flows[node]
        slots = {handle: slot for slot, handle in enumerate(inputs)}
        found = flow.back(g)
        if isinstance(found, Returned):
            self.trails[node.name] = found.trail + self.gathered.units[node]
        for handle, grad in found.items():
            if node in self.norms and self.values[self.norms[node].root] is not None:
                for repeat in self.norms[node].repeats:
                    self.inside.add(repeat, self.norms[node].behind_statistic(grad), self.gathered.units[node])
            if (target := inputs.get(handle)) is not None:
                self._send(node, target, grad, slots[handle], found.units[handle] if isinstance(found, Returned) else 0)

    def _send(self, node: fx.Node, target: fx.Node | str, grad: Moments, slot: int = 0, beyond: int = 0) -> None:
        arrived, unit = energy(grad), self.gathered.units[node] + beyond
        if isinstance(target, str):
            self.parameters.add(target, grad, unit)
            self.edges.append(Edge(node.name, target, arrived, unit))
            return
        facts = step(target)
        if not facts.grad or not facts.floating or (target.op == "get_attr" and facts.value is not None):
            return
        self.gathered.add(target, grad, unit)
        self.edges.append(Edge(node.name, target.name, arrived, unit))
        if not beyond:
            self.covariances.sent(node, slot, target, grad)
            self.returning.sent(node, target, grad, slot)

    def result(self) -> Flowed:
        for node in [n for n in self.inside.grads if isinstance(self.gathered.grads.get(n), Moments)]:
            self.inside.add(node, self.gathered.grads[node], self.gathered.units[node])
        backward = {n: g for n, g in {**self.gathered.grads, **self.inside.grads}.items() if isinstance(g, Moments)}
        units = {**self.gathered.units, **self.inside.units}
        return Flowed(
            self.traced,
            {n.name: value for n, value in self.values.items()},
            {n.name: g for n, g in backward.items() if n.name not in self.unknown.nodes},
            {name: g for name, g in self.parameters.grads.items() if name not in self.unknown.parameters},
            Units({n.name: units[n] for n in backward}, self.parameters.units),
            tuple(self.edges),
            self.how,
            (*dict.fromkeys(self.notes), *self.unknown.notes(), *self.covariances.notes),
            self.unknown,
            {n.name: self.grids[cone.root] for n, cone in self.cones.items() if cone.root in self.grids},
            {n.name: norm for n, norm in self.norms.items()},
            self.trails,
        )


class _Unknown(Exception):  # noqa: N818
    """Neither a formula nor a sample."""
