"""Recurrent modules against autograd through time, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradlint.analysis import Analysis
from gradlint.flow import propagate
from gradlint.trace import build, parse_input, recording, trace

SEEDS = 8


class Last(nn.Module):
    """The output of the last step of a recurrent module."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out[-1]


class All(Last):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out


def analysed(factory: Callable[[], nn.Module], shape: str) -> Analysis:
    with recording() as laws:
        model = build(factory)
    return Analysis.of(propagate(trace(model, [parse_input(shape)], laws=laws)))


def measured(factory: Callable[[], nn.Module], shape: str) -> tuple[Any, dict[str, float]]:
    """Bits of the input's gradient by step, the mean over seeds; root mean squares of parameter gradients over all seeds."""
    bits, squares = [], dict[str, float]()
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = factory().double()
        x = torch.randn([int(n) for n in shape.split(",")], dtype=torch.float64, requires_grad=True)
        out = model(x)
        (out * torch.randn_like(out)).sum().backward()
        assert x.grad is not None
        bits.append(0.5 * np.log2(x.grad.square().flatten(1).mean(1).numpy()))
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            squares[name] = squares.get(name, 0.0) + float(parameter.grad.square().mean()) / SEEDS
    return np.mean(bits, 0), {name: math.sqrt(square) for name, square in squares.items()}


def compared(factory: Callable[[], nn.Module], shape: str) -> tuple[float, float]:
    """The largest errors in bits, over steps and over parameters."""
    analysis, (bits, parameters) = analysed(factory, shape), measured(factory, shape)
    errors = [abs(math.log2((analysis.parameters[name].grad_rms or 0.0) / rms)) for name, rms in parameters.items()]
    return float(np.abs(np.array(analysis.trails["rnn"]) - bits).max()), max(errors)


def orthogonal(rnn: Any) -> Any:
    for rows in rnn.weight_hh_l0.split(rnn.hidden_size):
        nn.init.orthogonal_(rows)
    return rnn


def remembering(rnn: Any, bias: float) -> Any:
    with torch.no_grad():
        rnn.bias_hh_l0[rnn.hidden_size : 2 * rnn.hidden_size] += bias
    return rnn


@pytest.mark.parametrize(
    "make",
    [
        lambda: orthogonal(nn.RNN(32, 96)),
        lambda: nn.RNN(32, 96, nonlinearity="relu"),
        lambda: nn.LSTM(32, 96),
        lambda: remembering(nn.LSTM(32, 96), 1.0),
        lambda: remembering(nn.LSTM(32, 96), 3.0),
        lambda: nn.GRU(32, 96),
        lambda: orthogonal(nn.GRU(32, 96)),
        lambda: nn.LSTM(32, 96, proj_size=48),
    ],
)
def test_gradient_at_every_step(make: Callable[[], nn.Module]) -> None:
    steps, parameters = compared(lambda: Last(make()), "40,4,32")
    assert steps < 0.8
    assert parameters < 0.4


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_layers_and_directions(kind: Any) -> None:
    steps, parameters = compared(lambda: All(kind(32, 64, num_layers=2, bidirectional=True, dropout=0.2)), "16,4,32")
    assert steps < 0.4
    assert parameters < 0.3


def test_a_forget_gate_of_bias_three_forgets_little_and_the_default_much() -> None:
    default, kept = (analysed(lambda b=b: Last(remembering(nn.LSTM(32, 96), b)), "60,4,32").trails["rnn"] for b in (0.0, 3.0))
    assert default[0] - default[-1] < -35
    assert abs(kept[0] - kept[-1]) < 4


def test_the_initial_state_gets_a_gradient() -> None:
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.rnn = nn.Linear(16, 64), nn.GRU(16, 64)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rnn(x, self.start(x[0])[None])[0]
            return out[-1]

    analysis, (_, parameters) = analysed(Started, "8,4,16"), measured(Started, "8,4,16")
    for name, rms in parameters.items():
        assert abs(math.log2((analysis.parameters[name].grad_rms or 0.0) / rms)) < 0.35, name


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_an_unbatched_sequence_is_a_batch_of_one(kind: Any) -> None:
    class First(Last):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, 0])

    alone, one = analysed(lambda: First(kind(16, 32)), "10,1,16"), analysed(lambda: Last(kind(16, 32)), "10,1,16")
    assert alone.trails["rnn"] == pytest.approx(one.trails["rnn"])
    for name, facts in one.parameters.items():
        assert alone.parameters[name].grad_rms == pytest.approx(facts.grad_rms)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_packed_sequences(kind: Any) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = kind(32, 64, batch_first=True), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([12, 9, 7, 3]), batch_first=True, enforce_sorted=False)
            out, state = self.rnn(packed)
            state = state[0] if isinstance(state, tuple) else state
            rows: Tensor = self.out(pad_packed_sequence(out, batch_first=True)[0]).mean(1) + self.out(state[-1])
            return rows

    analysis, (_, parameters) = analysed(Packed, "4,12,32"), measured(Packed, "4,12,32")
    assert analysis.coverage.known == analysis.coverage.total
    for name, rms in parameters.items():
        assert abs(math.log2((analysis.parameters[name].grad_rms or 0.0) / rms)) < 0.8, name


def triangular(size: int = 64) -> nn.Module:
    """Spectral radius 0.9; its powers grow before they decay."""
    rnn = nn.RNN(8, size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.triu(torch.randn(size, size, generator=generator), 1) / 6 + 0.9 * torch.eye(size))
        rnn.weight_ih_l0.mul_(1e-3)
        rnn.bias_ih_l0.zero_()
        rnn.bias_hh_l0.zero_()
    return Last(rnn)


def test_a_matrix_that_is_given_acts_as_it_is() -> None:
    steps, parameters = compared(triangular, "30,4,8")
    bits = analysed(triangular, "30,4,8").trails["rnn"]
    assert max(bits) - bits[-1] > 5  # while 0.9^30 is 4.6 bits less
    assert steps < 0.7
    assert parameters < 1.5  # a few draws of the cotangent are amplified most


def test_an_identity_keeps_the_gradient() -> None:
    def made() -> nn.Module:
        rnn = nn.RNN(16, 64, nonlinearity="relu")
        nn.init.eye_(rnn.weight_hh_l0)
        nn.init.normal_(rnn.weight_ih_l0, std=1e-3)
        nn.init.zeros_(rnn.bias_ih_l0)
        nn.init.zeros_(rnn.bias_hh_l0)
        return Last(rnn)

    steps, _ = compared(made, "25,4,16")
    assert steps < 0.3


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_powers_of_two_beyond_floats(gain: float) -> None:
    def made() -> nn.Module:
        rnn = nn.RNN(16, 64)
        nn.init.orthogonal_(rnn.weight_hh_l0, gain=gain)
        return Last(rnn)

    analysis = analysed(made, "4000,2,16")
    bits = np.array(analysis.trails["rnn"])
    assert np.isfinite(bits).all()
    assert abs(bits[0] - bits[-1]) > 1500
    growth = np.diff(bits)[100:-100]
    assert np.ptp(growth) < 1e-6
    assert all(not math.isnan(facts.grad_rms or 0.0) for facts in analysis.parameters.values())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_long_sequences_are_extrapolated_as_they_go_on(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = analysed(lambda: Last(kind(16, 64)), "500,2,16")
    monkeypatch.setattr("gradlint.twotime.gradients._LOOK", 10**9)
    whole = analysed(lambda: Last(kind(16, 64)), "500,2,16")
    difference = np.abs(np.array(short.trails["rnn"]) - np.array(whole.trails["rnn"]))
    assert 0 < difference.max() < 0.5  # of some 350
    for name, facts in whole.parameters.items():
        assert short.parameters[name].grad_rms == pytest.approx(facts.grad_rms, rel=1e-3)


class Loop(nn.Module):
    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell(32, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], 64)
        for moment in x.unbind(0):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(moment, (h, c))
            else:
                h = self.cell(moment, h)
        return h


@pytest.mark.parametrize(("kind", "cell"), [(nn.RNN, nn.RNNCell), (nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)])
def test_a_loop_by_hand_is_judged_like_the_module(kind: Any, cell: Any) -> None:
    module, loop = analysed(lambda: Last(kind(32, 64)), "12,4,32"), analysed(lambda: Loop(cell), "12,4,32")
    for name, facts in loop.parameters.items():
        other = module.parameters[f"rnn.{name.rpartition('.')[2]}_l0"].grad_rms or 0.0
        assert abs(math.log2((facts.grad_rms or 0.0) / other)) < 0.5, name
