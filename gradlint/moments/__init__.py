"""Moments: the second-order law of a tensor, and its algebra. No torch.

A tensor at random initialisation is an *exchangeable random array* over its axes:

    x = mean + Σ_A e_A        one independent zero-mean component per subset A of the axes, iid over the axes in A

and its second-order law is ``mean`` and the variances ``v[A]``. The table of pair moments

    K[S] = E[x_i x_j]  over pairs of entries i, j that share exactly the axes in S   =   mean² + Σ_{A⊆S} v[A]

carries the same numbers; a running sum along every axis goes one way (:meth:`Moments.pairs`), a difference the other.
The same object describes activations and gradients. Four primitives make everything else:

* **reindex** (:meth:`~Moments.reshape`, :meth:`~Moments.permute`, :meth:`~Moments.expand`, :func:`concat` …): axes are renamed,
  merged and split;
* **product** of independent arrays: ``K_xy[S] = K_x[S] K_y[S]``;
* **sum** over an axis of size n: a component that varies along it grows by n, one that is constant by n²;
* **map** by a scalar function: ``K'[S] = Σ_k a_k² ρ[S]^k``, a_k the Hermite coefficients of φ(m + σz).

Where entries along an axis are exchangeable only within stretches of it, the law of each is kept beside the pooled one
(:class:`Parts`).

An axis of a tensor is kept as a tuple of *atoms* whose sizes multiply to its size, so that ``view(B*T, C)`` followed by
``view(B, T, C)`` forgets nothing; axes of size 1 have no atoms and carry nothing.

Sources: variance components of exchangeable arrays (Aldous 1981; Searle, Casella & McCulloch 1992); dual activations
(Daniely, Frostig & Singer 2016, §4, arXiv:1602.05897); mean-field propagation (Poole et al. 2016, arXiv:1606.05340).
"""

from gradlint.moments.array import Moments, Parts, align, from_pairs
from gradlint.moments.cross import (
    add_covariance,
    averaged,
    fitted,
    joint,
    multiply_covariance,
    of_joint,
    of_paired,
    own,
    paired,
    weighted,
)
from gradlint.moments.gram import (
    EMPTY,
    MAX_GRAM,
    correlation,
    diagonal,
    exchangeable,
    levels,
    retuned,
    spread,
    standardised,
)
from gradlint.moments.marginal import Marginal
from gradlint.moments.parts import MAX_PARTS, alike, boundaries, concat, couple, cut, embed, join, moments_along, pairs_of, piece
from gradlint.moments.products import disjoint, einsum, energy, product, total
from gradlint.moments.profile import along, carried, linear_part, meet
from gradlint.moments.quadrature import GRID
from gradlint.moments.rows import Pattern, Rows
from gradlint.moments.selection import MAX_MOVED, Positions, Selection, Window
from gradlint.moments.structure import divided, exact, informed, scales, tied
from gradlint.moments.tables import MAX_ATOMS, Array, pair_averages, take
from gradlint.moments.transport import behind_product, behind_sum, conditioned, transported

__all__ = [
    "EMPTY",
    "GRID",
    "MAX_ATOMS",
    "MAX_GRAM",
    "MAX_MOVED",
    "MAX_PARTS",
    "Array",
    "Grams",
    "Marginal",
    "Moments",
    "Parts",
    "Pattern",
    "Positions",
    "Rows",
    "Selection",
    "Window",
    "add_covariance",
    "align",
    "alike",
    "along",
    "averaged",
    "behind_product",
    "behind_sum",
    "boundaries",
    "carried",
    "concat",
    "conditioned",
    "correlation",
    "couple",
    "cut",
    "diagonal",
    "disjoint",
    "divided",
    "einsum",
    "embed",
    "energy",
    "exact",
    "exchangeable",
    "fitted",
    "from_pairs",
    "informed",
    "join",
    "joint",
    "levels",
    "linear_part",
    "meet",
    "moments_along",
    "multiply_covariance",
    "of_joint",
    "of_paired",
    "own",
    "pair_averages",
    "paired",
    "pairs_of",
    "piece",
    "product",
    "retuned",
    "scales",
    "spread",
    "standardised",
    "take",
    "tied",
    "total",
    "transported",
    "weighted",
]
