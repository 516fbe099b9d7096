"""Squared norms of the gradients, from the output back."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import fx

from gradlint.flowed import Edge, Flowed
from gradlint.moments import Array, Moments
from gradlint.ops import lookup
from gradlint.spread.chance import aligned, by_function, by_weights, crossed, moved, summed
from gradlint.spread.draws import Draws
from gradlint.spread.forward import Forward
from gradlint.spread.freedom import concentration, of_squares
from gradlint.spread.roles import Role, tensors, weight_of
from gradlint.spread.scalar import respond
from gradlint.spread.scale import FIXED, Scale, features_of, followed
from gradlint.trace.graph import step

__all__ = ["Backward"]


_OVER_ROWS = ("batch_norm", "instance_norm", "group_norm")


class Backward:
    """:attr:`scales` of the gradients of nodes, :attr:`parameters` of those of parameters.

    The gradient at the output has a fixed norm: its direction is random, its length is what gains are measured by.
    """

    def __init__(self, flowed: Flowed, draws: Draws, forward: Forward) -> None:
        self.scales: dict[str, Scale] = {}
        self.parameters: dict[str, Scale] = {}
        self._flowed, self._draws, self._forward = flowed, draws, forward
        self._terms: dict[str, list[tuple[float, Scale]]] = {}
        self._sent: dict[str, list[Edge]] = {}
        self._run()

    def _run(self) -> None:
        flowed = self._flowed
        sent = self._sent
        for edge in flowed.edges:
            sent.setdefault(edge.consumer, []).append(edge)
        nodes: Mapping[str, fx.Node] = {n.name: n for n in flowed.traced.graph.nodes}
        by_parameter: dict[str, list[tuple[float, Scale]]] = {}
        self._terms[flowed.traced.output] = [(1.0, self._seed())]
        for node in reversed(list(flowed.traced.graph.nodes)):
            if node.name not in self._terms or node.op == "get_attr":
                continue
            law = flowed.backward.get(node.name)
            self.scales[node.name] = summed(self._draws, self._terms.pop(node.name), law)
            call = node.args[0] if node.target is operator.getitem and node.args else None
            if isinstance(call, fx.Node) and isinstance(flowed.forward.get(call.name), tuple):
                weight = flowed.energy(node.name, self._unit(call.users)) if law else 1.0
                self._terms.setdefault(call.name, []).append((weight, self.scales[node.name]))
                continue
            for edge in sent.get(node.name, ()):
                producer = nodes.get(edge.producer)
                if producer is None or producer.op == "get_attr":
                    name = edge.producer if producer is None else str(producer.target)
                    share = flowed.arrived(edge, flowed.units.parameters.get(name, 0))
                    by_parameter.setdefault(name, []).append((share, followed(self._to_parameter, node, producer, name)))
                else:
                    share = flowed.arrived(edge, flowed.units.backward.get(producer.name, edge.unit))
                    self._terms.setdefault(edge.producer, []).append((share, followed(self._to_input, node, producer)))
        for name, terms in by_parameter.items():
            found = flowed.parameters.get(name)
            if found is not None and sum(e for e, _ in terms) > 0.0:
                self.parameters[name] = summed(self._draws, terms, found)

    def _unit(self, nodes: Iterable[fx.Node]) -> int:
        """The largest unit of their gradients."""
        return max((self._flowed.units.backward.get(node.name, 0) for node in nodes), default=0)

    def _seed(self) -> Scale:
        law, scale = self._flowed.backward.get(self._flowed.traced.output), self._forward.scales[self._flowed.traced.output]
        if law is None:
            return FIXED
        return replace(FIXED, overlap=1 / max(features_of(law, scale.axis), 1), axis=scale.axis)

    def _gradient(self, node: fx.Node) -> Moments | None:
        return self._flowed.backward.get(node.name)

    def _to_input(self, node: fx.Node, source: fx.Node) -> Scale:
        """What arrives at an input of an op."""
        flowed, forward, here = self._flowed, self._forward, self.scales[node.name]
        role = forward.roles.get(node.name, Role.PLAIN)
        g, out = self._gradient(node), self._gradient(source)
        if out is None:
            return here
        if role is Role.SCALAR and g is not None:
            return self._through_function(node, here, g)
        weight = weight_of(flowed, node) if role is Role.WEIGHTS else None
        if weight is not None and g is not None:
            scattered = weight.taps > 1  # the transpose of an orthogonal convolution is not orthogonal
            return by_weights(self._draws, here, g, out, replace(weight, orthogonal=weight.orthogonal and not scattered))
        inputs = tensors(flowed, node)
        others = [(n, m) for n, m in inputs if n is not source]
        freed = 2 * (concentration(out) - (concentration(g) if g is not None else concentration(out)))
        known = here.known and role is not Role.RECURRENT
        if role is not Role.PLAIN:
            known = known and all(forward.scales[n.name].known for n, _ in inputs)
        log, given, unequal = here.log, here.given, here.unequal
        if role is Role.NORM and self._is_normalised(node, source):
            factor, more = self._divided(node, source)
            log, given, unequal = log + factor, given + factor, unequal + more
        elif role in (Role.PRODUCT, Role.QUOTIENT) and others and g is not None:
            sign = 1 if role is Role.PRODUCT else -1
            other = forward.scales[others[0][0].name]
            log, given, unequal = log + sign * other.log, given + sign * other.log, unequal + other.unequal
            freed = max(freed, crossed(g, others[0][1]))
        elif role is Role.ATTENTION and source in [n for n, _ in inputs[:2]]:
            factor = sum((forward.scales[n.name].log for n, _ in others), FIXED.log)
            log, given = log + factor, given + factor
        return moved(replace(here, log=self._draws.times(log, freed), given=given, unequal=unequal, known=known), g, out)

    def _divided(self, node: fx.Node, source: fx.Node) -> tuple[Array, float]:
        """Ln of the inverse squared norm that a norm divides by, and how unequal it is from row to row.

        The predicted mean has the mean of the inverse over chance in it already. A norm over the batch divides by what is left
        without the mean of the batch.
        """
        x, law = self._forward.scales[source.name], self._forward.law(source)
        op = lookup(node.target)
        if law is None or op is None or op.name not in _OVER_ROWS:
            return -x.log - float(x.free.var()), x.unequal
        within = [d for d in range(2 if op.name == "instance_norm" else 0, len(law.dims)) if d != 1]
        free = self._draws.times(FIXED.log, 2 * concentration(law.centre(within)))
        return -x.given - free - float(free.var()), 0.0

    def _is_normalised(self, node: fx.Node, source: fx.Node) -> bool:
        norm, law = self._flowed.norms.get(node.name), self._forward.law(source)
        return norm.root is source if norm is not None else law is not None and law.shape == step(node).shape

    def _through_function(self, node: fx.Node, here: Scale, g: Moments) -> Scale:
        grid = self._flowed.grids[node.name]
        root, argument = self._forward.law(grid.root), self._forward.scales[grid.root.name]
        if root is None:
            return here
        slope = grid.curve(node)[1]
        response = respond(
            root, slope, np.zeros_like(slope), argument.axis, of_squares(g, here.kurtosis, here.overlap, here.axis)
        )
        return by_function(self._draws, here, response.of(self._kept(node, grid.root), slope), argument, g)

    def _kept(self, node: fx.Node, root: fx.Node) -> float:
        """Share of a gradient's energy that a function's slope lets pass, as predicted."""
        before = self._flowed.log2_energy(node.name)
        ways = [e for e in self._sent.get(node.name, ()) if e.producer == root.name and e.energy > 0]
        if before is None or not ways:
            return 0.0
        return float(sum(2.0 ** min(math.log2(e.energy) + 2 * e.unit - before, 60.0) for e in ways))

    def _to_parameter(self, node: fx.Node, source: fx.Node | None, name: str) -> Scale:
        """Of a parameter's gradient: a sum over rows of the op's gradient times what the parameter acts on."""
        forward, here = self._forward, self.scales[node.name]
        role = forward.roles.get(node.name, Role.PLAIN)
        g, law = self._gradient(node), self._flowed.parameters.get(name)
        if g is None or law is None or source is None:
            return replace(here, known=here.known and role is not Role.RECURRENT)
        acts = [
            (n, m)
            for n, m in tensors(self._flowed, node)
            if n is not source and (role is Role.PRODUCT or (role is Role.WEIGHTS and len(law.shape) > 1 and n.op != "get_attr"))
        ]
        free = concentration(law) - concentration(g)
        if not acts:
            free = 2 * max(free, aligned(g, here))
            out = forward.law(node)
            if role is Role.NORM and out is not None and _multiplies(node, source):
                free += crossed(g, out)
            return replace(here, log=self._draws.times(here.log, free))
        partner, x = acts[0]
        scale = forward.scales[partner.name]
        free = 2 * max(free - concentration(x), aligned(g, here, x, scale))
        if role is Role.PRODUCT:
            free += crossed(g, x)
        return replace(here, log=self._draws.times(here.log + scale.log, free), known=here.known and scale.known)


def _multiplies(node: fx.Node, parameter: fx.Node) -> bool:
    """The first vector among the parameters of a norm is its scale."""
    return next((n for n in node.all_input_nodes if n.op == "get_attr" and step(n).value is None), None) is parameter
