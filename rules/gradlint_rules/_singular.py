"""What the rules about singular places share: one finding per line and op, with what repairs the op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradlint.rule import Context, Location, Severity, Singularity

__all__ = ["REPAIR", "by_line", "how_often", "modules", "severity"]

REPAIR: Mapping[str, str] = {
    "sqrt": "sqrt(x + 1e-12) bounds the slope at 5e5; of a sum of squares, torch.linalg.vector_norm has the gradient 0 at 0",
    "rsqrt": "rsqrt(x + 1e-6), an epsilon inside the root",
    "pow": "(x + 1e-12) ** p, or clamp(min=1e-12) before it",
    "float_power": "clamp(min=1e-12) before it",
    "acos": "clamp the argument to ±(1 - 1e-6), or use atan2 of sine and cosine",
    "asin": "clamp the argument to ±(1 - 1e-6), or use atan2 of sine and cosine",
    "acosh": "clamp(min=1 + 1e-6) before it",
    "atanh": "clamp the argument to ±(1 - 1e-6)",
    "logit": "logit(x, eps=1e-6)",
    "erfinv": "clamp the argument to ±(1 - 1e-6)",
    "log": "log(x.clamp(min=1e-12)); of a softmax, log_softmax; of a sigmoid, logsigmoid",
    "log2": "log2(x.clamp(min=1e-12))",
    "log10": "log10(x.clamp(min=1e-12))",
    "log1p": "log1p(x.clamp(min=-1 + 1e-6))",
    "reciprocal": "1 / (x + 1e-6) where x is never negative",
    "truediv": "an epsilon in the denominator, inside the square root if there is one",
    "div": "an epsilon in the denominator, inside the square root if there is one",
}
"""What keeps an op away from where it is not finite."""


def by_line(context: Context, found: Iterable[Singularity]) -> Mapping[tuple[Location | None, str], list[Singularity]]:
    """Findings of one line and op are one."""
    groups: dict[tuple[Location | None, str], list[Singularity]] = {}
    for s in found:
        groups.setdefault((context.steps[s.node].location, s.op), []).append(s)
    for group in groups.values():
        group.sort(key=lambda s: (-s.share, not s.why))
    return groups


def how_often(s: Singularity) -> str:
    """Which entries go there."""
    if s.share > 0 and s.why and s.why != "by its law":
        return f"{s.why} ({s.share:.2g} of the entries)"
    if s.share > 0:
        return f"for {s.share:.2g} of the entries"
    return s.why or "in the limit, if ever"


def severity(s: Singularity) -> Severity:
    """What happens in the first step is an error, what needs an unlucky input a warning, the limit of a range a note."""
    if s.share > 0:
        return Severity.ERROR
    return Severity.WARNING if s.why else Severity.INFO


def modules(context: Context, nodes: Iterable[str]) -> list[str]:
    """The modules that make the calls."""
    return sorted({context.steps[node].module for node in nodes} - {""})
