"""One direction of one recurrent layer: its pair moments over all steps, and those of the gradients that run back through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradlint.moments import Array
from gradlint.twotime.cells import Cell, Row
from gradlint.twotime.tables import Settled, Table

__all__ = ["Forward", "forward"]

_SETTLED = 1e-4
"""Relative change per step below which a layer has come to rest."""

_ROOM = 32
"""Steps that there is room for at first."""

_MOST = 400
"""Steps after which it is taken to be at rest."""


@dataclass(frozen=True)
class Forward:
    """What the forward pass left, for the first steps until it came to rest.

    Args:
        x: the input.
        hidden: pair moments of ``h_t``, before a projection.
        states: of what the next step is fed, ``h_{t−1}``.
        means: of ``h_t`` at the first steps.
        keeps: means of the carrying gate, shape (classes, n).
        carry: its pair moments.
        shown: of ``∂h/∂m``.
        to_x: of every gate's ``∂m/∂u``, on the input's side, times the shares of the classes; shape (gates, 2, classes, n, n).
        to_h: likewise on the state's side.
    """

    cell: Cell
    x: Table
    hidden: Settled
    states: Settled
    means: Array
    keeps: Array
    carry: Settled
    shown: Settled
    to_x: Settled
    to_h: Settled

    @property
    def last_memory(self) -> Array:
        """Mean product of the last memory, within a sample and across two."""
        cell, n = self.cell, self.keeps.shape[1]
        return np.asarray(np.einsum("c,sc->s", cell.weights, cell.memory[:, :, n, n]))


def forward(make: Callable[[int], Cell], x: Table) -> Forward:
    """Run a cell over its input until it rests.

    Args:
        make: the cell, with room for a number of steps.
        x: pair moments of an entry of the input.
    """
    room = min(x.steps, _MOST)
    cell, rows = make(min(room, _ROOM)), list[Row]()
    for t in range(room):
        if t == cell.steps:
            cell.grow(min(room, 4 * t))
        rows.append(cell.row(x.behind(t, t + 1)[0][:, ::-1], t))
        if t >= min(x.rests, room) and t > 3 and _still(rows):
            break
    n = len(rows)

    def table(pick: Callable[[Row], Array]) -> Settled:
        out = np.zeros((*pick(rows[0]).shape[:-1], n, n))
        for t, row in enumerate(rows):
            out[..., t, : t + 1] = out[..., : t + 1, t] = pick(row)
        return Settled(out, x.steps)

    def gates(pick: Callable[[Row], list[Array]]) -> Settled:
        return table(lambda row: np.stack(pick(row)) * cell.weights[:, None])

    to_x = gates(lambda row: row.to_x)
    alike = rows[0].to_x is rows[0].to_h
    return Forward(
        cell,
        x,
        table(lambda row: row.hidden),
        Settled(cell.q[:, :n, :n], x.steps),
        np.array([row.mean for row in rows]),
        np.stack([row.keeps for row in rows], -1),
        table(lambda row: row.carry),
        table(lambda row: row.shown),
        to_x,
        to_x if alike else gates(lambda row: row.to_h),
    )


def _still(rows: list[Row]) -> bool:
    """The last two steps have the same in common with those before them; pairs with the first steps never come to rest."""
    a, b = rows[-1], rows[-2]
    for x, y in [(a.hidden, b.hidden), *zip(a.to_h, b.to_h, strict=True)]:
        half = y.shape[-1] // 2
        if np.abs(x[..., 1 + half :] - y[..., half:]).max() > _SETTLED * np.abs(x).max():
            return False
    return True
