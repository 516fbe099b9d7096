"""GL403 non-normal-transient."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Factor, Finding, Rule, Severity, bits, times
from gradlint_rules._recurrence import judged

__all__ = ["NonNormalTransient"]


class NonNormalTransient(Rule):
    """A recurrent matrix that grows the gradient for many steps, whatever its spectral radius says.

    ## What it finds
    Recurrent matrices with known values (a checkpoint, a structured initialiser) that are far from normal: triangular ones,
    shifts, companion matrices, products of such.

    ## Why it matters
    Eigenvalues tell what happens after infinitely many steps. Before that a non-normal matrix grows a vector by up to its
    largest singular value per step: a triangular one of radius 0.9 grew the gradient 2^21-fold over 40 steps. A sequence is
    finite, so the transient is what training sees.

    ## How it is computed
    The powers of the matrix itself: ``‖Wᵏ‖_F/√H`` for each number of steps up to the length of the sequence, times the slope of
    the activation. Its distance from a normal matrix is Henrici's ``√(‖W‖_F² - Σ|λ|²)`` over ``‖W‖_F``.

    ## What to do
    Use a normal matrix of the same radius (orthogonal, times the gain in the fix), or clip the gradient norm.

    ## When to ignore it
    When sequences are shorter than the steps that the finding says are fine.

    ## References
    Trefethen & Embree 2005, Spectra and Pseudospectra, ch. 14-16; Henrici 1962; Kerg et al. 2019 (arXiv:1905.12080).
    """

    code = "GL403"
    name = "non-normal-transient"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["recurrence"]
        for found in judged(context):
            powers = found.recurrence.powers
            if powers is None or found.by_radius >= limit.warning:
                continue
            steps = min(found.steps, len(powers.bits) - 1)
            peak = max(range(steps + 1), key=lambda k: (found.curve.at(k), -k))
            log2 = found.curve.at(peak)
            if log2 < limit.warning:
                continue
            reach = found.curve.reach(limit.warning) or 0
            yield self.finding(
                context,
                found.place,
                f"the gradient grows {times(log2)} over {peak} steps although the spectral radius is {powers.radius:.3g}: "
                f"σ_max is {powers.norm:.3g}, fine to {reach} steps",
                severity=Severity.ERROR if log2 >= limit.error else Severity.WARNING,
                module=found.recurrence.module,
                evidence={
                    "quantity": "largest singular value",
                    "measured": powers.norm,
                    "expected": powers.radius,
                    "spectral_radius": powers.radius,
                    "departure_from_normality": powers.henrici,
                    "log2": log2,
                    "steps": peak,
                    "steps_within_limit": reach,
                },
                factors=(
                    Factor("weights", powers.bits[peak], f"powers of a matrix with σ_max {powers.norm:.3g}"),
                    Factor("activation", log2 - powers.bits[peak], "slopes of the activation"),
                ),
                instances=found.names,
                notes=[f"the radius alone gives {times(peak * (bits(powers.radius) + found.recurrence.slope))}"]
                if powers.radius > 0
                else ["every eigenvalue is zero"],
                fix=f"nn.init.orthogonal_({found.name}, gain={max(powers.radius, 0.01):.2g}): σ_max is the radius then",
            )
