"""Packed sequences: rows of all samples, one after the other along time, without the padding.

A packed tensor (rows, features) forgets which rows are of one sample: any two of them have what two entries of the padded tensor
have in common on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from gradlint.moments import Array, Moments, from_pairs, product
from gradlint.ops.registry import Call, Flow, transfer

__all__ = ["lengths_of", "over", "rows_of"]


def lengths_of(sizes: Moments) -> Array:
    """The lengths of the samples, longest first, from the numbers of samples that have each step.

    Raises:
        NotImplementedError: these are not known.
    """
    if sizes.value is None:
        raise NotImplementedError("a packed sequence of unknown lengths")
    alive = np.asarray(sizes.value, dtype=int)
    return np.array([(alive > sample).sum() for sample in range(int(alive.max(initial=0)))])


def _batch_sizes(lengths: Array) -> Array:
    """Numbers of samples that have each step."""
    return np.array([(lengths > step).sum() for step in range(int(lengths.max(initial=0)))])


def _mask(lengths: Array, steps: int, first: bool) -> Array:
    """One where a sample has a step: shape (batch, steps) or (steps, batch)."""
    mask = (np.arange(steps) < lengths[:, None]).astype(float)
    return mask if first else mask.T


def rows_of(laws: Sequence[Moments], shares: Sequence[float], rows: int) -> Moments:
    """A packed tensor of tensors (steps, batch, features), from their shares of the rows."""
    own, common, mean = (
        sum(w * f(law) for w, law in zip(shares, laws, strict=True)) for f in (lambda x: x.q, _common, lambda x: x.mean)
    )
    return _of_rows(rows, laws[0].shape[2], own, common, mean)


def _of_rows(rows: int, features: int, own: float, common: float, mean: float) -> Moments:
    """By the mean square of an entry and the mean product of one feature in two rows."""
    dims = tuple((n,) if n > 1 else () for n in (rows, features))
    table = np.array([[mean**2, common], [mean**2, own]])
    return from_pairs(dims, mean, table[tuple(slice(None) if dim else 1 for dim in dims)])


def over(x: Moments, shape: tuple[int, int, int]) -> Moments:
    """Rows as they are on average, as a tensor of samples and steps."""
    dims = tuple((n,) if n > 1 else () for n in shape)
    table = np.full((2, 2, 2), x.mean**2)
    table[..., 1] = x.shared([0]) if x.dims[0] else x.q
    table[1, 1, 1] = x.q
    return from_pairs(dims, x.mean, table[tuple(slice(None) if dim else 1 for dim in dims)])


def _common(x: Moments) -> float:
    """Mean product of one feature at two different places."""
    x = x.whole(0).whole(1)
    n, b = x.shape[:2]
    pairs = n * (n - 1) * b * x.shared([0]) + b * (b - 1) * n * x.shared([1]) + n * (n - 1) * b * (b - 1) * x.shared([0, 1])
    return pairs / max(n * b * (n * b - 1), 1)


def _packed(x: Moments, lengths: Array, first: bool) -> Moments:
    """The rows of a padded tensor (batch, steps, features), or (steps, batch, features)."""
    x = x.whole(0).whole(1)
    time, batch = (1, 0) if first else (0, 1)
    rows, alive = int(lengths.sum()), _batch_sizes(lengths)
    along, beside = float((lengths * (lengths - 1)).sum()), float((alive * (alive - 1)).sum())
    apart = max(rows * (rows - 1) - along - beside, 0.0)
    pairs = (along * x.shared([time]) + beside * x.shared([batch]) + apart * x.shared([time, batch])) / max(rows * (rows - 1), 1)
    return _of_rows(rows, x.shape[2], x.q, pairs, x.mean)


def _padded(x: Moments, mask: Array) -> Moments:
    """Rows at their places, zero elsewhere."""
    return product(over(x, (*mask.shape, x.shape[1])), Moments.of_array(mask[..., None]))


@transfer(torch._pack_padded_sequence)
def pack(call: Call, input: Moments, lengths: Moments, batch_first: bool = False) -> Flow:
    """The rows that are no padding, and how many samples have each step."""
    if lengths.value is None:
        raise NotImplementedError("a packed sequence of unknown lengths")
    sizes = np.asarray(lengths.value, dtype=int)
    mask = _mask(sizes, input.shape[1 if batch_first else 0], batch_first)

    def back(g: tuple[Any, ...]) -> dict[Moments, Moments]:
        return {} if g[0] is None else {input: _padded(g[0], mask)}

    return Flow((_packed(input, sizes, batch_first), Moments.of_array(_batch_sizes(sizes))), back)


@transfer(torch._pad_packed_sequence)
def pad(
    call: Call, data: Moments, sizes: Moments, batch_first: bool = False, padding_value: float = 0.0, total_length: int = 0
) -> Flow:
    """Rows at their places; the padding is taken to be zero."""
    lengths = lengths_of(sizes)
    mask = _mask(lengths, max(int(total_length), int(lengths.max(initial=0))), batch_first)

    def back(g: tuple[Any, ...]) -> dict[Moments, Moments]:
        return {} if g[0] is None else {data: _packed(g[0], lengths, batch_first)}

    return Flow((_padded(data, mask), Moments.of_array(lengths)), back)


@transfer(PackedSequence)
def packed_sequence(call: Call, *members: Any) -> Flow:
    """Its members; who takes it takes these."""
    return Flow(members, lambda _: {})
