"""What rules judge by, beside the gains: calls and layers, ranges of values, singular places, streams, scores."""

from gradlint.evidence.activations import Activation
from gradlint.evidence.calls import Layer, Op, Ops, Ref
from gradlint.evidence.evidence import Evidence
from gradlint.evidence.ranges import Range
from gradlint.evidence.scores import Scores
from gradlint.evidence.singular import Singularity
from gradlint.evidence.streams import Stream
from gradlint.evidence.symptoms import Collapse, Symptoms, find_symptoms

__all__ = [
    "Activation",
    "Collapse",
    "Evidence",
    "Layer",
    "Op",
    "Ops",
    "Range",
    "Ref",
    "Scores",
    "Singularity",
    "Stream",
    "Symptoms",
    "find_symptoms",
]
