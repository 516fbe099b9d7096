"""What rules judge by, beside the moments: calls and layers, ranges of values, singular places, collapse, the output's scale."""

from gradlint.evidence.activations import Activation, find_activations
from gradlint.evidence.calls import NORMS, Layer, Op, Ops, Ref
from gradlint.evidence.collapse import Collapse, Evidence, evidence_of
from gradlint.evidence.ranges import Range, find_ranges, near_zero
from gradlint.evidence.singular import Singularity, find_singularities

__all__ = [
    "NORMS",
    "Activation",
    "Collapse",
    "Evidence",
    "Layer",
    "Op",
    "Ops",
    "Range",
    "Ref",
    "Singularity",
    "evidence_of",
    "find_activations",
    "find_ranges",
    "find_singularities",
    "near_zero",
]
