"""GL102 vanishing-path."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import LIMITS, Context, Finding, Rule, Severity
from gradlint_rules._spine import path_findings

__all__ = ["VanishingPath"]


class VanishingPath(Rule):
    """Gradient dies out between the loss and the input.

    ## What it finds
    A model whose gradient norm at the input is thousands of times smaller than at the output.

    ## Why it matters
    The early layers do not move. SGD stays at the loss of a constant prediction; Adam rescales the gradient but amplifies its
    noise, and fails as well once the gradient nears the epsilon in its denominator.

    ## How it is computed
    As GL101, the other way: the product of the gains of all stretches between the loss and the input. A gradient that is
    zero at initialisation (zero-initialised branches and heads) is not vanishing and does not count.

    ## What to do
    Use the standard deviation named in the fix, an activation that keeps the gradient, normalisation, or skip connections.

    ## When to ignore it
    When the early layers are meant to stay as they are (frozen features, random features).

    ## References
    Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); Schoenholz et al. 2017 (arXiv:1611.01232).
    """

    code = "GL102"
    name = "vanishing-path"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        limit = LIMITS["vanish"]
        return path_findings(self, context, -1, (limit.warning, limit.error), "attenuated")
