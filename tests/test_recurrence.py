"""Recurrence as one object: found in the graph, its growth against autograd through time, its verdicts as functions of T."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradlint
from gradlint.findings import Severity
from gradlint.recurrence import Curve, Recurrence, find_recurrences
from gradlint.recurrence.matrix import powers_of


def recurrences(build: Callable[[], nn.Module], *shapes: Sequence[int]) -> tuple[Recurrence, ...]:
    return find_recurrences(gradlint.analyze(build, tuple(torch.randn(*s) for s in shapes)).flowed)


def only(build: Callable[[], nn.Module], *shapes: Sequence[int]) -> Recurrence:
    (found,) = recurrences(build, *shapes)
    return found


class Stepped(nn.Module):
    """A loop that keeps its states, for autograd to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[torch.Tensor] = []

    def kept(self, state: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not isinstance(state, torch.nn.Parameter) and hasattr(state, "retain_grad"):
            self.states.append(state)
        return state


def measured(build: Callable[[], Stepped], shape: Sequence[int], settle: int, seeds: int = 6) -> Any:
    """Bits of gradient norm k steps before the last state, by autograd; the first ``settle`` states are left out."""
    total: Any = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build()
        model.states.clear()
        model(torch.randn(*shape))
        states = model.states[settle:]
        grads = torch.autograd.grad(states[-1], states, torch.randn_like(states[-1]))
        total = total + np.array([float(g.square().sum()) for g in reversed(grads)])
    return np.log2(total / total[0]) / 2


class Plain(Stepped):
    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh, init: Any = None, leak: float = 1.0):
        super().__init__()
        self.inp, self.rec, self.activation, self.leak = nn.Linear(32, 64), nn.Linear(64, 64, bias=False), activation, leak
        if init is not None:
            init(self.rec.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.size(0), 64)
        for t in range(x.size(1)):
            new = self.activation(self.inp(x[:, t]) + self.rec(h))
            h = self.kept(new if self.leak == 1.0 else (1 - self.leak) * h + self.leak * new)
        return h


class Celled(Stepped):
    def __init__(self, cell: Any, gate_bias: float | None = None) -> None:
        super().__init__()
        self.cell = cell(32, 64)
        if gate_bias is not None:
            with torch.no_grad():
                self.cell.bias_hh[64:128].fill_(gate_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.size(0), 64)
        state: Any = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(x.size(1)):
            state = self.cell(x[:, t], state)
            self.kept(state[1] if isinstance(state, tuple) else state)
        return state[0] if isinstance(state, tuple) else state


class Layered(nn.Module):
    def __init__(self, layer: Any, gate_bias: float | None = None, **options: Any) -> None:
        super().__init__()
        self.rnn, self.out = layer(32, 64, batch_first=True, **options), nn.Linear(64, 5)
        if gate_bias is not None:
            with torch.no_grad():
                self.rnn.bias_hh_l0[64:128].fill_(gate_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def shifted(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.copy_(0.9 * torch.eye(64) + 0.6 * torch.diag(torch.ones(63), 1))


# ---- growth against autograd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        Plain,
        lambda: Plain(torch.relu, nn.init.orthogonal_),
        lambda: Plain(torch.tanh, lambda w: nn.init.normal_(w, std=1.5 / 8)),
        lambda: Plain(torch.tanh, leak=0.1),
        lambda: Plain(lambda x: x, shifted),
        lambda: Celled(nn.LSTMCell, 1.0),
        lambda: Celled(nn.LSTMCell, 4.0),
        lambda: Celled(nn.GRUCell),
        lambda: Celled(nn.GRUCell, 2.0),
    ],
    ids=["tanh", "relu", "tanh ×1.5", "leak", "shift", "lstm +1", "lstm +4", "gru", "gru +2"],
)
def test_growth_is_that_of_autograd_through_time(build: Callable[[], Stepped]) -> None:
    """Traced over 10 steps, right over 50."""
    truth = measured(build, (8, 110, 32), settle=60)
    curve = only(build, (8, 10, 32)).curve
    for k in (1, 5, 10, 20, 35, 49):
        assert abs(curve.at(k) - truth[k]) < max(1.0, 0.1 * abs(truth[k])), (k, curve.at(k), truth[k])


@pytest.mark.parametrize(("layer", "cell"), [(nn.RNN, nn.RNNCell), (nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)])
@pytest.mark.parametrize("bias", [None, 2.0])
def test_a_layer_and_its_cell_stepped_by_hand_agree(layer: Any, cell: Any, bias: float | None) -> None:
    bias = None if layer is nn.RNN else bias
    one, two = only(lambda: Layered(layer, bias), (8, 12, 32)), only(lambda: Celled(cell, bias), (8, 12, 32))
    assert one.cell == two.cell
    for k in (5, 20, 100):
        assert one.curve.at(k) == pytest.approx(two.curve.at(k), abs=0.1)


class Gates(nn.Module):
    """An LSTM by hand, a layer for every gate."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.ModuleList([nn.Linear(32, 64) for _ in range(4)])
        self.h = nn.ModuleList([nn.Linear(64, 64) for _ in range(4)])
        for layer in (*self.x, *self.h):  # as torch's cells
            nn.init.uniform_(layer.weight, -1 / 8, 1 / 8)
            nn.init.uniform_(layer.bias, -1 / 8, 1 / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.size(0), 64)
        for xt in x.unbind(1):
            i, f, g, o = (a(xt) + b(h) for a, b in zip(self.x, self.h, strict=True))
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


def test_an_lstm_written_by_hand_is_an_lstm() -> None:
    found, torchs = only(Gates, (8, 12, 32)), only(lambda: Layered(nn.LSTM), (8, 12, 32))
    assert found.keeps == pytest.approx(0.5, abs=0.01)
    assert found.curve.per_step == pytest.approx(torchs.curve.per_step, abs=0.03)


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_tied_depth_grows_coherently(scale: float) -> None:
    class Tied(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(64, 64, bias=False)
            nn.init.normal_(self.block.weight, std=1 / 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(24):
                x = self.kept(x + scale * self.block(x))
            return x

    truth = measured(Tied, (8, 64), settle=0, seeds=12)
    found = only(Tied, (8, 64))
    assert (found.along, found.steps, found.bypass) == ("depth", 24, True)
    assert found.curve.at(23) == pytest.approx(truth[23], abs=0.5)
    untied = 23 * math.log2(1 + scale**2) / 2
    assert found.curve.at(23) > 3 * untied


# ---- what is a recurrence ---------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    def __init__(self, *, tied: bool, shared_bias: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(32, 32)]) if tied else nn.ModuleList([nn.Linear(32, 32) for _ in range(8)])
        self.shared = nn.Parameter(torch.randn(4, 32)) if shared_bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(8):
            x = torch.tanh(self.blocks[i % len(self.blocks)](x))
            x = x if self.shared is None else x + self.shared
        return x


def test_layers_of_their_own_are_no_recurrence_whatever_they_share() -> None:
    assert recurrences(lambda: Blocks(tied=False), (4, 32)) == ()
    assert recurrences(lambda: Blocks(tied=False, shared_bias=True), (4, 32)) == ()
    assert [r.along for r in recurrences(lambda: Blocks(tied=True), (4, 32))] == ["depth"]


def test_layers_stacked_in_one_loop_are_recurrences_of_their_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.RNNCell(32, 64), nn.GRUCell(64, 48)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, g = x.new_zeros(x.size(0), 64), x.new_zeros(x.size(0), 48)
            for t in range(x.size(1)):
                h = self.a(x[:, t], h)
                g = self.b(h, g)
            return g

    assert {(r.module, r.cell, r.steps) for r in recurrences(Two, (4, 9, 32))} == {("a", "RNN_TANH", 9), ("b", "GRU", 9)}


def test_a_state_space_scan_is_diagonal_and_not_blamed_for_forgetting() -> None:
    class Scan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_a, self.step, self.inp = nn.Parameter(torch.arange(1.0, 9).log()), nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dt = nn.functional.softplus(self.step(x))[..., None]
            decay, fed = torch.exp(-dt * self.log_a.exp()), dt * self.inp(x)[:, :, None] * x[..., None]
            h = x.new_zeros(x.size(0), 16, 8)
            for t in range(x.size(1)):
                h = decay[:, t] * h + fed[:, t]
            return h.sum(-1)

    found = only(Scan, (4, 20, 16))
    assert (found.along, found.diagonal, found.parameters) == ("sequence", True, ())
    assert found.curve.per_step < 0
    report = gradlint.lint(Scan, (torch.randn(4, 20, 16),), horizon=500)
    assert not [f for f in report.findings if f.code.startswith("GL4")]


def test_a_module_called_step_by_step_is_one_recurrence() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(32, 64, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state, outs = None, []
            for t in range(x.size(1)):
                out, state = self.rnn(x[:, t : t + 1], state)
                outs.append(out)
            return torch.cat(outs, 1)

    found = only(Decoder, (4, 10, 32))
    assert (found.cell, found.steps) == ("GRU", 10)


# ---- matrices ---------------------------------------------------------------------------------------------------------


def test_powers_are_those_of_the_matrix() -> None:
    weight = nn.Parameter(torch.zeros(64, 64))
    shifted(weight.data)
    law = (
        gradlint.analyze(lambda: Plain(lambda x: x, shifted), (torch.randn(4, 8, 32),)).flowed.traced.parameters["rec.weight"].law
    )
    powers = powers_of(law, 40)
    assert powers is not None
    w = np.asarray(weight.detach(), dtype=float)
    forty = np.linalg.matrix_power(w, 40)
    assert powers.bits[40] == pytest.approx(math.log2(np.linalg.norm(forty) / 8))
    assert powers.largest[40] == pytest.approx(math.log2(np.linalg.norm(forty, 2)))
    assert powers.norm == pytest.approx(np.linalg.norm(w, 2))
    assert powers.radius == pytest.approx(0.9)
    assert powers.henrici > 0.5
    drawn = gradlint.analyze(Plain, (torch.randn(4, 8, 32),)).flowed.traced.parameters["rec.weight"].law
    assert powers_of(drawn, 40) is None


def test_a_rectified_identity_keeps_the_gradient() -> None:
    truth = measured(lambda: Plain(torch.relu, nn.init.eye_), (8, 60, 32), settle=20)
    found = only(lambda: Plain(torch.relu, nn.init.eye_), (8, 60, 32))
    assert abs(found.curve.at(39) - truth[39]) < 1.0


# ---- curves -----------------------------------------------------------------------------------------------------------


def test_a_curve_goes_on_as_it_has_settled() -> None:
    def coherent(k: int) -> float:  # the exact growth of aI + gG
        return math.log2(sum(math.comb(k, j) ** 2 * 0.8 ** (2 * (k - j)) * 0.3 ** (2 * j) for j in range(k + 1))) / 2

    curve = Curve(tuple(coherent(k) for k in range(24)))
    assert curve.per_step == pytest.approx(math.log2(1.1), abs=0.003)
    assert curve.at(200) == pytest.approx(coherent(200), abs=0.5)
    straight = Curve(tuple(-0.5 * k for k in range(16)))
    assert (straight.per_step, straight.half_life, straight.transient) == pytest.approx((-0.5, 2.0, 0.0))
    assert straight.at(1000) == pytest.approx(-500)


def test_how_far_a_curve_reaches() -> None:
    growing, still = Curve(tuple(0.1 * k for k in range(16))), Curve((0.0,) * 16)
    assert growing.reach(5.01) == 50
    assert growing.reach(0.55) == 5
    assert growing.reach(-5.0) is None
    assert still.reach(5.0) is None
    assert still.half_life is None
    hump = Curve((*(2.0 * k for k in range(8)), *(14.0 - 2 * k for k in range(30))))
    assert hump.reach(9.0) == 4
    assert hump.transient > 9


# ---- verdicts ---------------------------------------------------------------------------------------------------------


def verdict(build: Callable[[], nn.Module], steps: int, **settings: Any) -> list[tuple[str, Severity, Any]]:
    report = gradlint.lint(build, (torch.randn(4, steps, 32),), **settings)
    return [(f.code, f.severity, f.evidence.get("steps_within_limit")) for f in report.findings if f.code.startswith("GL4")]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Plain(torch.relu, lambda w: nn.init.normal_(w, std=1.6 / 8)),
        lambda: Plain(torch.tanh, lambda w: nn.init.normal_(w, std=2.5 / 8)),
        lambda: Layered(nn.RNN),
        lambda: Celled(nn.LSTMCell),
    ],
    ids=["explodes", "chaos", "rnn", "lstm cell"],
)
def test_a_verdict_does_not_depend_on_the_length_that_was_traced(build: Callable[[], nn.Module]) -> None:
    settings = {"sequence_length": 100, "horizon": 50}
    short = verdict(build, 8, **settings)
    assert short
    assert short == verdict(build, 40, **settings)


def test_a_verdict_is_a_function_of_the_number_of_steps() -> None:
    build = lambda: Plain(torch.relu, lambda w: nn.init.normal_(w, std=1.6 / 8))  # noqa: E731
    assert {code for code, _, _ in verdict(build, 16, sequence_length=20)} == set()
    ((code, severity, reach),) = [v for v in verdict(build, 16, sequence_length=40) if v[0] == "GL401"]
    assert (code, severity) == ("GL401", Severity.WARNING)
    assert reach == pytest.approx(28, abs=1)
    assert ("GL401", Severity.ERROR, reach) in verdict(build, 16, sequence_length=70)


def test_forgetting_is_information_until_the_task_is_known() -> None:
    assert {severity for _, severity, _ in verdict(lambda: Layered(nn.LSTM), 60)} == {Severity.INFO}
    assert Severity.WARNING in {severity for _, severity, _ in verdict(lambda: Layered(nn.LSTM), 60, horizon=50)}
    assert verdict(lambda: Layered(nn.LSTM), 60, horizon=5) == []
    assert verdict(lambda: Layered(nn.LSTM, 4.0), 60, horizon=50) == []


def test_the_bias_named_in_a_fix_does_what_it_says() -> None:
    report = gradlint.lint(lambda: Layered(nn.LSTM), (torch.randn(4, 60, 32),), horizon=50)
    (fix,) = [f.fix for f in report.findings if f.code == "GL402"] or [f.fix for f in report.findings if f.code == "GL404"]
    bias = float(fix.split("bias of ")[1].split(" ")[0])
    assert verdict(lambda: Layered(nn.LSTM, bias), 60, horizon=50) == []
