"""What real backward passes say of the findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gradlint.comparison import Claim, Comparison, Entry, Place, Zero
from gradlint.errors import VerificationError
from gradlint.findings import Finding, Report
from gradlint.rule import LIMITS, Context, times
from gradlint.verification.compare import Facts, Predicted
from gradlint.verification.measure import Measured, Size

__all__ = ["Verification", "judge", "overlooked"]

# A claim holds when its bits are reproduced within one bit (a factor of two), a quarter of them, or the scatter of the seeds.
_BITS, _SHARE, _ERRORS = 1.0, 0.25, 3.0


@dataclass(frozen=True)
class Verification:
    """A prediction beside real forward and backward passes, tensor by tensor.

    Args:
        report: what :func:`gradlint.lint` says; each finding is ``verified``, ``contradicted`` or, where it claims nothing
            that can be measured, neither.
        comparison: every number beside its prediction, in bits.
    """

    report: Report
    comparison: Comparison

    @property
    def parameters(self) -> Mapping[str, Entry]:
        """Gradients of parameters, by canonical name."""
        return self._entries("parameter")

    @property
    def modules(self) -> Mapping[str, Entry]:
        """Gradients of module outputs (at their last call), by module path."""
        return self._entries("module")

    @property
    def inputs(self) -> Mapping[str, Entry]:
        """Gradients of the model's floating-point inputs, by name."""
        return {entry.name: entry for entry in self.comparison.inputs}

    @property
    def median(self) -> float:
        """Median error of a gradient's rms, in bits."""
        return self.comparison.gradient.median

    @property
    def p95(self) -> float:
        """What 95 % of the errors do not exceed, in bits."""
        return self.comparison.gradient.p95

    @property
    def zeros(self) -> tuple[Zero, ...]:
        """Measured zero, but not predicted so."""
        return self.comparison.zeros

    @property
    def missing(self) -> tuple[str, ...]:
        """Measured, but not predicted."""
        return self.comparison.missing

    @property
    def contradicted(self) -> tuple[Finding, ...]:
        """The findings that the real runs contradict."""
        return tuple(finding for finding in self.report.findings if finding.verified == "contradicted")

    def _entries(self, kind: str) -> Mapping[str, Entry]:
        found = (*self.comparison.gradient.entries, *self.comparison.small)
        return {entry.name: entry for entry in found if entry.kind == kind}

    def __str__(self) -> str:
        return str(self.comparison)


@dataclass(frozen=True)
class _Outcome:
    """A claim beside the measurement: the verdict and, of a gain, the bits that it really has."""

    verdict: Literal["verified", "contradicted"]
    text: str
    log2: float = -math.inf


def judge(finding: Finding, analysis: Predicted, measured: Measured) -> Finding:
    """The finding with what the measurement says of its claim."""
    found = None if finding.claim is None else _check(finding.claim, analysis, measured)
    if found is None:
        return finding
    note = f"{found.verdict} by {measured.seeds} real backward passes: {found.text}"
    return replace(finding, verified=found.verdict, notes=(*finding.notes, note))


def overlooked(context: Context, measured: Measured) -> VerificationError | None:
    """A gain from the output to the input that is out of bounds in reality and was predicted otherwise: no pass."""
    total = context.paths.log2
    claim = None if total is None else context.claim(context.paths.segments, total)
    found = None if claim is None else _check(claim, context.analysis, measured)
    if found is None or found.verdict == "verified" or LIMITS["vanish"].warning < found.log2 < LIMITS["explode"].warning:
        return None
    return VerificationError(
        f"the prediction is contradicted by {measured.seeds} real backward passes: {found.text}",
        hint="this is a bug in gradlint worth reporting; -v shows where prediction and reality part",
    )


def _check(claim: Claim, analysis: Predicted, measured: Measured) -> _Outcome | None:
    if claim.log2 == -math.inf:
        return _check_zero(claim, measured)
    outcomes = [_check_gain(claim, end, analysis, measured) for end in claim.end]
    found = [outcome for outcome in outcomes if outcome is not None]
    return min(found, key=lambda outcome: outcome.verdict, default=None)  # "contradicted" comes first


def _check_gain(claim: Claim, end: Place, analysis: Predicted, measured: Measured) -> _Outcome | None:
    error = _error(end, analysis, measured)
    origin = (0.0, 0.0) if claim.start is None else _error(claim.start, analysis, measured)
    if error is None or origin is None:
        return None
    off, noise = error[0] - origin[0], math.hypot(error[1], origin[1])
    if math.isnan(off):
        return None
    real = claim.log2 - off
    holds = abs(off) <= max(_BITS, _SHARE * abs(claim.log2), _ERRORS * noise)
    text = f"the gradient at {end} changes {times(real) if math.isfinite(real) else 'to zero'}, predicted {times(claim.log2)}"
    return _Outcome("verified" if holds else "contradicted", text, real)


def _error(place: Place, analysis: Predicted, measured: Measured) -> tuple[float, float] | None:
    """``log2(predicted / measured)`` of a gradient and its standard error; None where either is not known."""
    facts, size = _facts(place, analysis), _size(place, measured)
    if facts is None or not facts.grad_rms or size is None or size.grad_rms is None:
        return None
    if not (math.isfinite(facts.grad_rms) and math.isfinite(size.grad_rms)):
        return None
    if size.grad_rms == 0.0:
        return math.inf, 0.0
    return math.log2(facts.grad_rms) - math.log2(size.grad_rms), size.noise


def _check_zero(claim: Claim, measured: Measured) -> _Outcome | None:
    """Zero is what is below the rounding noise of the usual size."""
    sizes = {place: size for place in claim.end if (size := _size(place, measured)) is not None}
    grads = {place: size.grad_rms for place, size in sizes.items() if size.grad_rms is not None}
    if not grads or not all(map(math.isfinite, grads.values())):
        return None
    worst = max(grads, key=lambda place: grads[place])
    if grads[worst] > measured.floor * claim.usual:
        return _Outcome("contradicted", f"the gradient of {worst} is {grads[worst]:.2g}, predicted zero")
    return _Outcome("verified", "the gradient is zero")


def _facts(place: Place, analysis: Predicted) -> Facts | None:
    return {"parameter": analysis.parameters, "module": analysis.modules, "input": analysis.inputs}[place.kind].get(place.name)


def _size(place: Place, measured: Measured) -> Size | None:
    return {"parameter": measured.parameters, "module": measured.modules, "input": measured.entries}[place.kind].get(place.name)
