"""One model through the stages: inputs, trace, flow; what is reported of it; real runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from gradlint import stages
from gradlint.analysis import Analysis
from gradlint.comparison import Comparison
from gradlint.config import Settings
from gradlint.errors import InputError, TargetError, UsageError, VerificationError
from gradlint.findings import Finding, Hop, RecurrenceFacts, TargetReport
from gradlint.flow import propagate
from gradlint.rule import Context, Recurrence
from gradlint.trace import Arguments, InputSpec, Laws, build, parse_input, trace
from gradlint.trace.private import original
from gradlint.verification import compare, duplicate, judge, measure, overlooked, precisions

__all__ = ["SEEDS", "Inputs", "Model", "called", "facts_of", "inputs_for", "predict", "specs", "verified"]

Model = nn.Module | Callable[[], nn.Module]
Inputs = tuple[Any, ...] | Mapping[str, Any] | torch.Tensor | Sequence[InputSpec | str] | Arguments | None

SEEDS = 4  # real passes


def called(model: Model) -> str:
    """The name of a model that no target names."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    while isinstance(model, partial):  # its text would have all its arguments
        model = model.func
    return getattr(model, "__qualname__", type(model).__name__)


def inputs_for(inputs: Inputs, settings: Settings, name: str) -> Inputs:
    """The inputs of a model: the caller's, else those of the settings."""
    return specs(settings.inputs_of(name)) if inputs is None else inputs


def predict(
    model: Model, given: Inputs, settings: Settings, laws: Laws | None = None, file: str | None = None, *, as_is: bool = False
) -> Analysis:
    """What is predicted of a model; a callable is built.

    Args:
        given: its inputs; None guesses.
        laws: those that were recorded while it was built.
        file: the user's file that it is from.
        as_is: the inputs are those of a call: none is drawn.

    Raises:
        TargetError: it cannot be analysed.
    """
    traced = trace(model, given, laws=laws, file=file, as_is=as_is, weights=settings.weights)
    stages.now("analyse")
    return Analysis.of(propagate(traced))


def facts_of(context: Context) -> TargetReport:
    """What is reported of a model, the gradient's path included."""
    paths = context.paths
    facts = context.analysis.to_target_report(context.target, paths.log2, paths.entry)
    ends = accumulate(segment.log2 for segment in paths.segments)
    hops = [
        Hop(s.end, s.module, context.blamed(s) or context.steps[s.start].location, s.cause, s.log2, end)
        for s, end in zip(paths.segments, ends, strict=True)
    ]
    recurrences = tuple(_told(context, r) for r in paths.recurrences)
    return replace(facts, path=tuple(hops), recurrences=recurrences, depths=tuple(r.facts for r in paths.repeats))


def _told(context: Context, recurrence: Recurrence) -> RecurrenceFacts:
    """A recurrence as it is reported."""
    steps, curve, place = context.steps_of(recurrence), recurrence.curve, context.place_of(recurrence)
    numbers = (steps, curve.per_step, curve.at(steps), curve.transient, curve.half_life)
    return RecurrenceFacts(recurrence.module, recurrence.cell, recurrence.along, recurrence.parameters, place, *numbers)


def verified(
    context: Context, findings: Sequence[Finding], again: Callable[[], nn.Module] | None, seeds: int
) -> tuple[Comparison, list[Finding], list[TargetError]]:
    """Real passes beside the prediction, the findings with what they say of them, and what nothing was found of.

    Args:
        again: builds the model anew for each seed; None: it is an instance.

    Raises:
        VerificationError: the model cannot be run for real.
    """
    analysis, traced = context.analysis, context.analysis.flowed.traced
    fitting = precisions(traced)
    traced.realise()
    model = traced.model if again is None else partial(_anew, again, traced.model)
    try:
        real = measure(model, traced.arguments, seeds, fitting, entries=True)
    except TargetError as error:
        message = f"the model cannot be run for real: {error.message}"
        raise VerificationError(message, where=error.where, hint=error.hint) from error
    missed = overlooked(context, real)
    if missed is not None:
        missed.target = context.target
    judged = [judge(finding, analysis, real) for finding in findings]
    return compare(analysis, real), judged, [] if missed is None else [missed]


def _anew(again: Callable[[], nn.Module], known: nn.Module) -> nn.Module:
    """A model of its own, also from a factory that returns the same object every time."""
    made = build(again)
    return duplicate(known) if original(made) is known else made


def specs(texts: Sequence[str]) -> list[InputSpec] | None:
    """Inputs as they are written on the command line; None where there are none.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        return [parse_input(text) for text in texts] or None
    except InputError as error:
        raise UsageError(f"{error}{error.hint and f' ({error.hint})'}") from error
