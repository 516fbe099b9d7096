"""Thresholds from the fit half alone, written to gradlint/fitted.py.

The *warning* limits of the gradient's gain, upwards and downwards, of what is left of it after the steps that a task needs, and
of the loss's curvature are chosen together, in half bits: those at which "a quantity is beyond its limit" (collapse included,
whose limit is published) tells networks that at most one optimiser trains (Adam alone gets over many a vanished gradient) from
the others, with the largest difference between the shares of both that are beyond; of equals the
strictest. What healthy published models reach (:data:`HEALTHY`) bounds them from below: no benchmark of small networks knows
better. An *error* limit lies a fifth further, and at least one bit beyond every network that all three optimisers train.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.trainability.scores import quantities
from gradlint.limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from benchmarks.trainability.scores import Case

FILE = Path(__file__).resolve().parents[2] / "gradlint" / "fitted.py"
HEALTHY = {
    "explode": 9.0,  # the largest gain of a published model that trains is 3e2 (8.2 bits); failures lie above 1e3
    "vanish": 10.5,  # the smallest is 1e-3 (-9.9 bits); failures lie below 1e-4
    "memory": 6.5,  # a hundredth of the gradient: no published model states what its task needs
    "steep": 14.0,  # CLIP, whose temperature multiplies every gradient by 14, has 12.6
}
SIGNS = {"explode": 1.0, "vanish": -1.0, "memory": -1.0, "steep": 1.0}
HIGHEST = 24.0
COMMAND = "python -m benchmarks.trainability fit"


def fit(cases: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """Warning and error of every quantity."""
    sizes = {name: np.array([sign * quantities(case.prediction)[name] for case in cases]) for name, sign in SIGNS.items()}
    collapsed = np.array([quantities(case.prediction)["collapse"] <= LIMITS["collapse"].warning for case in cases])
    failed = np.array([case.trained <= 1 for case in cases])
    sound = np.array([case.trained == 3 for case in cases])
    warnings = dict(HEALTHY)

    def worth(limits: Mapping[str, float]) -> float:
        beyond = np.any([collapsed, *(sizes[name] >= limit for name, limit in limits.items())], axis=0)
        return float(beyond[failed].mean() - beyond[~failed].mean())

    for _ in range(4):  # one quantity at a time, until none moves
        for name, low in HEALTHY.items():
            candidates = np.arange(low, HIGHEST, 0.5)
            found = np.array([worth({**warnings, name: float(x)}) for x in candidates])
            warnings[name] = float(candidates[found >= found.max() - 1e-9][0])
    return {name: (sign * warnings[name], sign * further(warnings[name], sizes[name][sound])) for name, sign in SIGNS.items()}


def further(warning: float, sound: npt.NDArray[np.float64]) -> float:
    """The limit of an error."""
    return math.ceil(2 * max(1.2 * warning, float(sound.max()) + 1)) / 2


def source(limits: Mapping[str, tuple[float, float]], networks: int) -> str:
    """Where the limits come from; those that the fit left at their bound are not its doing."""
    bound = [name for name, (warning, _) in limits.items() if abs(warning) == HEALTHY[name]]
    if len(bound) == len(limits):
        return f"bound set by healthy models; a fit on {networks} networks asks for nothing laxer ({COMMAND})"
    return f"fitted on {networks} networks by {COMMAND}" + (
        f"; at the bound of healthy models: {', '.join(bound)}" if bound else ""
    )


def write(cases: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """Put the limits into the engine."""
    limits = fit(cases)
    lines = [
        '"""Thresholds fitted on the fit half of the trainability benchmark.',
        "",
        f"Written by ``{COMMAND}``, not by hand.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping",
        "",
        '__all__ = ["FITTED", "SOURCE"]',
        "",
        f'SOURCE = "{source(limits, len(cases))}"',
        "",
        "FITTED: Mapping[str, tuple[float, float]] = {",
        *(f'    "{name}": ({warning}, {error}),' for name, (warning, error) in limits.items()),
        "}",
        '"""Warning and error by quantity, in bits."""',
    ]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return limits
