"""What is not known is said: ops that nothing is known about, and the gradients that had to pass them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from gradlint.trace.graph import Traced, op_name, place_of, step

__all__ = ["Unknown"]


@dataclass
class Unknown:
    """Gradients of which the whole, or a part, passes an op that nothing is known about.

    Args:
        traced: the model.
        nodes: names of nodes with such a gradient.
        parameters: the same of parameters.
        reasons: name of an op that nothing is known about, forward or backward, to why. Ops that only take what it returns
            are not named.
        inner: names of nodes that were sampled together with what is behind them: their own gradient was not looked at.
    """

    traced: Traced
    nodes: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)

    def sampled_with(self, node: fx.Node, members: Iterable[fx.Node]) -> None:
        """``members`` of a piece of the graph that ends in ``node`` were sampled as a whole."""
        for member in members:
            self.reasons.pop(member.name, None)
            if member is not node and step(member).value is None:
                self.inner.add(member.name)

    def behind(self, node: fx.Node) -> None:
        """The gradient of ``node``, or its way to the node's inputs, is unknown: so is all that it contributes to."""
        for source in node.all_input_nodes:
            facts = step(source)
            if not facts.grad or facts.value is not None or not (facts.shape is None or facts.differentiable):
                continue
            self.nodes.add(source.name)
            if source.op == "get_attr":
                self.parameters.add(str(source.target))
        if node.op == "call_module":
            inside = f"{node.target}."
            records = self.traced.parameters.values()
            self.parameters |= {r.name for r in records if r.requires_grad and any(n.startswith(inside) for n in r.names)}

    def notes(self) -> list[str]:
        """Why nothing is known about each op, in their order."""
        return [self.note(node) for node in self.traced.graph.nodes if node.name in self.reasons]

    def note(self, node: fx.Node) -> str:
        """Why nothing is known about an op, with the line that calls it."""
        return f"{place_of(node)}: nothing is known about {op_name(node)}: {self.reasons[node.name]}"

    def passed(self, how: Mapping[str, str], backward: Iterable[str]) -> set[str]:
        """Those of ``reasons`` that a gradient has to pass, be it in an op that takes what they return.

        Args:
            how: node name to ``known``, ``sampled`` or ``opaque``.
            backward: names of nodes that a gradient arrives at.
        """
        carries = self.nodes | set(backward)
        found: set[str] = set()
        for node in reversed(list(self.traced.graph.nodes)):
            if how.get(node.name) == "opaque" and (node.name in carries or any(user.name in found for user in node.users)):
                found.add(node.name)
        return found & set(self.reasons)
