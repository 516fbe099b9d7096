"""The whole pipeline in one screen: load, trace, flow, rules, real runs where they are asked for, report.

judge_target ── load ──────── build ──┐
judge_script ── capture ── the call ──┤
                                      ├── predict (trace, flow) ── judge (rules) ── verified (real runs) ── Judged ── conclude
lint, analyze, verify ────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gradlint.analysis import Analysis
from gradlint.config import Settings
from gradlint.errors import AnalysisError, TargetError, UsageError
from gradlint.findings import Report
from gradlint.load import Call
from gradlint.pipeline import SEEDS, Inputs, Model, called, facts_of, inputs_for, predict, verified
from gradlint.rule import Context
from gradlint.targets import Rulebook, judge_call, judge_script, judge_target, judged
from gradlint.trace import ambient_kept, settled
from gradlint.verification import Verification

__all__ = ["analyze", "lint", "lint_call", "lint_script", "lint_targets", "verify"]


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
        return predict(model, inputs_for(inputs, chosen, called(model)), chosen)


def lint(model: Model, inputs: Inputs = None, **settings: Any) -> Report:
    """Judge a model: what :func:`analyze` predicts, read by every rule. Same arguments.

    Raises:
        TargetError: the model cannot be analysed; an exception is never a pass.
        UsageError: a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    chosen = Settings().updated(settings, "lint()")
    return _lint(model, inputs, chosen, SEEDS if chosen.verify else 0)


def verify(model: Model, inputs: Inputs = None, seeds: int = SEEDS, **settings: Any) -> Verification:
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
    rulebook = Rulebook.of(settings)
    review = rulebook.review()
    name = called(model)
    context = Context(
        predict(model, inputs_for(inputs, settings, name), settings), name, review.settings, review.settings.recipe()
    )
    findings = review.judge(context)
    facts = facts_of(context)
    missed: list[TargetError] = []
    if seeds:
        again = None if isinstance(model, nn.Module) or settings.weights else model
        comparison, findings, missed = verified(context, findings, again, seeds)
        facts = replace(facts, verification=comparison)
    return rulebook.conclude([judged(review, [facts], findings, missed)])


def lint_targets(targets: Sequence[str], settings: Settings) -> Report:
    """Judge every model in every target. One that cannot be analysed is a failure in the report; the others go on.

    Raises:
        UsageError: there is no target, or a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    if not targets:
        raise UsageError("no target given: name a file, as in `gradlint model.py`")
    rulebook = Rulebook.of(settings)
    return rulebook.conclude([judge_target(target, rulebook) for target in targets])


def lint_script(target: str, arguments: Sequence[str], settings: Settings) -> Report:
    """Run a training script until it calls its model, and judge that model with the arguments of that call.

    Args:
        target: ``train.py`` or ``package.train``; with ``:Name``, the first call of a class of that name.
        arguments: the script's own.

    Raises:
        UsageError: a setting makes no sense.
        PackError: a rule pack cannot be loaded.
    """
    rulebook = Rulebook.of(settings)
    return rulebook.conclude([judge_script(target, arguments, rulebook)])


def lint_call(call: Call, settings: Settings) -> Report:
    """Judge a model by its values, with the arguments of a call that a running program is about to make.

    Its training flags stay as they are. What cannot be analysed is a failure in the report. Raises as :func:`lint_script` does.
    """
    rulebook = Rulebook.of(settings)
    return rulebook.conclude([judge_call(call, called(call.model), rulebook)])
