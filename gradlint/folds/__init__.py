"""Loops folded: steps that only repeat the step before are not worked out again.

Forward, a loop comes to rest: once a step leaves the same moments as the step before, so do all that read the same
(:mod:`~gradlint.folds.forward`). Backward, over steps at rest, the gradient of every op changes by one factor per step; once the
last steps tell that factor, the others follow from it (:mod:`~gradlint.folds.backward`).
"""

from __future__ import annotations

from gradlint.folds.backward import Returning
from gradlint.folds.forward import Resting

__all__ = ["Resting", "Returning"]
