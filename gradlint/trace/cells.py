"""Recurrent cells as the calls that they are made of.

``torch.lstm_cell`` and its like are one call that holds a dozen. Recorded one by one they are analysed like cells written by
hand: what the steps of a loop have in common is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradlint.trace.source import transparent

__all__ = ["CELLS", "is_one_step", "one_step"]


@transparent
def _rnn_tanh(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    return torch.tanh(functional.linear(x, w_ih, b_ih) + functional.linear(h, w_hh, b_hh))


@transparent
def _rnn_relu(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    return torch.relu(functional.linear(x, w_ih, b_ih) + functional.linear(h, w_hh, b_hh))


@transparent
def _gru(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    from_x = functional.linear(x, w_ih, b_ih).chunk(3, -1)
    from_h = functional.linear(h, w_hh, b_hh).chunk(3, -1)
    reset, update = torch.sigmoid(from_x[0] + from_h[0]), torch.sigmoid(from_x[1] + from_h[1])
    new = torch.tanh(from_x[2] + reset * from_h[2])
    return (1 - update) * new + update * h


@transparent
def _lstm(x: Tensor, hx: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
          b_hh: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    h, c = hx
    i, f, g, o = (functional.linear(x, w_ih, b_ih) + functional.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@transparent
def is_one_step(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """A recurrent module that is called with sequences of one step: most likely in a loop, as a cell."""
    x = args[0] if args else None
    return isinstance(x, Tensor) and x.dim() == 3 and x.shape[_axis(module)] == 1 and not getattr(module, "proj_size", 0)


def _axis(module: Any) -> int:
    return 1 if module.batch_first else 0


@transparent
def one_step(module: Any, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What the module returns for sequences of one step, cell by cell."""
    axis, directions = _axis(module), 2 if module.bidirectional else 1
    below, kind = x.select(axis, 0), str(module.mode).lower() + "_cell"
    if hx is None:
        zeros = x.new_zeros(module.num_layers * directions, x.shape[1 - axis], module.hidden_size)
        hx = (zeros, zeros) if kind == "lstm_cell" else zeros
    ends: list[Any] = []
    for layer in range(module.num_layers):
        row = []
        for suffix in ("", "_reverse")[:directions]:
            names = [f"{name}_l{layer}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            weights = [getattr(module, name, None) for name in names]
            state = tuple(h[len(ends)] for h in hx) if isinstance(hx, tuple) else hx[len(ends)]
            row.append(getattr(torch, kind)(below, state, *weights))
            ends.append(row[-1])
        shown = [end[0] if isinstance(end, tuple) else end for end in row]
        below = shown[0] if directions == 1 else torch.cat(shown, -1)
        if module.dropout and layer < module.num_layers - 1:
            below = functional.dropout(below, module.dropout, module.training)
    states = tuple(map(torch.stack, zip(*ends, strict=True))) if isinstance(hx, tuple) else torch.stack(ends)
    return below.unsqueeze(axis), states


CELLS: dict[str, Callable[..., Any]] = {
    "rnn_tanh_cell": _rnn_tanh,
    "rnn_relu_cell": _rnn_relu,
    "gru_cell": _gru,
    "lstm_cell": _lstm,
}
"""By the name of torch's function."""
