"""How well a number known before training tells what training does: areas under curves, rates, bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.trainability.predictions import finite
from benchmarks.trainability.training import RATES
from gradlint.limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from benchmarks.trainability.predictions import Prediction

RESAMPLES = 2000
HUGE = 1e4  # bits: what stands for an overflow


@dataclass(frozen=True)
class Case:
    """One configuration: what was measured and what was predicted."""

    row: dict[str, Any]
    prediction: Prediction

    @property
    def family(self) -> str:
        return str(self.row["configuration"]["family"])

    @property
    def half(self) -> str:
        return "test" if self.row["configuration"]["seed"] % 2 else "fit"

    def label(self, optimiser: str) -> str:
        return str(self.row["outcomes"][optimiser]["label"])

    @property
    def trained(self) -> int:
        """By how many of the three optimisers."""
        return sum(outcome["label"] == "trained" for outcome in self.row["outcomes"].values())

    def check(self, name: str) -> float:
        """A simple check; what overflowed is large."""
        value = float(self.row["checks"][name])
        return math.copysign(HUGE, value) if math.isinf(value) else HUGE if math.isnan(value) else value


# --- scores: the larger, the worse -------------------------------------------------------------------------------------


def quantities(p: Prediction) -> dict[str, float]:
    """What the limits are about, in bits; 0 where a quantity does not exist."""
    gain, memory = finite(p.gain, 0.0), finite(p.memory, 0.0)
    return {
        "explode": max(gain, memory),
        "vanish": gain,
        "memory": memory,
        "collapse": finite(p.collapse, 0.0),
        "steep": finite(p.lasting, 0.0),
    }


def overshot(case: Case) -> float:
    """Bits by which the curvature exceeds the edge of stability of SGD's learning rate."""
    return finite(case.prediction.curvature, 0.0) + math.log2(RATES["sgd"] / 2)


def margin(case: Case) -> float:
    """The worst quantity over its limit for a warning: above 1 there is a finding."""
    return max(value / LIMITS[name].warning for name, value in quantities(case.prediction).items())


SCORES: dict[str, Callable[[Case], float]] = {
    "gradlint: worst quantity over its limit": margin,
    "gradlint: gain, absolute": lambda case: abs(finite(case.prediction.gain, 0.0)),
    "gradlint: curvature of the loss": overshot,
    "real backward: gain, absolute": lambda case: abs(case.check("gain")),
    "real backward: max/min gradient norm": lambda case: case.check("ratio"),
    "real backward: gradient norm": lambda case: case.check("norm"),
    "real forward: loss at init": lambda case: case.check("loss"),
}


# --- questions ---------------------------------------------------------------------------------------------------------

QUESTIONS: dict[str, Callable[[Case], bool | None]] = {
    "no optimiser trains it, or at least one": lambda case: case.trained == 0,
    "no optimiser trains it, or all three": lambda case: None if case.trained in (1, 2) else case.trained == 0,
    "SGD diverges, or trains": lambda case: None if case.label("sgd") == "stuck" else case.label("sgd") == "diverged",
    "SGD fails, or trains": lambda case: case.label("sgd") != "trained",
    "Adam fails, or trains": lambda case: case.label("adam") != "trained",
}


@dataclass(frozen=True)
class Interval:
    """A number and where 95 % of its bootstrap resamples lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def area(cases: Sequence[Case], question: Callable[[Case], bool | None], score: Callable[[Case], float]) -> Interval:
    """AUC of a score for a question; cases that the question leaves out do not count."""
    asked = [(answer, score(case)) for case in cases if (answer := question(case)) is not None]
    answers = np.array([answer for answer, _ in asked])
    values = np.array([value for _, value in asked])
    return bootstrap(len(asked), lambda chosen: auc(answers[chosen], values[chosen]))


def auc(answers: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]) -> float:
    """The probability that one that does has the larger value than one that does not (Mann & Whitney 1947)."""
    yes = int(answers.sum())
    no = len(answers) - yes
    if not yes or not no:
        return math.nan
    return float((rankdata(values)[answers].sum() - yes * (yes + 1) / 2) / (yes * no))


def rate(cases: Sequence[Case], hit: Callable[[Case], bool]) -> Interval:
    """Share of the cases."""
    hits = np.array([hit(case) for case in cases], dtype=float)
    return bootstrap(len(cases), lambda chosen: float(hits[chosen].mean()) if len(chosen) else math.nan)


def bootstrap(size: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> Interval:
    """Percentiles over resamples with replacement."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(0, size, size)) for _ in range(RESAMPLES)] if size else [math.nan]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return Interval(statistic(np.arange(size)), float(low), float(high))
