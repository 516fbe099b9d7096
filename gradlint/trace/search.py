"""Find arguments that a forward accepts: from likely ones, repaired where they are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gradlint.trace.leaves import Key, Leaf, Record, Values, leaves, put
from gradlint.trace.probe import Outcome, Prober
from gradlint.trace.repair import Suggest, repairs

__all__ = ["Refusal", "misspelt", "search"]

_WIDTH = 8  # repairs of one failure that are followed
_STEPS = 40  # arguments that are tried from one start
_RUNS = 200  # runs from one start, those for measuring included
_WORK = 400_000  # from one start, in calls


@dataclass(frozen=True)
class Refusal:
    """Arguments that forward refused, after so many torch calls."""

    values: Values
    error: Exception
    calls: int


def search(
    prober: Prober, seeds: Iterable[Values], fixed: frozenset[Key], suggest: Suggest, failures: list[Refusal]
) -> tuple[Values, Outcome] | None:
    """The first arguments that are accepted and how that run went; refusals are added to ``failures``."""
    known: set[str] = set()
    undefined: tuple[Values, Outcome] | None = None
    for seed in seeds:
        if prober.over:
            break
        prober.allow(runs=_RUNS, work=_WORK)
        found = _Descent(prober, fixed, suggest, failures, known, _STEPS).follow(seed)
        if found is None:
            continue
        if found[1].defined:
            return found
        # All of a row is masked: the mask means the opposite.
        for flipped in _flipped(found[0], fixed):
            outcome = prober.run(flipped)
            if outcome.error is None and outcome.defined:
                return flipped, outcome
        undefined = undefined or found
        if len(known) > 2 * _STEPS:
            break
    return undefined


def misspelt(values: Values) -> bool:
    """A single attribute was asked for that tensors have not: that is an error of the user's, and the argument no record."""
    return any(isinstance(tree, Record) and len(tree) < 2 for tree in values.values())


@dataclass
class _Descent:
    """Depth-first repairs from one start.

    Args:
        known: arguments that were tried, from whatever start.
        left: runs that remain.
    """

    prober: Prober
    fixed: frozenset[Key]
    suggest: Suggest
    failures: list[Refusal]
    known: set[str]
    left: int

    def follow(self, values: Values, before: Outcome | None = None) -> tuple[Values, Outcome] | None:
        """Run, and repair what fails unless nothing was gained over the run ``before``."""
        text = repr(values)
        if text in self.known or self.left <= 0 or self.prober.exhausted:
            return None
        self.known.add(text)
        self.left -= 1
        outcome = self.prober.run(values)
        if outcome.error is None:
            return None if misspelt(values) else (values, outcome)
        self.failures.append(Refusal(values, outcome.error, outcome.calls))
        if before is not None and outcome.calls == before.calls and str(outcome.error) == str(before.error):
            return None
        for changed in itertools.islice(repairs(self.prober, values, outcome, self.fixed, self.suggest), _WIDTH):
            found = self.follow(changed, outcome)
            if found is not None:
                return found
        return None


def _flipped(values: Values, fixed: frozenset[Key]) -> Iterator[Values]:
    """Booleans turned around: one after the other, then all."""
    masks = [(key, leaf) for key, leaf in leaves(values) if leaf.kind == "bool" and key not in fixed]
    groups: list[list[tuple[Key, Leaf]]] = [*([mask] for mask in masks), masks]
    for group in groups:
        changed: Any = values
        for key, leaf in group:
            changed = put(changed, key, replace(leaf, fill=0.0 if leaf.fill is None or leaf.fill else 1.0))
        yield changed
