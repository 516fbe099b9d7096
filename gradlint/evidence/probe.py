"""Functions of single entries, evaluated where the user's tensors go and where no Gaussian would: at zero, at a bound."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from gradlint.moments import Array, Moments
from gradlint.recognise import Cone, Grid

__all__ = ["Probe"]


class Probe(Grid):
    """A cone at chosen points, as it is: what is infinite or no number stays so.

    Args:
        cone: what to evaluate.
        points: values of its root, in the precision to compute in.
    """

    def __init__(self, cone: Cone, points: Array) -> None:
        self._given = points
        with np.errstate(all="ignore"):
            super().__init__(cone, Moments.iid((1,)))

    def _points(self) -> Array:
        return self._given

    def values(self, node: fx.Node) -> Array:
        """A member at the points."""
        return np.asarray(self._values[node].detach().double().expand(len(self._given)).numpy())

    def slopes(self, node: fx.Node) -> Array:
        """Derivative of a member by the root, as autograd gives it."""
        values = self._values[node]
        if not values.requires_grad:
            return np.zeros(len(self._given))
        (slope,) = torch.autograd.grad(values.sum(), self._leaf, retain_graph=True)
        return np.asarray(slope.double().numpy())
