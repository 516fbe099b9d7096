"""Gradients through time: predicted beside measured at every step of nn.RNN, nn.LSTM and nn.GRU, and of loops by hand.

    python -m benchmarks.recurrent                 the tables
    python -m benchmarks.recurrent --only lstm     cases whose name contains it
    python -m benchmarks.recurrent --write         also commit the tables to README.md and the plot to recurrent.svg

Measured is log2 of the root mean square of the gradient at the input of each step, by autograd in float64, its mean over seeds.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks._tables import between, share
from benchmarks.accuracy import ROOT, imported
from gradlint.analysis import Analysis
from gradlint.flow import propagate
from gradlint.trace import build, parse_input, recording, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEEDS, BATCH, FEATURES = 6, 4, 64
KINDS: dict[str, Any] = {
    "tanh": functools.partial(nn.RNN, nonlinearity="tanh"),
    "relu": functools.partial(nn.RNN, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
HEAD = ("cell", "weights", "H", "layers", "T", "span", "worst error", "allowed", "±", "s")
UNITS = 96  # of the loops by hand
LOOPS = ("RNNCell", "LSTMCell", "GRUCell", "free-hand")


@dataclass(frozen=True)
class Case:
    """A recurrent module whose last output is read.

    Args:
        weights: ``default``, ``orthogonal`` gate by gate, or the gain of Gaussian recurrent weights.
        bias: added to the bias of the forget gate.
    """

    kind: str
    weights: str = "default"
    hidden: int = 128
    steps: int = 100
    layers: int = 1
    bidirectional: bool = False
    bias: float = 0.0

    def __str__(self) -> str:
        return " ".join(self.names())

    def names(self) -> tuple[str, ...]:
        weights = self.weights if self.weights[0].isalpha() else f"gain {self.weights}"
        weights += f", forget bias +{self.bias:g}" if self.bias else ""
        layers = f"{self.layers}{' × 2' if self.bidirectional else ''}"
        return self.kind, weights, str(self.hidden), layers, str(self.steps)


class Last(nn.Module):
    """The output of the last step."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.rnn = KINDS[case.kind](FEATURES, case.hidden, num_layers=case.layers, bidirectional=case.bidirectional)
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                for gate, rows in enumerate(parameter.split(case.hidden)):
                    if "weight_hh" in name and case.weights == "orthogonal":
                        nn.init.orthogonal_(rows)
                    elif "weight_hh" in name and case.weights != "default":
                        nn.init.normal_(rows, std=float(case.weights) / math.sqrt(case.hidden))
                    elif "bias_hh" in name and case.bias and gate == 1:
                        rows.add_(case.bias)

    def forward(self, x):
        return self.rnn(x)[0][-1]


def cases() -> Iterator[Case]:
    for kind in KINDS:
        for weights in ("default", "orthogonal", "0.5", "1", "1.5", "2", "3"):
            yield Case(kind, weights)
        for hidden in (32, 512):
            yield Case(kind, hidden=hidden)
            yield Case(kind, "orthogonal", hidden=hidden, steps=20)
        yield Case(kind, hidden=32, steps=400)
        for weights in ("default", "orthogonal"):
            yield Case(kind, weights, steps=20)
            yield Case(kind, weights, steps=400)
        for layers in (2, 3):
            yield Case(kind, layers=layers, steps=50)
            yield Case(kind, "orthogonal", layers=layers, steps=50)
            yield Case(kind, layers=layers, steps=50, hidden=64, bidirectional=True)
        yield Case(kind, bidirectional=True)
    for bias in (1.0, 3.0):
        for steps in (20, 100, 400):
            yield Case("lstm", bias=bias, steps=steps)
        yield Case("lstm", "orthogonal", bias=bias)
        yield Case("lstm", bias=bias, hidden=32)
        yield Case("lstm", bias=bias, layers=2, steps=50)


# --- measured and predicted -------------------------------------------------------------------------------------------


def measured(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Bits at every step: their mean over seeds, and its standard error."""
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = Last(case).double()
        x = torch.randn(case.steps, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
        out = model(x)
        (gradient,) = torch.autograd.grad(out, x, torch.randn_like(out))
        largest = gradient.abs().amax((1, 2))  # squares of what is left after 400 steps are beyond floats
        squares = (gradient / largest[:, None, None]).square().mean((1, 2))
        found.append((largest.log2() + 0.5 * squares.log2()).numpy())
    return np.mean(found, 0), np.std(found, 0, ddof=1) / math.sqrt(SEEDS)


def analysed(factory: Any, steps: int) -> tuple[Analysis, float]:
    """The prediction and its seconds, without building the model."""
    imported()
    with recording() as laws:
        model = build(factory)
    start = time.process_time()
    flowed = propagate(trace(model, [parse_input(f"{steps},{BATCH},{FEATURES}")], laws=laws))
    return Analysis.of(flowed), time.process_time() - start


@dataclass(frozen=True)
class Row:
    """One case: bits at every step."""

    case: Case
    real: np.ndarray
    noise: np.ndarray
    predicted: np.ndarray
    seconds: float

    @property
    def span(self) -> float:
        return float(np.ptp(self.real))

    @property
    def allowed(self) -> float:
        return max(1.0, 0.1 * self.span)

    @property
    def worst(self) -> float:
        error = self.predicted - self.real
        return float(error[np.abs(error).argmax()])

    def cells(self) -> tuple[str, ...]:
        noise = float(self.noise[np.abs(self.predicted - self.real).argmax()])
        numbers = (f"{self.span:.1f}", f"{self.worst:+.2f}", f"{self.allowed:.2f}", f"{noise:.2f}", f"{self.seconds:.2f}")
        return *self.case.names(), *numbers


def row_of(case: Case) -> Row:
    analysis, seconds = analysed(lambda: Last(case), case.steps)
    return Row(case, *measured(case), np.array(analysis.trails["rnn"]), seconds)


# --- loops by hand ----------------------------------------------------------------------------------------------------


class Loop(nn.Module):
    """The same as an nn module of one layer, step by step."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.free = cell == "free-hand"
        self.cell = nn.LSTMCell(FEATURES, UNITS) if self.free else getattr(nn, cell)(FEATURES, UNITS)

    def step(self, x, h, c):
        cell = self.cell
        i, f, g, o = (x @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, x):
        h = c = x.new_zeros(x.shape[1], UNITS)
        for moment in x.unbind(0):
            if self.free:
                h, c = self.step(moment, h, c)
            elif isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(moment, (h, c))
            else:
                h = self.cell(moment, h)
        return h


def looped(cell: str, steps: int = 20) -> float:
    """The largest difference in bits between a loop and the nn module, over all steps."""
    kind = {"RNNCell": "tanh", "GRUCell": "gru"}.get(cell, "lstm")
    module, _ = analysed(lambda: Last(Case(kind, hidden=UNITS, steps=steps)), steps)
    loop, _ = analysed(lambda: Loop(cell), steps)
    members = [node for node in loop.nodes if node.shape == (BATCH, FEATURES) and node.op in ("getitem", "unbind")]
    assert len(members) == steps
    bits = np.array([math.log2(node.grad_rms or 0.0) for node in members])
    difference = bits - np.array(module.trails["rnn"])
    return float(difference[np.abs(difference).argmax()])


def lengths(steps: Sequence[int] = (10, 100, 1000)) -> Iterator[tuple[str, list[float]]]:
    """Seconds of the analysis by number of steps, the best of three."""
    for kind in KINDS:
        yield kind, [min(analysed(lambda: Last(Case(kind, steps=n)), n)[1] for _ in range(3)) for n in steps]  # noqa: B023


def summary(done: Sequence[Row]) -> list[str]:
    good = sum(abs(row.worst) <= row.allowed for row in done)
    errors = [abs(row.worst) for row in done]
    missed = [str(row.case) for row in done if abs(row.worst) > row.allowed]
    lines = [f"worst step within 1 bit or 10 % of the span: {good} of {len(done)} cases, {share(good, len(done))}"]
    lines.append(f"median over cases of the worst error over steps: {np.median(errors):.2f} bits")
    return [*lines, f"not so: {'; '.join(missed)}"] if missed else lines


def draw(done: Sequence[Row]) -> None:
    """Predicted beside measured at every step, and a few cases over time."""
    import matplotlib as mpl  # noqa: PLC0415 - only this needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    from benchmarks._scatter import SAME_FILE_EVERY_TIME  # noqa: PLC0415

    shown = [Case(kind) for kind in KINDS] + [
        Case("lstm", bias=1.0),
        Case("lstm", bias=3.0),
        Case("tanh", "3"),
        Case("gru", "orthogonal"),
    ]
    with mpl.rc_context(SAME_FILE_EVERY_TIME):
        figure = Figure(figsize=(10.4, 5.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        for number, kind in enumerate(KINDS):
            rows = [row for row in done if row.case.kind == kind]
            if rows:
                real, predicted = (np.concatenate([getattr(row, name)[::5] for row in rows]) for name in ("real", "predicted"))
                left.plot(real, predicted, ".", markersize=3, color=f"C{number}", label=kind)
        left.set(xlabel="measured gradient rms (bits)", ylabel="predicted gradient rms (bits)")
        left.set_title(f"every fifth step of {len(done)} cases", fontsize="medium")
        left.legend(frameon=False)
        for number, row in enumerate(row for row in done if row.case in shown):
            back = np.arange(row.case.steps)[::-1]
            right.plot(back, row.predicted, color=f"C{number}", label=" ".join(row.case.names()[:2]))
            right.plot(back[::4], row.real[::4], ".", markersize=3, color=f"C{number}")
        right.set(xlabel="steps back in time", ylabel="gradient rms (bits)")
        right.set_title("lines predicted, dots measured (H = 128)", fontsize="medium")
        right.legend(frameon=False, fontsize="small")
        figure.savefig(ROOT / "benchmarks" / "recurrent.svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recurrent", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PART", default="", help="a part of the name")
    parser.add_argument("--write", action="store_true", help="write the tables and the plot to benchmarks/")
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("--write wants every case: leave --only out")
    torch.set_num_threads(1)
    done = []
    for case in cases():
        if given.only in str(case):
            done.append(row_of(case))
            print(" | ".join(done[-1].cells()), "" if abs(done[-1].worst) <= done[-1].allowed else "  <<<", flush=True)
    lines = [f"- {line}" for line in summary(done)]
    if not given.only:
        differences = {cell: looped(cell) for cell in LOOPS}
        lines.append("- loops by hand against the nn module, largest difference over 20 steps: "
                     + ", ".join(f"{cell} {difference:+.2f}" for cell, difference in differences.items()) + " bits")  # fmt: skip
        for kind, seconds in lengths():
            lines.append(f"- seconds of the analysis at T = 10, 100, 1000, {kind}: " + ", ".join(f"{s:.2f}" for s in seconds)
                         + f" (1000 against 10: × {seconds[-1] / seconds[0]:.2f})")  # fmt: skip
    print("", *lines, sep="\n")
    if given.write:
        table = ["| " + " | ".join(row) + " |" for row in (HEAD, *(row.cells() for row in done))]
        between("recurrent", [*lines, "", table[0], "|" + "---|" * len(HEAD), *table[1:]])
        draw(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
