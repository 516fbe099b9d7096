"""Recurrent cells as the calls that they are made of.

``torch.lstm_cell`` and its like are one call that holds a dozen. Recorded one by one they are analysed like cells written by
hand: what the steps of a loop have in common is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradlint.trace.source import transparent

__all__ = ["CELLS"]


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


CELLS: dict[str, Callable[..., Any]] = {
    "rnn_tanh_cell": _rnn_tanh,
    "rnn_relu_cell": _rnn_relu,
    "gru_cell": _gru,
    "lstm_cell": _lstm,
}
"""By the name of torch's function."""
