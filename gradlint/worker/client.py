"""A run from the outside: asks workers about the rules and the targets, and concludes. No torch, and none of the user's code."""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gradlint import errors
from gradlint.conclusion import Asked, Judged, conclude
from gradlint.config import Settings
from gradlint.errors import GradlintError
from gradlint.findings import Report
from gradlint.rulebook import Catalogue, Listed
from gradlint.run import Run
from gradlint.worker.faults import Ending, failure_of
from gradlint.worker.pool import Answer, Limits, Pool
from gradlint.worker.protocol import Job, Request, decoded

__all__ = ["Answering", "Forgetful", "Memory", "concluded", "lint"]

Answering = Callable[[Sequence[Job]], list[Answer]]


class Memory(Protocol):
    """Answers that are known already."""

    def get(self, job: Job) -> Mapping[str, Any] | None:
        """The answer to a job: the worker's last message, ``{"result": …, "files": […]}``; None where it is not known."""

    def put(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Keep it."""


class Forgetful:
    """Knows nothing, keeps nothing."""

    def get(self, job: Job) -> Mapping[str, Any] | None:
        """Nothing is known."""
        del job
        return None

    def put(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Nothing is kept."""


def lint(
    request: Request,
    settings: Settings,
    jobs: Sequence[Job],
    python: Path,
    limits: Limits,
    memory: Memory | None = None,
) -> Report:
    """Judge every target in a process of its own; the report is the one that :func:`gradlint.engine.lint_targets` makes.

    Args:
        settings: those of the request, as far as the conclusion is concerned.
        jobs: one for each target.
        python: the interpreter that the models run in.
        memory: what is known already; no worker is started for it.

    Raises:
        UsageError: a setting makes no sense, or no worker can be started.
        PackError: a rule pack cannot be loaded.
    """
    known = Forgetful() if memory is None else memory
    with Pool(python, os.environ, limits) as pool:
        answering = partial(_answers, known, pool)
        return concluded(request, settings, jobs, answering, answering)


def concluded(request: Request, settings: Settings, jobs: Sequence[Job], ask_rules: Answering, ask_models: Answering) -> Report:
    """The report on all jobs.

    Args:
        ask_rules: answers jobs about the rules.
        ask_models: answers those about the targets.

    Raises:
        UsageError: a setting makes no sense, or no worker can be started.
        PackError: a rule pack cannot be loaded.
    """

    def single(job: Job) -> Any:
        (answer,) = ask_rules([job])
        if isinstance(answer, Ending):
            raise GradlintError(f"the rules cannot be heard: {failure_of(job, answer)['message']}")
        if "failure" in answer:
            raise GradlintError(f"the rules cannot be heard: {answer['failure']['message']}")
        return _raised(answer)["result"]

    def ask(run: Run) -> Asked:
        return decoded(single(Job("ask", request, run=run)), Asked)

    rules = single(Job("rules", request))
    catalogue = Catalogue(decoded(rules["rules"], tuple[Listed, ...]), rules["removed"])
    settings = catalogue.current(settings)
    catalogue.choose(settings)
    judged = [_judged(job, answer) for job, answer in zip(jobs, ask_models(jobs), strict=True)]
    return conclude(judged, settings, catalogue, ask)


def _answers(known: Memory, pool: Pool, asked: Sequence[Job]) -> list[Answer]:
    """What is known already; for the rest, workers."""
    found: list[Answer | None] = [known.get(job) for job in asked]
    missing = [number for number, answer in enumerate(found) if answer is None]
    if missing:
        for number, answer in zip(missing, pool.run([asked[number] for number in missing]), strict=True):
            found[number] = answer
            if isinstance(answer, Mapping) and "result" in answer:
                known.put(asked[number], answer)
    return [answer for answer in found if answer is not None]


def _judged(job: Job, answer: Answer) -> Judged:
    """What is known of a target.

    Raises:
        GradlintError: the whole run makes no sense.
    """
    if isinstance(answer, Ending):
        return Judged(failures=(failure_of(job, answer),))
    if "failure" in answer:
        return Judged(failures=(answer["failure"],))
    judged = decoded(_raised(answer)["result"], Judged)
    for name, text in judged.sources.items():  # the lines of a notebook's cells, for those who show them
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return judged


def _raised(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer
