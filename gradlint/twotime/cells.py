"""Recurrent cells, step by step: pair moments of everything at step t with everything at the steps before it.

A unit carries a memory ``m_t = a_t m_{t−1} + n_t`` (LSTM: forget gate, new content ``i·g``; GRU: update gate, ``(1−z)·ñ``; a
vanilla cell carries none) and shows ``h_t`` (LSTM ``o·tanh m``, else m itself). In the limit of many units the pre-activations of
all steps are jointly Gaussian, the recurrent matrix being the same at all of them, so that pairs of steps close among themselves:

    U(t, t') = D s_x² X(t, t') + H s_h² Q(t−1, t'−1) + var b,        Q(t, t') = E[h_t h_t'].

(dynamic mean-field theory: Sompolinsky, Crisanti & Sommers 1988; for gates: Can, Krishnamurthy & Schwab 2020, arXiv:2007.15836).
Every row has a leading axis of two: the pair is in one sample, or in two; and an axis of classes of units that differ in the
bias of the gate that carries the memory, which is what makes some units remember for longer than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gradlint.moments import Array
from gradlint.twotime.curves import ORDERS, RELU, SIGMOID, TANH, Curve, paired, powers
from gradlint.twotime.gated import Candidate

__all__ = ["CELLS", "Cell", "Drive", "Gru", "Lstm", "Rnn", "Row", "scanned"]


@dataclass(frozen=True)
class Drive:
    """What drives a gate of every unit.

    Args:
        x: sum over the inputs of the variances of a unit's weights.
        h: likewise over the hidden state.
        mean: of the biases, of the input's and the state's side.
        var: variances of the biases, likewise.
        x_back: sum over the units of the variances of an input's weights.
        h_back: likewise of an entry of the state.
    """

    x: float
    h: float
    x_back: float
    h_back: float
    mean: tuple[float, float] = (0.0, 0.0)
    var: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Row:
    """Pair moments of step t with the steps 0 … t, each of shape (2, classes, t + 1).

    Args:
        hidden: ``E[h_t h_t']``, averaged over classes: shape (2, t + 1).
        mean: of ``h_t``.
        keeps: mean of the carrying gate, shape (classes,).
        carry: its pair moments.
        shown: of ``∂h/∂m``.
        to_x: for every gate the pair moments of ``∂m/∂u`` (``∂h/∂u`` of a gate behind the memory), on the input's side.
        to_h: likewise on the state's side.
    """

    hidden: Array
    mean: float
    keeps: Array
    carry: Array
    shown: Array
    to_x: list[Array]
    to_h: list[Array]


class _Gate:
    """A function of a pre-activation, its coefficients at all steps so far."""

    def __init__(self, curve: Curve, classes: int, steps: int) -> None:
        self._curve = curve
        self._std = np.zeros((classes, steps))
        self._values, self._slopes = (np.zeros((ORDERS + 1, classes, steps)) for _ in range(2))
        self.means = np.zeros((classes, steps))

    def grow(self, more: int) -> None:
        """Make room for more steps."""
        self._std, self.means = (np.pad(x, [(0, 0), (0, more)]) for x in (self._std, self.means))
        self._values, self._slopes = (np.pad(x, [(0, 0), (0, 0), (0, more)]) for x in (self._values, self._slopes))

    def step(self, mean: Array, table: Array) -> tuple[Array, Array]:
        """Pair moments of values and of slopes, from the covariances of the pre-activation (2, classes, t + 1)."""
        t = table.shape[-1] - 1
        std = np.sqrt(np.maximum(table[0, :, t], 0.0))
        self._std[:, t] = std
        for store, found in zip((self._values, self._slopes), self._curve.expand(mean, std), strict=True):
            store[:, :, t] = found.T
        self.means[:, t] = self._values[0, :, t]
        both = std[:, None] * self._std[:, : t + 1]
        rho = powers(np.divide(table, both, out=np.zeros_like(table), where=both > 0))
        values, slopes = (paired(c[:, :, t], c[:, :, : t + 1], rho) for c in (self._values, self._slopes))
        return values, slopes


@dataclass
class Cell:
    """The laws of a cell of one direction of one layer.

    Args:
        drives: of its gates, in PyTorch's order.
        offsets: of the carrying gate's bias in the classes of units.
        weights: shares of the classes.
        steps: room for so many.
        initial: ``E[h²]`` and ``E[m²]`` of the initial state, within a sample and across two.
        projected: sums of the variances of a projection's weights, over units and over what they are projected to; ones without.
    """

    drives: Sequence[Drive]
    offsets: Array
    weights: Array
    steps: int
    initial: tuple[Array, Array]
    projected: tuple[float, float] = (1.0, 1.0)
    q: Array = field(init=False)
    memory: Array = field(init=False)
    _means: Array = field(init=False)

    curves: ClassVar[Sequence[Curve]] = ()
    behind: ClassVar[Sequence[bool]] = ()
    """Gates that act behind the memory, on what is shown of it."""
    carrier: ClassVar[int | None] = None
    open: ClassVar[bool] = False
    """What is shown is the memory itself."""

    def grow(self, steps: int) -> None:
        """Make room for more steps."""
        more = steps - self.steps
        self.steps = steps
        self.q = np.pad(self.q, [(0, 0), (0, more), (0, more)])
        self.memory = np.pad(self.memory, [(0, 0), (0, 0), (0, more), (0, more)])
        self._means = np.pad(self._means, [(0, 0), (0, more)])
        for gate in self._gates:
            gate.grow(more)

    def __post_init__(self) -> None:
        n, m = self.steps, len(self.weights)
        last = len(self.curves) if self.carrier is None else 4  # only what carries the memory, and it itself, differ by class
        self._gates = [_Gate(curve, m if k in (self.carrier, last) else 1, n) for k, curve in enumerate(self.curves)]
        self.q = np.zeros((2, n + 1, n + 1))
        self.memory = np.zeros((2, m, n + 1, n + 1))
        self.q[:, 0, 0] = self.initial[0]
        self.memory[:, :, 0, 0] = self.initial[1][:, None]
        self._gathered = np.zeros((2, m, 0))
        self._means = np.zeros((m, n))

    def _gate(self, k: int, x: Array, t: int) -> tuple[Array, Array]:
        drive = self.drives[k]
        table = (drive.x * x + drive.h * self.q[:, t, : t + 1] + sum(drive.var))[:, None]
        if k != self.carrier:
            return self._gates[k].step(np.array([sum(drive.mean)]), table)
        table = np.repeat(table - float(self.weights @ self.offsets**2), len(self.weights), 1)
        return self._gates[k].step(sum(drive.mean) + self.offsets, table)

    def _kept(self, t: int, h: Array, memory: Array) -> None:
        self.q[:, t + 1, 1 : t + 2] = self.q[:, 1 : t + 2, t + 1] = self.projected[0] * h
        self.memory[:, :, t + 1, 1 : t + 2] = self.memory[:, :, 1 : t + 2, t + 1] = memory

    def _behind(self, new: Array, keeps: Array, carry: Array, cross: tuple[Array, Array], t: int) -> tuple[Array, Array, Array]:
        """Pair moments of the memory with itself, and ``E[m_{t−1} n_t']`` and ``E[m_{t'−1} n_t]``.

        Args:
            new: of the new content n.
            keeps: means of the carrying gate at the steps so far.
            carry: its pair moments.
            cross: what of it multiplies the two mixed moments.
        """
        new = np.broadcast_to(new, carry.shape)
        gathered = scanned(new, keeps)  # E[m_t' n_t], the latest step last
        before = gathered[..., t - 1 : t] if t else np.zeros_like(gathered)
        earlier = np.concatenate([self._gathered, before], -1)
        later = np.concatenate([np.zeros_like(gathered[..., :1]), gathered[..., :t]], -1)
        self._gathered = keeps[:, t, None] * earlier + new
        out = carry * self.memory[:, :, t, : t + 1] + cross[0] * earlier + cross[1] * later + new
        self.memory[:, :, t + 1, 0] = self.memory[:, :, 0, t + 1] = keeps[:, t] * self.memory[:, :, t, 0]
        return out, earlier, later

    def _mean_memory(self, new: Array, keeps: Array, t: int) -> Array:
        """Means of the memory at the steps so far."""
        self._means[:, t] = new + (keeps * self._means[:, t - 1] if t else 0.0)
        return self._means[:, : t + 1]

    def row(self, x: Array, t: int) -> Row:
        """Step t, from the pair moments of its input with the inputs so far, shape (2, t + 1)."""
        return self._row(x, t)

    def _row(self, x: Array, t: int) -> Row:
        raise NotImplementedError


class Rnn(Cell):
    """``h = φ(W x + b + U h + b')``."""

    curves, behind = (TANH,), (False,)

    def _row(self, x: Array, t: int) -> Row:
        values, slopes = self._gate(0, x, t)
        hidden = np.tensordot(self.weights, values, (0, 1))
        self._kept(t, hidden, values)
        nothing = np.zeros(len(self.weights))
        mean, to = float(self.weights @ self._gates[0].means[:, t]), [slopes]
        return Row(hidden, mean, nothing, np.zeros_like(values), np.ones_like(values), to, to)


class ReluRnn(Rnn):
    """The same with a ReLU."""

    curves = (RELU,)


class Lstm(Cell):
    """Hochreiter & Schmidhuber 1997; PyTorch's gate order i, f, g, o."""

    curves, behind, carrier = (SIGMOID, SIGMOID, TANH, SIGMOID, TANH), (False, False, False, True), 1

    def _row(self, x: Array, t: int) -> Row:
        (i, i_), (f, f_), (g, g_), (o, o_) = (self._gate(k, x, t) for k in range(4))
        before = self.memory[:, :, t, : t + 1].copy()
        keeps = self._gates[1].means[:, : t + 1]
        memory, _, _ = self._behind(i * g, keeps, f, (keeps[:, t, None], keeps), t)
        means = self._mean_memory(self._gates[0].means[:, t] * self._gates[2].means[:, t], keeps[:, t], t)
        c, c_ = self._gates[4].step(means[:, t], memory - means[:, t, None] * means)
        hidden = np.tensordot(self.weights, o * c, (0, 1))
        self._kept(t, hidden, memory)
        mean = float(self.weights @ (self._gates[3].means[:, t] * self._gates[4].means[:, t]))
        to = [np.broadcast_to(x, memory.shape) for x in (i_ * g, f_ * before, i * g_, o_ * c)]
        return Row(hidden, mean, keeps[:, t], f, o * c_, to, to)


class Gru(Cell):
    """Cho et al. 2014; PyTorch's gate order r, z, n, and its z multiplies the state."""

    curves, behind, carrier = (SIGMOID, SIGMOID), (False, False, False), 1
    open = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._candidate = Candidate(self.drives[2].mean, self.steps)

    def grow(self, steps: int) -> None:
        """Make room for more steps."""
        self._candidate.grow(steps - self.steps)
        super().grow(steps)

    def _row(self, x: Array, t: int) -> Row:
        (r, _), (z, z_) = (self._gate(k, x, t) for k in range(2))
        reset, drive = self.drives[0], self.drives[2]
        states = self.q[:, t, : t + 1]
        gate = sum(reset.mean), reset.x * x + reset.h * states + sum(reset.var)
        n = self._candidate.step(gate, r[:, 0], drive.x * x + drive.var[0], drive.h * states + drive.var[1])
        keeps = self._gates[1].means[:, : t + 1]
        open_, mix = 1 - keeps, 1 - keeps[:, t, None] - keeps + z
        before = self.memory[:, :, t, : t + 1].copy()
        cross = ((keeps[:, t, None] - z) / open_, (keeps - z) / open_[:, t, None])
        memory, earlier, later = self._behind(mix * n.value, keeps, z, cross, t)
        hidden = np.tensordot(self.weights, memory, (0, 1))
        self._kept(t, hidden, memory)
        self.q[:, t + 1, 0] = self.q[:, 0, t + 1] = np.tensordot(self.weights, self.memory[:, :, t + 1, 0], (0, 1))
        means = self._mean_memory(open_[:, t] * self._candidate.means[:, t], keeps[:, t], t)
        to_z = z_ * (before + n.value - earlier / open_ - later / open_[:, t, None])
        to_x = [mix * n.to_reset, to_z, mix * n.to_x]
        return Row(hidden, float(self.weights @ means[:, t]), keeps[:, t], z, np.ones_like(z), to_x, [*to_x[:2], mix * n.to_h])


def scanned(x: Array, keeps: Array) -> Array:
    """``y_t = x_t + k_t y_{t−1}`` along the last axis, in log₂ n passes (Hillis & Steele 1986)."""
    y, k, n, shift = x.copy(), keeps.copy(), x.shape[-1], 1
    while shift < n:
        y[..., shift:] += k[..., shift:] * y[..., :-shift].copy()
        k[..., shift:] = k[..., shift:] * k[..., :-shift].copy()
        k[..., :shift] = 0.0
        shift *= 2
    return y


CELLS: dict[str, type[Cell]] = {"RNN_TANH": Rnn, "RNN_RELU": ReluRnn, "LSTM": Lstm, "GRU": Gru}
