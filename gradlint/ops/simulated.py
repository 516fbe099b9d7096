"""A recurrent module whose matrices are no independent draws: run as it is, on drawn inputs.

A triangular matrix of spectral radius 0.9 can grow what it is given a million times before it decays (its powers are bounded by
``σ_max^t``, not by ``ρ^t``), an identity keeps it: no law of random matrices knows. What is real here are the weights; inputs and
the gradients that arrive are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradlint.moments import Array, Moments
from gradlint.ops.registry import Call, Returned
from gradlint.ops.sampled import draw
from gradlint.ops.steps import law_of, rows_of_gate, table_of
from gradlint.trace.state import seeded
from gradlint.twotime import Known

__all__ = ["Simulated", "is_drawn"]

_FUNCTIONS: Mapping[str, Any] = {"RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu, "GRU": torch.gru, "LSTM": torch.lstm}
_SAMPLES, _DRAWS, _SEED = 64, 32, 20_250_117
_OWN = 0.95
"""Share of its mean square that an entry of independent draws must not have in common with others."""

_PEAKED = 5.0
"""Kurtosis above which values written one by one are no draws: a normal law has 3, an identity of size n has n."""


def is_drawn(call: Call) -> bool:
    """The recurrent matrices are independent draws of mean zero, gate by gate."""
    units = int(call.options["hidden_size"])
    for name, law in call.parameters.items():
        if not name.startswith("weight"):
            continue
        if name in call.given and name.startswith("weight_hh"):
            return False
        gates = max(law.shape[0] // units, 1)
        for k in range(gates if law.shape[0] == gates * units else 1):
            rows = rows_of_gate(law, k, gates) if law.shape[0] == gates * units else law
            if rows.q > 0 and float(rows.v[(-1,) * rows.v.ndim]) < _OWN * rows.q:
                return False
            if name.startswith("weight_hh") and rows.value is not None and _kurtosis(rows.value) > _PEAKED:
                return False
    return True


def _kurtosis(values: Any) -> float:
    squares = np.asarray(values, dtype=np.float64) ** 2
    mean = float(squares.mean())
    return float((squares**2).mean()) / mean**2 if mean > 0 else 0.0


class Simulated:
    """Both directions, on an input (steps, batch, features).

    Args:
        call: of the module.
        x: the input's law.
        initial: the initial states' laws, None where they are zero.
    """

    def __init__(self, call: Call, x: Moments, initial: tuple[Moments | None, ...]) -> None:
        self._call, self.input, self.initial = call, x, initial
        self._samples = min(x.shape[1], _SAMPLES)
        self._draws = max(_DRAWS // self._samples, 4)
        self._names = [name for names in call.options["_all_weights"] for name in names]
        self._runs = [self._run(i) for i in range(self._draws)]

    def _run(self, number: int) -> tuple[list[torch.Tensor], list[torch.Tensor | None], tuple[torch.Tensor, ...]]:
        """The leaves: input and parameters, and initial states; and the outputs."""
        options, generator = self._call.options, torch.Generator().manual_seed(_SEED + number)
        laws = [self.input.resize(1, self._samples), *(self._call.parameters[name] for name in self._names)]
        leaves = [draw(law, generator).double().requires_grad_() for law in laws]
        passes = int(options["num_layers"]) * (2 if options["bidirectional"] else 1)
        units = int(options["hidden_size"])
        sizes = [int(options["proj_size"]) or units, units]
        given: list[torch.Tensor | None] = []
        states = []
        for size, law in zip(sizes, (*self.initial, None), strict=False):
            found = None if law is None else draw(law.resize(1, self._samples), generator).double().requires_grad_()
            given.append(found)
            states.append(torch.zeros(passes, self._samples, size, dtype=torch.float64) if found is None else found)
        hx: Any = tuple(states) if options["mode"] == "LSTM" else states[0]
        with torch.enable_grad(), seeded(_SEED + number):
            out = _FUNCTIONS[options["mode"]](leaves[0], hx, leaves[1:], bool(options["bias"]), int(options["num_layers"]),
                                              float(options["dropout"]), bool(options["training"]),
                                              bool(options["bidirectional"]), False)  # fmt: skip
        return leaves, given[: len(self.initial)], out

    def out(self) -> tuple[Moments, ...]:
        """The laws of the output and of the last states."""
        outs = [run[2][0].detach().numpy() for run in self._runs]
        if not all(np.isfinite(out).all() for out in outs):
            raise OverflowError("its states leave the range of floats")
        shape = (self.input.shape[0], self.input.shape[1], outs[0].shape[2])
        law, _ = law_of(_pairs(outs), shape, np.mean([out.mean((1, 2)) for out in outs], 0))
        ends = [[run[2][i].detach().numpy() for run in self._runs] for i in range(1, len(self._runs[0][2]))]
        return law, *(self._states(end, self.input.shape[1]) for end in ends)

    def _states(self, found: list[Array], batch: int) -> Moments:
        table = _pairs(found)
        return law_of(table, (found[0].shape[0], batch, found[0].shape[2]), np.zeros(1))[0]

    def back(self, g: tuple[Any, ...]) -> Returned:
        """Gradients of everything, from those of the output and of the last states."""
        grads, squares = Returned(), dict[str, float]()
        found: list[Array] = []
        starts: list[list[Array]] = [[] for _ in self.initial]
        for number, (leaves, given, outs) in enumerate(self._runs):
            generator = torch.Generator().manual_seed(_SEED - 1 - number)
            pairs = [(out, self._cotangent(law, generator)) for out, law in zip(outs, g, strict=False) if law is not None]
            wanted = [*leaves, *(state for state in given if state is not None)]
            got: Any = torch.autograd.grad([out for out, _ in pairs], wanted, [c for _, c in pairs], True, allow_unused=True)
            arrays = [np.zeros(t.shape) if d is None else d.numpy() for t, d in zip(wanted, got, strict=True)]
            found.append(arrays[0])
            for name, array in zip(self._names, arrays[1:], strict=False):
                squares[name] = squares.get(name, 0.0) + float((array**2).mean()) / self._draws
            rest = iter(arrays[len(leaves) :])
            for state, kept in zip(given, starts, strict=True):
                if state is not None:
                    kept.append(next(rest))
        more = self.input.shape[1] / self._samples
        for name, square in squares.items():
            law = self._call.parameters[name]
            grads.put(law, Moments.iid(law.shape, 0.0, square * more), 0)
        top = max(float(np.abs(x).max()) for x in found)
        unit = math.frexp(top)[1] if top > 0 else 0
        law, own = law_of(_pairs([np.ldexp(x, -unit) for x in found]), self.input.shape)  # type: ignore[arg-type]
        grads.put(self.input, law, own + unit)
        grads.trail = _trail(found)
        for start, arrays_ in zip(self.initial, starts, strict=True):
            if start is not None:
                grads.put(start, self._states(arrays_, start.shape[1]), 0)
        return grads

    def _cotangent(self, law: Moments, generator: torch.Generator) -> torch.Tensor:
        """A gradient (steps, samples, features) with what steps have in common."""
        table, n = table_of(law), law.shape[0]
        matrix = np.zeros((n, n))
        for t in range(n):
            matrix[t, t:] = matrix[t:, t] = table.ahead(t, n - t)[0][0]
        noise = torch.randn(n, self._samples, law.shape[2], generator=generator, dtype=torch.float64)
        if not np.triu(matrix, 1).any():
            return noise * torch.from_numpy(np.sqrt(np.diagonal(matrix)).copy())[:, None, None]
        values, vectors = np.linalg.eigh(matrix)
        root = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0.0)))
        return torch.einsum("ts,sbf->tbf", root, noise)


def _pairs(found: list[Array]) -> Known:
    """Pair moments of an entry at two steps, over draws of (steps, samples, features)."""
    n, samples, _ = found[0].shape
    same = sum(np.tensordot(x, x, ((1, 2), (1, 2))) for x in found) / (len(found) * found[0][0].size)
    if samples == 1:
        return Known(np.stack([same, np.zeros((n, n))]))
    summed = [x.sum(1) for x in found]
    both = sum(x @ x.T for x in summed) / (len(found) * found[0][0].size)
    return Known(np.stack([same, (both - same) / (samples - 1)]))


def _trail(found: list[Array]) -> Array:
    """log2 of root mean squares by step; squares would leave the range of floats before they do."""
    top = np.max([np.abs(x).max((1, 2)) for x in found], 0)
    safe = np.where(top > 0, top, 1.0)
    square = np.mean([((x / safe[:, None, None]) ** 2).mean((1, 2)) for x in found], 0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(top) + 0.5 * np.log2(np.where(top > 0, square, 1.0)))
