"""Tensors that are added but are not independent.

Mean field takes the terms of a sum as independent. They are not when equal weights act at several places: copies of one layer
(``nn.TransformerEncoder``), one layer applied again and again (recurrent and looped models, siamese towers), or when both
are made of one tensor (``x - x.mean()``). Then ``K_{x+y} = K_x + K_y + 2 cov(x, y)``, forward for values, backward for the
gradients that meet at a tensor or at a parameter: ``J = aI + gG`` with one G at every step grows by a + g per step, not by
``√(a² + g²)``.

The covariance of two tensors is found by recursion on the later of the two, down to tensors that share nothing random. Which
rule answers for which op: :mod:`~gradlint.covary.moves` for a function of one of the two, :mod:`~gradlint.covary.twins` for
two calls of one function with equal weights. Without a rule tensors are taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from gradlint.covary.gradients import Gradients, Sent
from gradlint.covary.ledger import Ledger
from gradlint.covary.repeats import Loop, Repeats
from gradlint.covary.solver import Query, Solver, Table
from gradlint.covary.values import Values
from gradlint.moments import Moments, add_covariance, multiply_covariance, own, weighted

__all__ = ["Covariances", "Ledger", "Loop", "Repeats"]

_SUMS = {"add", "sub", "rsub"}
_LIMIT = 100_000
_WINDOW = 8
"""Uses of one weight: when so many in a row have nothing in common with a later one, the earlier ones do not either."""


class Covariances:
    """Corrects sums for what their terms have in common; called by the interpreter as it goes.

    Args:
        ledger: what the interpreter has found so far.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._values = Values(ledger)
        self._gradients = Gradients(ledger, self._values)
        self._solver = Solver(_LIMIT)
        self._failed: dict[str, None] = {}
        self._stands: dict[Sent, tuple[Sent, float]] = {}

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        cut = "more uses of equal weights than can be followed: the last ones are taken as independent"
        return [*([cut] if self._solver.exhausted else []), *self._failed]

    def _table(self, query: Query) -> Table:
        try:
            return self._solver.table(query)
        except (ValueError, IndexError) as error:  # a rule that breaks must not hide the rest; it is reported
            self._failed[f"what the terms of a sum have in common was not found ({type(error).__name__}: {error})"] = None
            return None

    def entered(self, node: fx.Node, value: Any) -> Any:
        """The value of a node, with the covariance of its terms if it is a sum, of its factors if it is a product."""
        self.ledger.enter(node)
        self._values.enter(node)
        record = self.ledger.records.get(node)
        if record is None or record.name not in (*_SUMS, "mul") or len(record.handles) < 2 or not isinstance(value, Moments):
            return value
        a, b = record.handles[:2]
        first, second = record.node(a), record.node(b)
        if first is None or second is None:
            return value
        table = self._table(Query(self._values, first, second))
        if table is None:
            return value
        if record.name == "mul":
            return multiply_covariance(value, a, b, table)
        sign = -1.0 if record.name != "add" else 1.0
        return add_covariance(value, table, 2.0 * sign * float(record.kwargs.get("alpha", 1)))

    def sent(self, consumer: fx.Node | None, slot: int, target: fx.Node, grad: Moments) -> None:
        """A call sent a gradient to its input number ``slot``; None: the cotangent of the output."""
        self._gradients.send(Sent(consumer, slot, target, grad))

    def repeated(self, node: fx.Node) -> None:
        """A node has the value of another, with what its terms have in common."""
        self.ledger.enter(node)
        self._values.enter(node)

    def stands(self, consumer: fx.Node, like: fx.Node, slot: int, bits: float) -> None:
        """What ``consumer`` sent has in common with what was sent before what that of ``like`` has, times ``4^bits``."""
        item, other = (self._gradients.sent_by(node, slot) for node in (consumer, like))
        if item is not None and other is not None:
            self._stands[item] = other, bits

    def excess(self, consumer: fx.Node, slot: int) -> float:
        """What is sent has in common with what was sent to the same node before, as a share of its own mean square."""
        item = self._gradients.sent_by(consumer, slot)
        if item is None or item.grad.q <= 0:
            return 0.0
        arrived = self._gradients.arrived[item.target]
        table = self._shared(item, arrived[: arrived.index(item)], item.target, self._gradients.shift(item, item.target))
        return 0.0 if table is None else table.var / item.grad.q

    def met(self, node: fx.Node, grad: Any) -> Any:
        """The gradient of a node, with the covariances of those that have met there."""
        arrived = self._gradients.arrived.get(node, [])
        seen = common = 0
        for item in arrived:
            mask = self._gradients.mask(item)
            common |= seen & mask
            seen |= mask
        if not common or not isinstance(grad, Moments):
            return grad
        totals: dict[Sent, Table] = {}
        for i, item in enumerate(arrived):
            if item in self._stands:
                like, bits = self._stands[item]
                table = totals.get(like)
                totals[item] = None if table is None else weighted(table, 4.0**bits)
            else:
                totals[item] = self._shared(item, arrived[:i], node, 0)
            table = totals[item]
            if table is not None:
                grad = add_covariance(grad, table, 2.0)
        return grad

    def _shared(self, item: Sent, before: Sequence[Sent], node: fx.Node, unit: int) -> Table:
        """What a gradient has in common with all that have met it at a node before, times ``4^-unit``."""
        total: Table = None
        alone = 0
        for other in reversed(before):
            table = self._table(Query(self._gradients, item, other))
            if table is None:
                alone += 1
                if alone > _WINDOW:
                    break
                continue
            alone = 0
            shift = self._gradients.shift(item, node) + self._gradients.shift(other, node) - 2 * unit
            part = weighted(table, math.ldexp(1.0, shift)) if shift else table
            total = part if total is None else own(total + part)
        return total
