"""GL904 stale-baseline."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Confidence, Context, Finding, Rule, Run, Severity

__all__ = ["StaleBaseline"]


class StaleBaseline(Rule):
    """Accepted findings that no longer occur.

    ## What it finds
    An entry of the baseline for a model that was checked, by a rule that was asked, without a finding that it accepts.

    ## Why it matters
    Something was mended. As long as its entry stays, the mistake can come back unseen.

    ## How it is computed
    Findings are paired with entries by target, rule, type of module and quantity; those at the same module first, the others by
    size. What is left of the entries is stale.

    ## What to do
    Run ``gradlint baseline --prune`` and commit the file.

    ## When to ignore it
    When one baseline serves several configurations of the same models.

    ## References
    The same in other linters: ESLint's bulk suppressions, PHPStan's ``reportUnmatchedIgnoredErrors``.
    """

    code = "GL904"
    name = "stale-baseline"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """A single model says nothing about the baseline."""
        del context
        return ()

    def review(self, run: Run) -> Iterable[Finding]:
        """See the class docstring."""
        for stale in run.stale:
            where = f" at {stale.module}" if stale.module else ""
            yield Finding(
                self.code,
                self.name,
                self.severity,
                Confidence.HIGH,
                f"{stale.target} no longer has the accepted {stale.code}{where}",
                stale.place,
                target="",
                module="",
                evidence={"quantity": f"findings of {stale.code}", "measured": 0, "expected": 1},
                instances=(stale.module or stale.target,),
                fix="gradlint baseline --prune",
            )
