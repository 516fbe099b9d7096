"""Powers of a recurrent matrix whose values are known: what the law of independent entries does not tell.

A matrix of independent entries grows a vector by its radius per step from the first step on (Ginibre: ``E‖Wᵏ‖_F² ≈ H(s²H)ᵏ``).
One that is given need not: a non-normal matrix first grows by up to its spectral norm per step, whatever its radius (Trefethen &
Embree 2005, ch. 14-16), a diagonal one keeps the units apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gradlint.moments import Moments
from gradlint.trace.graph import ParameterRecord
from gradlint.trace.law import Law

__all__ = ["Powers", "independent", "powers_of", "values_of"]


def independent(record: ParameterRecord) -> ParameterRecord:
    """A matrix with the law of independent entries of the same mean square: what its powers are measured against."""
    moments = Moments.iid(record.shape, 0.0, record.law.moments.q)
    return replace(record, law=replace(record.law, kind="normal", mean=0.0, std=moments.rms, moments=moments))


def values_of(law: Law) -> npt.NDArray[np.generic] | None:
    """The real values of a parameter, read now where they were not kept; None where there are none."""
    value = law.moments.value
    return law.load() if value is None and law.load is not None else value


_LARGEST = 1024  # entries per side; larger ones are taken by their law


@dataclass(frozen=True)
class Powers:
    """A real square matrix and its powers.

    Args:
        bits: ``log2(‖Wᵏ‖_F/√H)`` for k = 0, 1, 2 …: growth of a random vector.
        largest: ``log2 ‖Wᵏ‖₂``: of the worst one.
        law: ``log2`` of what independent entries of the same mean square would give per step.
        radius: largest absolute eigenvalue.
        norm: largest singular value.
        henrici: departure from normality over the norm, ``√(‖W‖_F² − Σ|λ|²)/‖W‖_F`` (Henrici 1962): 0 for normal matrices.
        diagonal: share of ``‖W‖_F²`` that is on the diagonal.
    """

    bits: tuple[float, ...]
    largest: tuple[float, ...]
    law: float
    radius: float
    norm: float
    henrici: float
    diagonal: float

    @property
    def beyond_law(self) -> tuple[float, ...]:
        """Bits that the matrix adds to what its law gives."""
        return tuple(b - k * self.law for k, b in enumerate(self.bits))


def powers_of(law: Law, count: int) -> Powers | None:
    """The powers of a recurrent matrix whose values are its law; None for independent or orthogonal entries."""
    shape = law.moments.shape
    if law.kind not in ("values", "mixed", "identity") or len(shape) != 2 or shape[0] != shape[1] or shape[0] > _LARGEST:
        return None
    value = values_of(law)
    if value is None:
        return None
    w = np.asarray(value, dtype=np.float64)
    size = float(np.linalg.norm(w))
    if not 0 < size < math.inf:
        return None
    return _powers(w, size, count)


def _powers(w: npt.NDArray[np.float64], size: float, count: int) -> Powers:
    n = w.shape[0]
    eigenvalues = np.abs(np.linalg.eigvals(w))
    bits, largest = [0.0], [0.0]
    power, scale = np.eye(n), 0.0
    for _ in range(count):
        power = power @ w
        norm = float(np.linalg.norm(power))
        if norm == 0:  # nilpotent
            break
        power /= norm
        scale += math.log2(norm)
        bits.append(scale - math.log2(n) / 2)
        largest.append(scale + math.log2(float(np.linalg.norm(power, 2))))
    departure = max(size**2 - float((eigenvalues**2).sum()), 0.0)
    return Powers(
        tuple(bits),
        tuple(largest),
        math.log2(size) - math.log2(n) / 2,
        float(eigenvalues.max()),
        2.0 ** largest[1] if len(largest) > 1 else 0.0,
        math.sqrt(departure) / size,
        float((np.diag(w) ** 2).sum()) / size**2,
    )
