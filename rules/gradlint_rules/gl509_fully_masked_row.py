"""GL509 fully-masked-row."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Rule, Scores, Severity, collapse

__all__ = ["FullyMaskedRow"]


class FullyMaskedRow(Rule):
    """Attention masks that leave a row without any key: its softmax is NaN.

    ## What it finds
    Rows of scores that a known mask sets to minus infinity throughout; and, as a note, masks that come with the data and write
    minus infinity, so that a sample of padding alone does it.

    ## Why it matters
    ``exp(-inf) / Σ exp(-inf)`` is 0/0. The NaN of one row reaches every weight with the next backward pass, also where
    that row is ignored in the loss.

    ## How it is computed
    Masks that depend on no input are known from the trace; rows without a live entry are counted. For those that depend
    on an input, the value that they write is known.

    ## What to do
    Let every row see at least itself, or write a large negative number: ``torch.finfo(scores.dtype).min``. A row of equal
    numbers gives equal weights, not NaN.

    ## When to ignore it
    When no sample consists of padding alone.

    ## References
    PyTorch, issue 41508 (MultiheadAttention returns NaN for fully masked rows).
    """

    code = "GL509"
    name = "fully-masked-row"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[tuple[Location | None, bool], list[Scores]] = {}
        for scores in context.evidence.scores:
            if scores.empty > 0 or scores.hidden:
                groups.setdefault((scores.call.location, scores.empty > 0), []).append(scores)
        for (place, certain), members in groups.items():
            worst = max(members, key=lambda scores: scores.empty)
            yield self.finding(
                context,
                place,
                f"the mask leaves {worst.empty:.2g} of the rows without a key: their softmax is NaN"
                if certain
                else "the mask writes minus infinity: a row that it covers whole, such as a sample of padding alone, is NaN",
                severity=Severity.ERROR if certain else Severity.INFO,
                module=worst.call.module,
                evidence={"quantity": "share of rows without a key", "measured": worst.empty, "expected": 0.0},
                instances=[collapse(sorted({s.call.module or s.call.name for s in members}))],
                fix="torch.finfo(scores.dtype).min in place of -inf, or a mask that leaves each row its own position",
            )
