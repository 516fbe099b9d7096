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
def is_one_step(module: Any, args: tuple[Any, ...]) -> bool:
    """A recurrent module of one layer that is called with sequences of one step: most likely in a loop, as a cell."""
    if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3 or module.num_layers > 1 or module.bidirectional:
        return False
    return args[0].shape[_axis(module)] == 1 and not module.proj_size


def _axis(module: Any) -> int:
    return 1 if module.batch_first else 0


@transparent
def one_step(module: Any, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What the module returns for sequences of one step, by its cell; states keep their way from call to call."""
    axis, kind = _axis(module), str(module.mode).lower() + "_cell"
    if hx is None:
        zeros = x.new_zeros(1, x.shape[1 - axis], module.hidden_size)
        hx = (zeros, zeros) if kind == "lstm_cell" else zeros
    weights = [getattr(module, f"{name}_l0", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    state = tuple(h.squeeze(0) for h in hx) if isinstance(hx, tuple | list) else hx.squeeze(0)
    end = getattr(torch, kind)(x.squeeze(axis), state, *weights)
    if isinstance(end, tuple):
        return end[0].unsqueeze(axis), tuple(h.unsqueeze(0) for h in end)
    return end.unsqueeze(axis), end.unsqueeze(0)


CELLS: dict[str, Callable[..., Any]] = {
    "rnn_tanh_cell": _rnn_tanh,
    "rnn_relu_cell": _rnn_relu,
    "gru_cell": _gru,
    "lstm_cell": _lstm,
}
"""By the name of torch's function."""
