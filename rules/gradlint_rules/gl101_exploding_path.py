"""GL101 exploding-path."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity
from gradlint_rules._spine import path_findings

__all__ = ["ExplodingPath"]


class ExplodingPath(Rule):
    """Gradient grows by orders of magnitude between the loss and the input.

    ## What it finds
    A model whose gradient norm at the input is hundreds of times that at the output, whatever the loss, before any training.

    ## Why it matters
    The first update is dominated by the early layers; with SGD the loss diverges or becomes NaN within a few steps, in half
    precision it overflows at once. Adam in single precision often survives, at a learning rate that the late layers pay for.

    ## How it is computed
    The mean squared gradient of every op is propagated from the loss to the input (He et al. 2015, eq. 14; Schoenholz et al.
    2017, eq. 11). Between the ops that all gradient must pass, each stretch has a gain and a cause (weights, activation, norm,
    residual sum); the gains multiply to the total. Where
    draws of the weights differ by more than half a bit (narrow layers) the median draw is judged, not the mean square, which is
    the work of a few (Hanin & Nica 2019, arXiv:1812.05994). The line reported is the one whose layers contribute most.

    ## What to do
    Use the standard deviation named in the fix. Without normalisation, scale residual branches by 1/√depth. Around normalised
    layers, add skip connections. Clipping the gradient norm keeps the first steps finite but does not restore the balance.

    ## When to ignore it
    When the model is meant to be fine-tuned from weights that gradlint has not seen, or is trained with a layer-wise
    normalising optimiser (LARS, LAMB).

    ## References
    He et al. 2015 (arXiv:1502.01852); Schoenholz et al. 2017 (arXiv:1611.01232); Yang et al. 2019 (arXiv:1902.08129);
    Hanin & Rolnick 2018 (arXiv:1803.01719).
    """

    code = "GL101"
    name = "exploding-path"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["explode"]
        return path_findings(self, context, +1, (limit.warning, limit.error), "amplified")
