"""Every model of a target: loaded or captured, built, judged; what goes wrong is a failure of that model and of no other."""

from __future__ import annotations

import linecache
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import nn

from gradlint import stages
from gradlint.conclusion import Asked, Judged, conclude
from gradlint.config import Settings, Target
from gradlint.errors import AnalysisError, LoadError, TargetError, UsageError
from gradlint.findings import Finding, Report, TargetReport
from gradlint.load import Call, Loaded, capture, load, parse_arguments, recipe_of
from gradlint.packs import load_rules
from gradlint.pipeline import SEEDS, facts_of, inputs_for, predict, specs, verified
from gradlint.review import Review, listed
from gradlint.rule import Context, Rule, Run
from gradlint.rulebook import Catalogue
from gradlint.trace import Arguments, Laws, ambient_kept, build, described, recording, settled

__all__ = ["Rulebook", "judge_call", "judge_script", "judge_target", "judged"]

_log = logging.getLogger("gradlint")


@dataclass(frozen=True)
class Rulebook:
    """The rules of a run, with its settings.

    Args:
        settings: with present codes.
    """

    catalogue: Catalogue[Rule]
    settings: Settings

    @classmethod
    def of(cls, settings: Settings) -> Rulebook:
        """Load the packs; what makes no sense is refused before any work is done.

        Raises:
            UsageError: what the settings name is no rule, they leave none, or an input cannot be read.
            PackError: a pack cannot be loaded.
        """
        catalogue = load_rules(settings.packs)
        settings = catalogue.current(settings)
        catalogue.choose(settings)
        for texts in (settings.input, *settings.inputs.values(), *(target.own.get("input", ()) for target in settings.target)):
            specs(texts)
        return cls(catalogue, settings)

    def review(self) -> Review:
        """A hearing of the rules that the settings choose."""
        return Review(self.catalogue, self.settings)

    def ask(self, run: Run) -> Asked:
        """What the rules say about a run."""
        review = self.review()
        return Asked(tuple(review.about(run)), _told_failures(review.failures))

    def conclude(self, judged: Sequence[Judged]) -> Report:
        """The report of all that was judged."""
        return conclude(judged, self.settings, listed(self.catalogue), self.ask)


def judge_target(target: str, rulebook: Rulebook) -> Judged:
    """Every model in one target, before the run is concluded.

    Raises:
        UsageError: a setting makes no sense.
    """
    return _judge(_source(target, rulebook.settings), rulebook)


def judge_script(target: str, arguments: Sequence[str], rulebook: Rulebook) -> Judged:
    """The model that a training script calls: see :func:`lint_script`.

    Raises:
        UsageError: a setting makes no sense.
    """
    file = Path(target.partition(":")[0])
    if rulebook.settings.training_script is None and file.is_file():
        rulebook = replace(rulebook, settings=replace(rulebook.settings, training_script=file))
    return _judge(_Source(target, lambda: [capture(target, arguments)]), rulebook)


def judge_call(call: Call, name: str, rulebook: Rulebook) -> Judged:
    """A model by its values, with the arguments of a call: see :func:`~gradlint.engine.lint_call`."""
    item = Loaded(name, lambda: call.model, None, "", instance=True, call=call)
    return _judge(_Source(name, lambda: [item]), rulebook)


class _Source(NamedTuple):
    """Where models come from, as the user wrote it; and what the configuration says of it."""

    text: str
    load: Callable[[], Sequence[Loaded]]
    target: Target | None = None

    def name(self, item: Loaded) -> str:
        """One model of a target, as a target of its own."""
        single = self.text.rpartition(":")[2] == item.name or (self.target is not None and ":" in self.target.model)
        return self.text if single else f"{self.text}:{item.name}"


def _source(text: str, settings: Settings) -> _Source:
    try:
        arguments = parse_arguments(settings.arg)
    except LoadError as error:
        raise UsageError(f"{error} ({error.hint})") from error
    target = settings.configured(text)
    if target is None:
        return _Source(text, partial(load, text, arguments))
    return _Source(target.name, partial(load, target.model, {**target.args, **arguments}), target)


def _judge(source: _Source, rulebook: Rulebook) -> Judged:
    """Judge the models that a target yields."""
    review = rulebook.review()
    reports: list[TargetReport] = []
    findings: list[Finding] = []
    failures: list[TargetError] = []
    own = review.settings.of(source.target)
    recipe = own.recipe()
    with ambient_kept():  # what the file sets globally holds for its models, and for no other file
        for item, model, laws in _models(source, failures):
            name = source.name(item)
            stages.now("inputs", name)
            with settled(), _contained(name, failures):
                given = inputs_for(None if item.call is None else _as_called(model, item.call), own, name)
                analysis = predict(model, given, own, laws, item.file or None, as_is=item.call is not None)
                context = Context(analysis, name, own, recipe or recipe_of(model))
                facts = facts_of(context)
                found = review.judge(context)
                if own.verify:
                    stages.now("verify")
                    with _contained(name, failures):
                        again = None if item.instance or own.weights else item.build
                        comparison, found, missed = verified(context, found, again, SEEDS)
                        facts = replace(facts, verification=comparison)
                        failures += missed
                reports.append(facts)
                findings += found
    return judged(review, reports, findings, failures)


def judged(
    review: Review, targets: Sequence[TargetReport], findings: Sequence[Finding], failures: Sequence[TargetError]
) -> Judged:
    """What was found, together with what the hearing of the rules has noted."""
    return Judged(
        tuple(targets),
        tuple(findings),
        _told_failures(failures),
        tuple(review.crashes),
        _told_failures(review.failures),
        tuple(sorted(review.seen)),
        dict(_sources({path for path, _ in review.seen} | {failure.where.rpartition(":")[0] for failure in failures})),
    )


def _sources(names: set[str]) -> Iterator[tuple[str, str]]:
    """The texts of those that are in no file: Python knows them by an entry without a time."""
    for name in sorted(names & linecache.cache.keys()):
        entry = linecache.cache[name]
        if len(entry) == 4 and entry[1] is None:
            yield name, "".join(entry[2])


def _told_failures(failures: Sequence[TargetError]) -> tuple[Mapping[str, str], ...]:
    return tuple(failure.to_dict() for failure in failures)


def _models(source: _Source, failures: list[TargetError]) -> Iterator[tuple[Loaded, nn.Module, Laws]]:
    """What a target yields, built. Imports and builders run in one recording: either may construct the layers."""
    built: list[tuple[Loaded, nn.Module]] = []
    stages.now("load", source.text)
    with recording() as laws:
        items: Sequence[Loaded] = ()
        with _contained(source.text, failures):
            items = source.load()
        for item in items:
            stages.now("build", source.name(item))
            with _contained(source.name(item), failures):
                built.append((item, build(item.build)))
    built.reverse()
    while built:  # a model that was judged can be freed
        item, model = built.pop()
        yield item, model, laws


def _as_called(model: nn.Module, call: Call) -> Arguments:
    return replace(described(model, call.args, call.kwargs), autocast=call.autocast)


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
