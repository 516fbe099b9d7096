"""``[tool.gradlint]`` and flags -> one frozen :class:`Settings`.

values.py     the kinds of values, each with the reader that checks it and the JSON Schema that describes it
settings.py   Settings, Target, Training: what a run was asked to do
files.py      the nearest file, and the order in which defaults, file and flags are read
schema.json   for editors; written from the classes by ``./dev docs``
"""

from __future__ import annotations

from gradlint.config.files import BASELINE, ENVIRONMENT, configure, discover, misspelt
from gradlint.config.settings import KINDS, Settings, Target, schema
from gradlint.config.training import Training
from gradlint.config.values import Output, matches, suggest, weight

__all__ = [
    "BASELINE",
    "ENVIRONMENT",
    "KINDS",
    "Output",
    "Settings",
    "Target",
    "Training",
    "configure",
    "discover",
    "matches",
    "misspelt",
    "schema",
    "suggest",
    "weight",
]
