"""The tensors a model is run on: given, described on the command line, or guessed.

A guess starts from what names, annotations and first layers suggest, and runs forward. Where a call refuses its operands, the
arguments are changed so that it gets what it asks for (:mod:`gradlint.trace.repair`), until forward returns.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from gradlint.errors import InputError
from gradlint.trace.arguments import HINT, Arguments, described, drawn, parse_input, signature_of
from gradlint.trace.examples import examples, offered
from gradlint.trace.graph import InputSpec
from gradlint.trace.guess import candidates
from gradlint.trace.leaves import Key, Values, leaves
from gradlint.trace.overrides import placed
from gradlint.trace.private import BATCH_NORM
from gradlint.trace.probe import ENOUGH, Around, Prober
from gradlint.trace.search import Refusal, misspelt, search
from gradlint.trace.source import user_line

__all__ = ["guessed", "resolve"]

_WORK = 1_600_000  # in calls
_SEEDS = 80
_SHOWN = 6
_MORE = 3  # rounds, each with more arguments
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def guessed(inputs: Any) -> bool:
    """Whether ``inputs`` leave something to be found by trying it."""
    return inputs is None or (isinstance(inputs, list) and all(isinstance(item, InputSpec | str) for item in inputs))


def resolve(model: nn.Module, inputs: Any, *, tried: bool = True, around: Around = nullcontext) -> Arguments:
    """The arguments to run ``model`` on; see :func:`gradlint.trace.trace` for what ``inputs`` may be.

    Args:
        tried: forward has accepted them; else they are the likeliest, and what is run on them next is the trial.
        around: what to run forward in.

    Raises:
        InputError: nothing was found that the model accepts, or ``inputs`` is of no such form.
    """
    if inputs is None:
        return _offered(model, around, tried=tried) or _guess(model, [], around, tried=tried)
    if isinstance(inputs, Arguments):
        return inputs
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        return described(model, (), inputs)
    if guessed(inputs):
        return _guess(model, [parse_input(item) if isinstance(item, str) else item for item in inputs], around, tried=tried)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return described(model, tuple(inputs), {})
    raise InputError(f"inputs must be a tuple, a dict, a tensor or None, not {type(inputs).__name__}")


def _offered(model: nn.Module, around: Around, *, tried: bool) -> Arguments | None:
    """What an attribute of the model says that it takes; it is not second-guessed."""
    found = offered(model)
    if found is None:
        return None
    name, values = found
    outcome = Prober(model, work=_WORK, around=around).run(values) if tried else None
    if outcome is None or outcome.error is None:
        return drawn(model, values, name)
    place = user_line(outcome.error.__traceback__)
    message = f"forward of {type(model).__name__} refuses the model's own {name}: {_reason(outcome.error)}"
    raise InputError(message, where="" if place is None else f"{place.path}:{place.line}", hint=f"correct {name}, or {HINT}")


def _guess(model: nn.Module, overrides: list[InputSpec], around: Around, *, tried: bool) -> Arguments:
    """The first arguments that the model accepts, with what ``overrides`` fix; the likeliest if nothing is to be tried."""
    given, fixed = placed(model, overrides)
    values = None if tried else next(_seeds(model, given, _batch(given), 0), None)
    if values is None or _to_be_tried(model, values, fixed):
        values = _found(model, given, fixed, around)
    known = all(any(key[: len(f)] == f for f in fixed) for key, _ in leaves(values))
    return drawn(model, values, "given" if known else "guessed")


def _batch(given: Values) -> int:
    """As many samples as what is given has."""
    return next((leaf.shape[0] for _, leaf in leaves(given) if leaf.shape), 2)


def _to_be_tried(model: nn.Module, values: Values, fixed: frozenset[Key]) -> bool:
    """Forward need not fail to show that a guess was wrong: too small a batch, a mask that means the opposite."""
    free = [leaf for key, leaf in leaves(values) if key not in fixed]
    return bool(free) and (
        any(leaf.kind == "bool" for leaf in free) or (not fixed and any(isinstance(m, BATCH_NORM) for m in model.modules()))
    )


def _found(model: nn.Module, given: Values, fixed: frozenset[Key], around: Around) -> Values:
    """Arguments that the model accepts, among them the ``given`` ones.

    Raises:
        InputError: nothing was found.
    """
    failures: list[Refusal] = []
    prober = Prober(model, work=_WORK, around=around)

    def suggest(name: str) -> list[Any]:
        return candidates(model, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY), _batch(given))

    for more in range(_MORE):
        seeds = itertools.islice(_seeds(model, given, _batch(given), more), _SEEDS)
        found = search(prober, seeds, fixed, suggest, failures)
        if found is None:
            continue
        values, outcome = found
        if outcome.samples < ENOUGH and not fixed:
            seeds = itertools.islice(_seeds(model, given, ENOUGH, more), _SEEDS)
            again = search(prober, seeds, fixed, suggest, [])
            values = values if again is None else again[0]
        return values
    raise _none_accepted(model, failures)


def _seeds(model: nn.Module, given: Values, batch: int, more: int) -> Iterator[Values]:
    """Arguments worth a try, likely ones first.

    Args:
        more: beyond those that need a value: 0, none; 1, those that have a default of None. Of ``*args`` so many more.
    """
    if not given and not more:
        yield from examples(model, batch)
    takes = _required(model)
    if more:
        named = [p for p in signature_of(model) if p.kind not in _VARIADIC]
        extra = [p for p in named if p.default is None and p not in takes] if more == 1 else []
        if not named:
            extra = [takes[0].replace(name=f"input_{index}") for index in range(1, more + 1)] if takes else []
        if not extra:
            return
        takes = [p for p in named if p in takes or p in extra] if named else [*takes, *extra]
    free = [p for p in takes if p.name not in given]
    if any(name.startswith("input_") for name in given) and not signature_of(model):  # forward(*args)
        free = []
    choices = [candidates(model, parameter, batch, [p.name for p in takes]) for parameter in free]
    for picked in _in_order(choices):
        chosen = {**{p.name: value for p, value in zip(free, picked, strict=True)}, **given}
        order = [p.name for p in signature_of(model) if p.name in chosen]
        yield {name: chosen[name] for name in (*order, *(n for n in chosen if n not in order))}


def _required(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments that need a value: those without a default, at least the first one."""
    named = [p for p in signature_of(model) if p.kind not in _VARIADIC]
    if not named and inspect.Parameter.VAR_POSITIONAL in {p.kind for p in signature_of(model)}:
        return [inspect.Parameter("input_0", inspect.Parameter.POSITIONAL_ONLY)]
    return [p for p in named if p.default is inspect.Parameter.empty] or named[:1]


def _in_order(choices: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """The product of choices, first those that take the first few of each."""
    for total in range(sum(len(c) - 1 for c in choices) + 1):
        for ranks in _ranks([len(c) for c in choices], total):
            yield tuple(c[rank] for c, rank in zip(choices, ranks, strict=True))


def _ranks(lengths: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    if not lengths:
        if total == 0:
            yield ()
        return
    # Equal ranks come first: arguments that go together (source and target) mostly look alike.
    first = range(min(lengths[0] - 1, total) + 1)
    for rank in sorted(first, key=lambda r: abs(r * len(lengths) - total)):
        for rest in _ranks(lengths[1:], total - rank):
            yield (rank, *rest)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _none_accepted(model: nn.Module, failures: list[Refusal]) -> InputError:
    name = type(model).__name__
    arguments = ", ".join(p.name for p in signature_of(model))
    if not failures:
        return InputError(f"no idea what {name}.forward({arguments}) takes", hint=HINT)
    failures = [refusal for refusal in failures if not misspelt(refusal.values)] or failures
    # The try that got furthest fails for the most telling reason.
    best = max(failures, key=lambda refusal: refusal.calls)
    place = user_line(best.error.__traceback__)
    where = "" if place is None else f"{place.path}:{place.line}"
    if len({(type(refusal.error), str(refusal.error)) for refusal in failures}) == 1:
        return InputError(f"forward of {name} raised {_reason(best.error)}, whatever the input", where=where, hint=HINT)
    shown = list(dict.fromkeys(_shown(refusal.values) for refusal in failures))
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    tried = " | ".join(shown[:_SHOWN])
    message = f"no inputs found that {name}.forward({arguments}) accepts; tried {tried}{more}"
    message += f"; {_shown(best.values)} got furthest and raised {_reason(best.error)}"
    return InputError(message, where=where, hint=HINT)


def _shown(values: Values) -> str:
    return "; ".join(str(leaf.spec(".".join(map(str, key)))) for key, leaf in leaves(values))
