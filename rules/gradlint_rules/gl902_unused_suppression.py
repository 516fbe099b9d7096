"""GL902 unused-suppression."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Confidence, Context, Finding, Rule, Run, Severity

__all__ = ["UnusedSuppression"]


class UnusedSuppression(Rule):
    """Comments that accept a finding which does not occur.

    ## What it finds
    A ``# gradlint: ignore[…]`` or ``# noqa: GL…`` on a line that was judged, for a rule that was asked and had nothing to say
    there; one that names no rule; and one whose rule does not exist.

    ## Why it matters
    A comment that outlives its reason hides the next finding on its line, which nobody has looked at.

    ## How it is computed
    The comments of every file in which a layer was constructed or an op was called are compared with the findings on their lines.
    A comment in code that no model ran, or for a rule that was not selected, may be for another run and is left alone.

    ## What to do
    Delete the code from the comment, or correct it.

    ## When to ignore it
    When the same file is checked under several configurations and the finding occurs in another.

    ## References
    The same in other linters: RUF100 of Ruff, ``--warn-unused-ignores`` of mypy.
    """

    code = "GL902"
    name = "unused-suppression"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterable[Finding]:
        """A single model says nothing about the comments."""
        del context
        return ()

    def review(self, run: Run) -> Iterable[Finding]:
        """See the class docstring."""
        for unused in run.unused:
            if not unused.selector:
                message, fix = "the comment accepts nothing: it names no rule", "name the rule: # gradlint: ignore[GL101]"
            elif not unused.known:
                message, fix = f"no rule is called {unused.selector!r}{unused.hint}", "`gradlint rules` lists the rules"
            else:
                message, fix = f"{unused.selector} has nothing to say here", f"delete {unused.selector} from the comment"
            yield Finding(
                self.code,
                self.name,
                self.severity,
                Confidence.HIGH,
                message,
                unused.comment,
                target="",
                module="",
                evidence={"quantity": "findings that the comment accepts", "measured": 0, "expected": 1},
                instances=(unused.selector,) if unused.selector else ("ignore",),
                fix=fix,
            )
