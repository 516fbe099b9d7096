"""The tables of the trainability benchmark."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from benchmarks._tables import between
from benchmarks.trainability.labels import read
from benchmarks.trainability.scores import QUESTIONS, SCORES, area, rate
from benchmarks.trainability.training import OPTIMISERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.trainability.scores import Case


def show(cases: Sequence[Case], *, write: bool) -> None:
    """Print the tables; put them into README.md if asked."""
    lines = [*labelled(cases), "", *verdicts(cases), "", *areas(cases)]
    print("\n".join(lines))
    if write:
        between("trainability", lines)


def labelled(cases: Sequence[Case]) -> list[str]:
    """What training did in the test half."""
    everything = len(read())
    lines = [f"{everything} networks are labelled; these {len(cases)} are the test half.", ""]
    lines += ["| | trained | stuck | diverged |", "|---|---|---|---|"]
    for optimiser in OPTIMISERS:
        count = Counter(case.label(optimiser) for case in cases)
        lines.append(f"| {optimiser} | {count['trained']} | {count['stuck']} | {count['diverged']} |")
    return lines


def verdicts(cases: Sequence[Case]) -> list[str]:
    """Findings beside outcomes."""
    groups = {
        "all three optimisers train it": [case for case in cases if case.trained == 3],
        "one or two do": [case for case in cases if case.trained in (1, 2)],
        "none does": [case for case in cases if case.trained == 0],
    }
    lines = ["| | networks | an error | an error or a warning |", "|---|---|---|---|"]
    for name, group in groups.items():
        errors, any_ = rate(group, lambda c: "error" in severities(c)), rate(group, lambda c: bool(severities(c)))
        lines.append(f"| {name} | {len(group)} | {errors} | {any_} |")
    sound, failed = groups["all three optimisers train it"], groups["none does"]
    for title, group, hit in (
        ("Findings where all three train", sound, lambda c: bool(severities(c))),
        ("No finding where none trains", failed, lambda c: not severities(c)),
    ):
        chosen = [case for case in group if hit(case)]
        lines += ["", f"{title}: {len(chosen)}.", ""]
        lines += [f"- {described(case)}" for case in chosen]
    return lines


def severities(case: Case) -> set[str]:
    return set((case.prediction.findings or {}).values())


def described(case: Case) -> str:
    c, p = case.row["configuration"], case.prediction
    parts = [c["family"], c["task"], f"depth {c['depth']}", f"width {c['width']}", c["activation"], c["initialiser"]]
    parts += [c["norm"]] if c["norm"] != "none" else []
    parts += [c["place"]] if c["place"] not in ("plain", "none") else []
    found = ", ".join(f"{code} {severity}" for code, severity in (p.findings or {}).items())
    gain = "no gain" if p.gain is None else f"gain {p.gain:+.1f} bits"
    return f"seed {c['seed']}: {', '.join(parts)}; {gain}" + (f"; {found}" if found else "")


def areas(cases: Sequence[Case]) -> list[str]:
    """AUC by question and score."""
    lines = ["| AUC (95 % of the bootstrap) | " + " | ".join(QUESTIONS) + " |", "|---|" + "---|" * len(QUESTIONS)]
    for name, score in SCORES.items():
        cells = [str(area(cases, question, score)) for question in QUESTIONS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
