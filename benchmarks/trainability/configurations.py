"""Random network configurations: each is a function of its seed alone.

The space is meant to hold what people build, what they get wrong, and the published borderline cases: four plain and
residual families, recurrent cells, transformers; standard initialisers and gains a decade around the critical one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FAMILIES = {
    "mlp": 0.24,
    "residual mlp": 0.14,
    "cnn": 0.12,
    "residual cnn": 0.08,
    "rnn": 0.12,
    "lstm": 0.05,
    "gru": 0.05,
    "transformer": 0.20,
}
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu")
INITIALISERS = ("default", "he", "xavier", "normal", "uniform", "orthogonal")  # the last three with a gain
GAINS = (10**-0.5, 10**0.5)  # over the gain that keeps a ReLU layer's variance, √2: from 0.45 to 4.5
DEEPEST = {"cnn": 40, "residual cnn": 24, "transformer": 24}  # blocks; 64 for the others
RADII = (0.3, 3.0)
STEPS = (4, 64)  # of a recurrent network


@dataclass(frozen=True)
class Configuration:
    """One network and its task.

    Args:
        seed: it was drawn with; also seeds its weights and batches. Even seeds are the fit half, odd ones the test half.
        task: ``digits``, ``regression`` or ``sequence``.
        depth: hidden layers, residual blocks, or time steps (recurrent families).
        initialiser: of the weights; ``normal``, ``uniform`` and ``orthogonal`` with std ``gain / √fan_in``.
        norm: ``none``, ``batch``, ``layer``.
        place: of the norm: ``plain`` (no skip connections), ``pre``, ``post``, or ``deepnorm``.
        scale: of each residual branch at initialisation; ``learned`` makes it a parameter.
        head: factor on the standard initialisation of the output layer.
        radius: spectral radius of recurrent weights, 0 for the default initialisation; ``forget`` is added to gate biases.
        unrolled: the cell is written out in Python instead of called as ``nn.RNN``.
    """

    seed: int
    family: str
    task: str
    depth: int
    width: int
    activation: str
    initialiser: str
    gain: float
    bias: float
    norm: str
    place: str
    scale: float
    learned: bool
    head: float
    radius: float
    forget: float
    unrolled: bool

    @property
    def half(self) -> str:
        return "test" if self.seed % 2 else "fit"

    @property
    def costly(self) -> bool:
        """Among the tenth of the configurations that takes half of the time: these are trained last."""
        most = {"transformer": 384, "cnn": 256, "residual cnn": 128, "residual mlp": 2048, "lstm": 2048, "gru": 2048}
        return self.depth * self.width > most.get(self.family, 4096)

    @property
    def recurrent(self) -> bool:
        return self.family in ("rnn", "lstm", "gru")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int) -> Configuration:
    """The configuration of a seed."""
    rng = np.random.default_rng([20170117, seed])

    def pick(values: Any, weights: Any = None) -> Any:
        values = list(values)
        return values[int(rng.choice(len(values), p=weights))]

    def between(low: float, high: float) -> float:
        return round(float(math.exp(rng.uniform(math.log(low), math.log(high)))), 3)

    family = pick(FAMILIES, list(FAMILIES.values()))
    recurrent = family in ("rnn", "lstm", "gru")
    residual = family.startswith("residual") or family == "transformer"
    tasks = {"mlp": (0.7, 0.3, 0.0), "residual mlp": (0.7, 0.3, 0.0), "cnn": (1.0, 0.0, 0.0), "residual cnn": (1.0, 0.0, 0.0)}
    task = pick(("digits", "regression", "sequence"), tasks.get(family, (0.5, 0.0, 0.5)))
    low, high = STEPS if recurrent else (2, DEEPEST.get(family, 64))
    depth = round(between(low, high + 0.49))
    if recurrent and task == "digits":
        depth = 8  # the rows of an image
    width = pick((8, 16) if "cnn" in family else (16, 32, 64) if recurrent or family == "transformer" else (16, 32, 64, 128))
    initialiser = pick(INITIALISERS, (0.15, 0.15, 0.15, 0.25, 0.1, 0.2))
    norm = pick(("none", "batch", "layer"), (0.55, 0.25, 0.2))
    place = "plain"
    if family == "transformer":
        place = pick(("pre", "post", "none", "deepnorm"), (0.3, 0.35, 0.2, 0.15))
        norm = "none" if place == "none" else "layer"
    elif residual:
        place = pick(("pre", "post")) if norm != "none" else "none"
    elif recurrent:
        norm = "none"
    scale, learned = 1.0, False
    if residual and place != "deepnorm":
        scale = pick((1.0, round(depth**-0.5, 4), round(1 / depth, 4), 0.1, 0.0), (0.5, 0.2, 0.08, 0.1, 0.12))
        learned = scale == 0.0 or bool(rng.random() < 0.15)
    random_radius = recurrent and rng.random() < 0.7
    return Configuration(
        seed,
        family,
        task,
        depth,
        width,
        pick(("tanh", "relu"), (0.6, 0.4)) if family == "rnn" else "tanh" if recurrent else pick(ACTIVATIONS),
        initialiser,
        round(math.sqrt(2) * between(*GAINS), 3) if initialiser in ("normal", "uniform", "orthogonal") else 0.0,
        pick((0.0, 0.05, 0.5), (0.6, 0.3, 0.1)),
        norm,
        place,
        scale,
        learned,
        pick((1.0, 0.0, 0.1, 10.0), (0.8, 0.05, 0.05, 0.1)),
        between(*RADII) if random_radius else 0.0,
        pick((0.0, 1.0, 3.0)) if family in ("lstm", "gru") else 0.0,
        bool(family == "rnn" and rng.random() < 0.3),
    )
