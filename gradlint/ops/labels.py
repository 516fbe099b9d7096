"""Labels that are known: what the rows of a loss have in common, class by class.

The gradient ``Σ_r (p_rc − t_rc)`` of a bias is small where the labels are balanced and large where they are not, and which
of the two is no accident of the draw: it is written in the labels. All that moments ask of them are the counts of every class
in every group of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradlint.moments import Array, Moments

__all__ = ["Labels", "averages"]


@dataclass(frozen=True)
class Labels:
    """Known labels of rows.

    Args:
        classes: the class of every row, any shape; less than zero where a row does not count.
        weights: of the rows, in the same shape; zero where a row does not count.
        number: of classes.
        at: the axis of the logits along which they lie.
    """

    classes: npt.NDArray[np.intp]
    weights: Array
    number: int
    at: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        rows = self.classes.shape
        return (*rows[: self.at], self.number, *rows[self.at :])

    def hot(self) -> Moments:
        """The law of ``w_r t_rc``, t one for a row's class."""
        mean = float(self.weights.mean()) / self.number
        return Moments.of_averages(self.shape, mean, averages(self, 0.0))

    def pull(self, share: float = 1.0) -> Moments:
        """The law of ``share · w_r (1/C − t_rc)``: what is left of a row's gradient where its logits are all the same."""
        return Moments.of_averages(self.shape, 0.0, averages(self, 1.0 / self.number)).scale(share)


def averages(labels: Labels, less: float) -> Array:
    """For every subset of axes the mean over it of the squared mean over the rest, of ``w_r (t_rc − less)``.

    Axes of size one are left out, as :meth:`~gradlint.moments.Moments.of_averages` wants it.
    """
    rows = [d for d, n in enumerate(labels.classes.shape) if n > 1]
    table = np.zeros((2,) * (len(rows) + (labels.number > 1)))
    where = sum(d < labels.at for d in rows)
    for index in np.ndindex(*(2,) * len(rows)):
        own, common = _groups(labels, [d for d, kept in zip(rows, index, strict=True) if kept])
        groups = math.prod(n for d, n in enumerate(labels.classes.shape) if d in rows and index[rows.index(d)])
        rest = labels.classes.size / groups
        # Σ_c (N_c − less W)² and (Σ_c N_c − less W C)² of a group, W = Σ_c N_c
        each = (own + common * (labels.number * less**2 - 2 * less)) / (groups * labels.number * rest**2)
        mean = common * (1 - less * labels.number) ** 2 / (groups * (labels.number * rest) ** 2)
        if labels.number == 1:
            table[index] = each
            continue
        table[(*index[:where], 1, *index[where:])] = each
        table[(*index[:where], 0, *index[where:])] = mean
    return table


def _groups(labels: Labels, kept: Sequence[int]) -> tuple[float, float]:
    """``Σ_g Σ_c N_gc²`` and ``Σ_g W_g²`` over groups of rows that share the axes ``kept``; N, W are sums of weights."""
    shape = labels.classes.shape
    group = np.zeros(shape, dtype=np.intp)
    for d in kept:
        group = group * shape[d] + np.arange(shape[d]).reshape([-1 if e == d else 1 for e in range(len(shape))])
    live = labels.weights != 0
    group, weights = group[live], labels.weights[live]
    _, place = np.unique(group * labels.number + labels.classes[live], return_inverse=True)
    own = np.bincount(place.ravel(), weights)
    return float(own @ own), float(np.square(np.bincount(group, weights)).sum())
