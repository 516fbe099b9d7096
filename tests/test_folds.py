"""Steps of a loop that repeat the one before are filled in as they would have been worked out."""

import math

import pytest
import torch
from torch import nn

from gradlint.flow import propagate
from gradlint.folds import Resting, Returning
from gradlint.moments import Moments
from gradlint.trace import build, parse_input, recording, trace


class Steps(nn.Module):
    """A cell step by step; its last state, or all of them."""

    def __init__(self, cell, *, every=False, gain=None):
        super().__init__()
        self.cell, self.every = cell(16, 32), every
        if gain is not None:
            nn.init.normal_(self.cell.weight_hh, std=gain / math.sqrt(32))

    def forward(self, x):
        state = x.new_zeros(x.shape[1], 32)
        pair, shown = (state, state), []
        for moment in x.unbind(0):
            if isinstance(self.cell, nn.LSTMCell):
                pair = self.cell(moment, pair)
                state = pair[0]
            else:
                state = self.cell(moment, state)
            shown.append(state)
        return torch.stack(shown) if self.every else state


class Tied(nn.Module):
    """One layer again and again."""

    def __init__(self, depth):
        super().__init__()
        self.depth, self.first, self.layer = depth, nn.Linear(16, 32), nn.Linear(32, 32)

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.depth):
            x = torch.tanh(self.layer(x))
        return x


class Leaky(nn.Module):
    """Written by hand: a leak, and a matrix of gain 1.2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(32, 16) / 4)
        self.u = nn.Parameter(torch.randn(32, 32) * 1.2 / math.sqrt(32))

    def forward(self, x):
        h = x.new_zeros(x.shape[1], 32)
        for moment in x.unbind(0):
            h = 0.7 * h + 0.3 * torch.tanh(moment @ self.w.t() + h @ self.u.t())
        return h


def flowed(make, steps):
    with recording() as laws:
        model = build(make)
    return propagate(trace(model, [parse_input("4,16" if steps is None else f"{steps},4,16")], laws=laws))


@pytest.fixture
def unfolded(monkeypatch):
    """The same with every step worked out."""

    def run(make, steps):
        with monkeypatch.context() as patched:
            patched.setattr(Resting, "before", lambda self, node: None)
            patched.setattr(Returning, "reached", lambda self, node: False)
            return flowed(make, steps)

    return run


def apart(a, b):
    """The largest difference in bits, forward and backward."""
    assert a.forward.keys() == b.forward.keys()
    assert a.backward.keys() == b.backward.keys()
    assert sorted((e.consumer, e.producer) for e in a.edges) == sorted((e.consumer, e.producer) for e in b.edges)
    forward = [(a.forward[n].q, x.q) for n, x in b.forward.items() if isinstance(x, Moments) and x.q > 0]
    backward = [
        abs(0.5 * math.log2(a.backward[n].q / g.q) + a.units.backward[n] - b.units.backward[n])
        for n, g in b.backward.items()
        if g.q > 0
    ]
    return max(abs(0.5 * math.log2(x / y)) for x, y in forward), max(backward)


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        pytest.param(lambda: Steps(nn.RNNCell), 60, id="default"),
        pytest.param(lambda: Steps(nn.RNNCell, gain=2.0), 60, id="growing"),
        pytest.param(lambda: Steps(nn.RNNCell, every=True), 60, id="every state"),
        pytest.param(lambda: Tied(60), None, id="tied depth"),
    ],
)
def test_loops_without_a_diagonal_path_are_folded_exactly(make, steps, unfolded):
    folded = flowed(make, steps)
    assert max(apart(folded, unfolded(make, steps))) < 1e-6


def test_most_of_a_long_loop_is_folded(monkeypatch):
    filled = []
    fold = Returning._fold
    monkeypatch.setattr(
        Returning, "_fold", lambda self, loop, k, factors: (filled.append(len(factors)), fold(self, loop, k, factors))
    )
    flowed(lambda: Steps(nn.RNNCell), 100)
    assert sum(filled) > 60


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: Steps(nn.LSTMCell), lambda: Steps(nn.GRUCell), Leaky], ids=["LSTM", "GRU", "leak"])
def test_gradients_along_a_diagonal_path_are_continued(make, unfolded):
    forward, backward = apart(flowed(make, 70), unfolded(make, 70))
    assert forward < 1e-5
    assert backward < 0.03
