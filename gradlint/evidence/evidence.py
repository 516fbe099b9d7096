"""All evidence about one model, each kind computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from gradlint.evidence.activations import Activation, find_activations
from gradlint.evidence.calls import Layer, Ops
from gradlint.evidence.ranges import Range, find_ranges, near_zero
from gradlint.evidence.scores import Scores, find_scores
from gradlint.evidence.singular import Singularity, find_singularities
from gradlint.evidence.streams import Stream, find_streams
from gradlint.flowed import Flowed
from gradlint.moments import Moments

__all__ = ["Evidence"]


class Evidence:
    """What the model is made of and does, beside the gains of its gradient.

    Args:
        flowed: the moments it is read from.
    """

    def __init__(self, flowed: Flowed) -> None:
        self._flowed = flowed

    @cached_property
    def ops(self) -> Ops:
        """The calls of forward, and who uses what."""
        return Ops(self._flowed)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The calls that multiply by a weight."""
        return self.ops.layers()

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """Node name to the values that it can have."""
        return find_ranges(self._flowed, self.ops)

    @cached_property
    def singularities(self) -> tuple[Singularity, ...]:
        """Where values or slopes are not finite."""
        return find_singularities(self._flowed, self.ops, self.ranges)

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """How nonlinearities behave on what they see."""
        return find_activations(self._flowed, self.ops)

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """Chains of residual sums."""
        return find_streams(self._flowed, self.ops)

    @cached_property
    def scores(self) -> tuple[Scores, ...]:
        """The rows that softmax is taken of."""
        return find_scores(self._flowed, self.ops)

    @property
    def inputs_guessed(self) -> bool:
        """Sizes of the inputs were guessed: what follows from them is no property of the model."""
        return self._flowed.traced.arguments.origin == "guessed"

    def graded(self, node: str) -> bool:
        """A gradient arrives at a node."""
        return node in self._flowed.backward

    def near_zero(self, node: str) -> float:
        """Share of a node's entries within a thousandth of their rms of zero; 0 where its law is unknown."""
        law = self._flowed.forward.get(node)
        return near_zero(law) if isinstance(law, Moments) else 0.0
