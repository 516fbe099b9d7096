"""GL903 rule-crashed."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Confidence, Context, Finding, Rule, Run, Severity

__all__ = ["RuleCrashed"]


class RuleCrashed(Rule):
    """A rule that raised instead of judging a model.

    ## What it finds
    An exception in the code of a rule, with the op or parameter that it was looking at.

    ## Why it matters
    What the rule would have found is not known: the run ends with exit code 2, and what the other rules found is reported.

    ## How it is computed
    The exception's traceback is read from the inside out: the innermost line in the rule's pack, and the first variable there
    that names an op or a parameter of the model.

    ## What to do
    Report it to those who wrote the rule, with the traceback that ``-v`` prints; until it is mended, leave the rule out with
    ``--ignore``.

    ## When to ignore it
    Never: ignore the rule that crashed instead.

    ## References
    None: it is a limit of the analysis.
    """

    code = "GL903"
    name = "rule-crashed"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """A single model says nothing about the rules."""
        del context
        return ()

    def review(self, run: Run) -> Iterable[Finding]:
        """See the class docstring."""
        for crash in run.crashes:
            at = f" at {crash.node}" if crash.node else ""
            yield Finding(
                self.code,
                self.name,
                self.severity,
                Confidence.HIGH,
                f"rule {crash.code} crashed{at}: {crash.error}",
                crash.location,
                crash.target,
                module="",
                evidence={"rule": crash.code, "node": crash.node, "where": crash.where, "error": crash.error},
                instances=(crash.node or crash.code,),
                notes=(f"the rule's line: {crash.where}",),
                fix=f"report it to the authors of the rule; --ignore {crash.code} leaves it out",
            )
