"""Squared norms of the tensors, in the order of the graph."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from torch import fx

from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.spread.chance import by_weights, crossed, moved
from gradlint.spread.draws import Draws
from gradlint.spread.freedom import by_rows, concentration, concentrations
from gradlint.spread.roles import Role, kurtosis, role_of, tensors, weight_of
from gradlint.spread.scalar import overlap_of_values, respond
from gradlint.spread.scale import FIXED, UNKNOWN, Scale, features_of, followed, mixed
from gradlint.trace.graph import step

__all__ = ["Forward"]

_FIXED_KINDS = ("values", "orthogonal", "constant", "identity")


class Forward:
    """:attr:`scales` of every node whose law is known (for several outputs, of them all together)."""

    def __init__(self, flowed: Flowed, draws: Draws) -> None:
        self.flowed = flowed
        self.scales: dict[str, Scale] = {}
        self.roles: dict[str, Role] = {}
        self._draws = draws
        for node in flowed.traced.graph.nodes:
            if node.op != "output":
                self.scales[node.name] = followed(self._scale, node)

    @cached_property
    def samples(self) -> int:
        """Size of the batch."""
        shapes = [step(n).shape for n in self.flowed.traced.graph.nodes if n.op == "placeholder"]
        return next((shape[0] for shape in shapes if shape), 1)

    def law(self, node: fx.Node) -> Moments | None:
        """Of a node, of its first member where it has several."""
        value = self.flowed.forward.get(node.name)
        value = value[0] if isinstance(value, tuple) and value else value
        return value if isinstance(value, Moments) else None

    def _scale(self, node: fx.Node) -> Scale:
        law = self.law(node)
        if law is None:
            return UNKNOWN
        if node.op == "placeholder":
            return self._input(node, law)
        if node.op == "get_attr":
            return self._drawn(node, law)
        if law.value is not None:
            return FIXED
        role = self.roles[node.name] = role_of(self.flowed, node)
        return self._called(node, role, law)

    def _input(self, node: fx.Node, law: Moments) -> Scale:
        if not step(node).floating:
            return FIXED
        axis = 1 if len(law.dims) > 3 else -1
        free, least = by_rows(law, 2 * concentrations(law), axis), 1 / max(features_of(law, axis), 1)
        return Scale(self._draws.times(FIXED.log, free.together(0.0)), FIXED.log, 3.0, least, free.within - free.between, axis)

    def _drawn(self, node: fx.Node, law: Moments) -> Scale:
        facts = step(node)
        record = self.flowed.traced.parameters.get(str(node.target)) if facts.value is None else None
        found = record.law if record is not None else facts.law
        if found is None or found.kind in _FIXED_KINDS or law.q <= 0.0:
            return FIXED
        peaked = kurtosis(found.kind)
        return replace(FIXED, log=self._draws.times(FIXED.log, (peaked - 1) * concentration(law)), kurtosis=peaked)

    def _called(self, node: fx.Node, role: Role, law: Moments) -> Scale:
        inputs = tensors(self.flowed, node)
        before = [self.scales[n.name] for n, _ in inputs]
        if role is Role.SCALAR:
            return self._function(node)
        if role in (Role.NORM, Role.SHARES):
            return (
                replace(
                    moved(before[0], inputs[0][1], law), log=FIXED.log, given=FIXED.log, kurtosis=3.0, unequal=0.0, known=True
                )
                if before
                else FIXED
            )
        if role is Role.WEIGHTS:
            return self._weighted(node, law)
        if role in (Role.PRODUCT, Role.QUOTIENT):
            (a, b), sign = before[:2], 1 if role is Role.PRODUCT else -1
            (_, x), (_, y) = inputs[:2]
            summed = 2 * (concentration(law) - concentration(x) - concentration(y))  # a contraction: its terms average out
            log = self._draws.times(a.log + sign * b.log, max(crossed(x, y), summed))
            peaked, overlap = a.kurtosis * b.kurtosis / 3, max(a.overlap, b.overlap)
            scale = Scale(log, a.given + sign * b.given, peaked, overlap, a.unequal + b.unequal, a.axis, a.known and b.known)
            return moved(scale, inputs[0][1], law)
        if role is Role.ATTENTION:
            log, value = before[-1].log, inputs[-1][1]
            return replace(before[-1], log=self._draws.times(log, 2 * (concentration(law) - concentration(value))))
        return replace(self._plain(inputs, law), known=role is not Role.RECURRENT and all(scale.known for scale in before))

    def _function(self, node: fx.Node) -> Scale:
        grid = self.flowed.grids[node.name]
        root, before = self.law(grid.root), self.scales[grid.root.name]
        if root is None or root.value is not None:
            return FIXED
        response = respond(root, *grid.curve(node), before.axis)
        given, added = response.at(before.given, FIXED.log), response.added
        log = self._draws.times(response.at(before.given, before.free), added.together(before.unequal), response.ceiling)
        unequal = response.power**2 * before.unequal + added.within - added.between
        return Scale(
            log,
            given,
            response.kurtosis,
            overlap_of_values(root, grid.curve(node)[0], before),
            unequal,
            before.axis,
            before.known,
        )

    def _weighted(self, node: fx.Node, law: Moments) -> Scale:
        weight, inputs = weight_of(self.flowed, node), tensors(self.flowed, node)
        data = [(n, m) for n, m in inputs if n.op != "get_attr"]
        if weight is None or not data:
            return replace(FIXED, log=self._draws.times(FIXED.log, 2 * concentration(law)))
        source, x = data[-1]
        offset = sum(m.q for n, m in inputs if n.op == "get_attr" and len(m.shape) < 2)
        share = max(1 - offset / law.q, 0.0) if law.q > 0.0 else 1.0
        through = mixed([(share, self.scales[source.name]), (1 - share, FIXED)])
        return by_weights(self._draws, replace(through, overlap=self.scales[source.name].overlap), x, law, weight)

    def _plain(self, inputs: list[tuple[fx.Node, Moments]], law: Moments) -> Scale:
        """Terms or pieces of one tensor: by their shares; what is random in their sum beside their own norms."""
        energies = [m.q * _repeats(m, law) for _, m in inputs]
        total = sum(energies)
        if total <= 0.0:
            return FIXED
        terms = [(e / total, self.scales[n.name]) for e, (n, _) in zip(energies, inputs, strict=True)]
        scale = mixed(terms)
        own = sum(share**2 * concentration(m) for (share, _), (_, m) in zip(terms, inputs, strict=True))
        scale = replace(scale, log=self._draws.times(scale.log, 2 * (concentration(law) - own)))
        largest = max(range(len(inputs)), key=energies.__getitem__)
        return moved(scale, inputs[largest][1], law)


def _repeats(x: Moments, out: Moments) -> float:
    """Entries of the output that a tensor's entries stand for: all of them in a broadcast sum, their own number as a piece."""
    broadcast = len(x.dims) <= len(out.dims) and all(a in (1, b) for a, b in zip(x.shape[::-1], out.shape[::-1], strict=False))
    return float(np.prod(out.shape if broadcast else x.shape))
