"""The whole pipeline in one screen: load, trace, flow, rules, real runs where they are asked for, report.

lint_targets ── load ──────── build ──┐
lint_script ─── capture ── the call ──┤                                    Review:
                                      ├── _predict (trace, flow) ── judge (rules) ── _verify (real runs) ── conclude ── Report
lint, analyze, verify ────────────────┘
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gradlint._version import __version__
from gradlint.analysis import Analysis
from gradlint.comparison import Comparison
from gradlint.config import Settings, Target
from gradlint.errors import AnalysisError, InputError, LoadError, TargetError, UsageError, VerificationError
from gradlint.findings import Finding, Hop, RecurrenceFacts, Report, TargetReport
from gradlint.flow import propagate
from gradlint.load import Call, Loaded, capture, load, parse_arguments, recipe_of
from gradlint.packs import load_rules
from gradlint.report.catalogue import page_of
from gradlint.review import Review
from gradlint.rule import Context, Recurrence
from gradlint.trace import Arguments, InputSpec, Laws, ambient_kept, build, described, parse_input, recording, settled, trace
from gradlint.trace.private import original
from gradlint.verification import Verification, compare, duplicate, judge, measure, overlooked, precisions

__all__ = ["analyze", "lint", "lint_call", "lint_script", "lint_targets", "verify"]

Model = nn.Module | Callable[[], nn.Module]
Inputs = tuple[Any, ...] | Mapping[str, Any] | torch.Tensor | Sequence[InputSpec | str] | Arguments | None

_SEEDS = 4

_log = logging.getLogger("gradlint")


def analyze(model: Model, inputs: Inputs = None, **settings: Any) -> Analysis:
    """Predict the rms of every parameter, module output and op of a model, and of their gradients.

    Args:
        model: a module, judged by its values; or a callable that builds one, judged by the laws of its initialisers.
        inputs: positional arguments as a tuple, keyword arguments as a dict, a tensor, or a list of texts such as
            ``"x:2,3,32,32"``; None guesses.
        settings: fields of :class:`~gradlint.config.Settings`; no configuration file is read.

    Raises:
        TargetError: the model cannot be analysed.
        UsageError: a setting makes no sense.
    """
    chosen = Settings().updated(settings, "analyze()")
    with settled():
        return _predict(model, _given(inputs, chosen, _called(model)), chosen)


def lint(model: Model, inputs: Inputs = None, **settings: Any) -> Report:
    """Judge a model: what :func:`analyze` predicts, read by every rule. Same arguments.

    Raises:
        TargetError: the model cannot be analysed; an exception is never a pass.
        UsageError: a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    chosen = Settings().updated(settings, "lint()")
    return _lint(model, inputs, chosen, _SEEDS if chosen.verify else 0)


def verify(model: Model, inputs: Inputs = None, seeds: int = _SEEDS, **settings: Any) -> Verification:
    """Judge a model as :func:`lint` does, and lay real forward and backward passes beside every number.

    Each seed draws floating-point inputs and the gradient at the output anew, and the weights as well where ``model`` builds
    them; an instance is copied and judged by its values. Nothing outside is touched. Same arguments otherwise.

    Args:
        seeds: real passes; squares are averaged over them.

    Raises:
        VerificationError: the model cannot be run for real.
        TargetError: the model cannot be analysed.
        UsageError: a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    if seeds < 1:
        raise UsageError(f"verify(): seeds: expected a positive number, got {seeds!r}")
    report = _lint(model, inputs, Settings().updated(settings, "verify()"), seeds)
    comparison = report.targets[0].verification
    if comparison is None:
        raise AnalysisError("nothing was measured")
    return Verification(report, comparison)


@ambient_kept()
@settled()
def _lint(model: Model, inputs: Inputs, settings: Settings, seeds: int) -> Report:
    review = Review(load_rules(settings.packs), settings)
    name = _called(model)
    context = Context(_predict(model, _given(inputs, settings, name), settings), name, review.settings, review.settings.recipe())
    findings = review.judge(context)
    facts = _facts(context)
    missed: list[TargetError] = []
    if seeds:
        again = None if isinstance(model, nn.Module) or settings.weights else model
        comparison, findings, missed = _verify(context, findings, again, seeds)
        facts = replace(facts, verification=comparison)
    return _report(review, [facts], findings, missed)


def lint_targets(targets: Sequence[str], settings: Settings) -> Report:
    """Judge every model in every target. One that cannot be analysed is a failure in the report; the others go on.

    Raises:
        UsageError: there is no target, or a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    if not targets:
        raise UsageError("no target given: name a file, as in `gradlint model.py`")
    try:
        arguments = parse_arguments(settings.arg)
    except LoadError as error:
        raise UsageError(f"{error} ({error.hint})") from error
    return _lint_all([_source(target, arguments, settings) for target in targets], settings)


def lint_script(target: str, arguments: Sequence[str], settings: Settings) -> Report:
    """Run a training script until it calls its model, and judge that model with the arguments of that call.

    Args:
        target: ``train.py`` or ``package.train``; with ``:Name``, the first call of a class of that name.
        arguments: the script's own.

    Raises:
        UsageError: a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    file = Path(target.partition(":")[0])
    if settings.training_script is None and file.is_file():
        settings = replace(settings, training_script=file)
    return _lint_all([_Source(target, lambda: [capture(target, arguments)])], settings)


def lint_call(call: Call, settings: Settings) -> Report:
    """Judge a model by its values, with the arguments of a call that a running program is about to make.

    Its training flags stay as they are. What cannot be analysed is a failure in the report. Raises as :func:`lint_script` does.
    """
    item = Loaded(_called(call.model), lambda: call.model, None, "", instance=True, call=call)
    return _lint_all([_Source(item.name, lambda: [item])], settings)


class _Source(NamedTuple):
    """Where models come from, as the user wrote it; and what the configuration says of it."""

    text: str
    load: Callable[[], Sequence[Loaded]]
    target: Target | None = None

    def name(self, item: Loaded) -> str:
        """One model of a target, as a target of its own."""
        single = self.text.rpartition(":")[2] == item.name or (self.target is not None and ":" in self.target.model)
        return self.text if single else f"{self.text}:{item.name}"


def _source(text: str, arguments: Mapping[str, Any], settings: Settings) -> _Source:
    target = settings.configured(text)
    if target is None:
        return _Source(text, partial(load, text, arguments))
    return _Source(target.name, partial(load, target.model, {**target.args, **arguments}), target)


def _lint_all(sources: Sequence[_Source], settings: Settings) -> Report:
    """Judge the models that each target yields."""
    review = Review(load_rules(settings.packs), settings)
    for texts in (settings.input, *settings.inputs.values(), *(target.own.get("input", ()) for target in settings.target)):
        _specs(texts)
    reports: list[TargetReport] = []
    findings: list[Finding] = []
    failures: list[TargetError] = []
    for source in sources:
        own = review.settings.of(source.target)
        recipe = own.recipe()
        with ambient_kept():  # what the file sets globally holds for its models, and for no other file
            for item, model, laws in _models(source, failures):
                name = source.name(item)
                with settled(), _contained(name, failures):
                    given = _given(None if item.call is None else _as_called(model, item.call), own, name)
                    analysis = _predict(model, given, own, laws, item.file or None, as_is=item.call is not None)
                    context = Context(analysis, name, own, recipe or recipe_of(model))
                    facts = _facts(context)
                    found = review.judge(context)
                    if settings.verify:
                        with _contained(name, failures):
                            again = None if item.instance or settings.weights else item.build
                            comparison, found, missed = _verify(context, found, again, _SEEDS)
                            facts = replace(facts, verification=comparison)
                            failures += missed
                    reports.append(facts)
                    findings += found
    return _report(review, reports, findings, failures)


def _models(source: _Source, failures: list[TargetError]) -> Iterator[tuple[Loaded, nn.Module, Laws]]:
    """What a target yields, built. Imports and builders run in one recording: either may construct the layers."""
    built: list[tuple[Loaded, nn.Module]] = []
    with recording() as laws:
        items: Sequence[Loaded] = ()
        with _contained(source.text, failures):
            items = source.load()
        for item in items:
            with _contained(source.name(item), failures):
                built.append((item, build(item.build)))
    built.reverse()
    while built:  # a model that was judged can be freed
        item, model = built.pop()
        yield item, model, laws


def _called(model: Model) -> str:
    """The name of a model that no target names."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    while isinstance(model, partial):  # its text would have all its arguments
        model = model.func
    return getattr(model, "__qualname__", type(model).__name__)


def _as_called(model: nn.Module, call: Call) -> Arguments:
    return replace(described(model, call.args, call.kwargs), autocast=call.autocast)


def _given(inputs: Inputs, settings: Settings, name: str) -> Inputs:
    """The inputs of a model: the caller's, else those of the settings."""
    return _specs(settings.inputs_of(name)) if inputs is None else inputs


def _predict(
    model: Model, given: Inputs, settings: Settings, laws: Laws | None = None, file: str | None = None, *, as_is: bool = False
) -> Analysis:
    return Analysis.of(propagate(trace(model, given, laws=laws, file=file, as_is=as_is, weights=settings.weights)))


def _facts(context: Context) -> TargetReport:
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


def _verify(
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


def _report(
    review: Review, targets: Sequence[TargetReport], findings: Sequence[Finding], failures: Sequence[TargetError]
) -> Report:
    verdict = review.conclude(findings, targets)
    return Report(
        targets=tuple(targets),
        findings=verdict.findings,
        failures=tuple(failure.to_dict() for failure in (*failures, *verdict.failures)),
        fail_on=review.settings.fail_on,
        version=__version__,
        suppressed=verdict.suppressed,
        pages=tuple(page_of(rule) for rule in review.rules),
    )


def _specs(texts: Sequence[str]) -> list[InputSpec] | None:
    try:
        return [parse_input(text) for text in texts] or None
    except InputError as error:
        raise UsageError(f"{error}{error.hint and f' ({error.hint})'}") from error


@contextmanager
def _contained(target: str, failures: list[TargetError], doing: str = "the analysis") -> Iterator[None]:
    """Whatever goes wrong within becomes a failure of this target and of no other."""
    try:
        yield
    except TargetError as error:
        failure = error
    except SystemExit as error:
        failure = LoadError(f"the model's code ended the process: sys.exit({error.code!r})")
        failure.__cause__ = error
    except Exception as error:  # noqa: BLE001 - a bug in one analysis must not lose the others
        failure = AnalysisError(
            f"{doing} failed: {type(error).__name__}: {error}".rstrip(": "),
            hint="this is a bug in gradlint or in a rule pack; -v shows the traceback to report",
        )
        failure.__cause__ = error
    else:
        return
    failure.target = failure.target or target
    failures.append(failure)
    _log.debug("%s: %s", failure.target, failure.message, exc_info=failure)
