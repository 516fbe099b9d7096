"""The tensors a model is run on: given, described on the command line, or guessed."""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradlint.errors import InputError
from gradlint.trace.arguments import HINT, Arguments, described, drawn, parse_input, positional, signature_of
from gradlint.trace.graph import InputSpec
from gradlint.trace.guess import candidates, examples
from gradlint.trace.source import transparent, user_line
from gradlint.trace.state import is_lazy, preserved, seeded
from gradlint.trace.tree import map_tensors

__all__ = ["guessed", "resolve"]

_TRIES = 160
_SHOWN = 6
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_FEW = 4  # samples per channel that a batch normalisation needs to be more than a sign


def guessed(inputs: Any) -> bool:
    """Whether ``inputs`` leave something to be found by trying it."""
    return inputs is None or (isinstance(inputs, list) and all(isinstance(item, InputSpec | str) for item in inputs))


def resolve(model: nn.Module, inputs: Any, *, tried: bool = True) -> Arguments:
    """The arguments to run ``model`` on; see :func:`gradlint.trace.trace` for what ``inputs`` may be.

    Args:
        tried: forward has accepted them; else they are the likeliest, and what is run on them next is the trial.

    Raises:
        InputError: nothing was found that the model accepts, or ``inputs`` is of no such form.
    """
    if inputs is None:
        return _guess(model, [], tried=tried)
    if isinstance(inputs, Arguments):
        return inputs
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        return described(model, (), inputs)
    if guessed(inputs):
        return _guess(model, [parse_input(item) if isinstance(item, str) else item for item in inputs], tried=tried)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return described(model, tuple(inputs), {})
    raise InputError(f"inputs must be a tuple, a dict, a tensor or None, not {type(inputs).__name__}")


def _required(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments that need a value: those without a default, at least the first one."""
    named = [p for p in signature_of(model) if p.kind not in _VARIADIC]
    if not named and inspect.Parameter.VAR_POSITIONAL in {p.kind for p in signature_of(model)}:
        return [inspect.Parameter("input", inspect.Parameter.POSITIONAL_ONLY)]
    return [p for p in named if p.default is inspect.Parameter.empty] or named[:1]


def _guess(model: nn.Module, overrides: list[InputSpec], batch: int = 2, *, tried: bool = True) -> Arguments:
    """The first candidate that the model accepts, run with what ``overrides`` fix."""
    untried = not tried and (overrides or not any(isinstance(module, _BATCH_NORM) for module in model.modules()))
    failures: list[_Refusal] = []
    for args, kwargs in itertools.islice(_tries(model, overrides, batch), _TRIES):
        given = drawn(model, args, kwargs)
        if untried:
            return given
        outcome = _try(model, given)
        if isinstance(outcome, _Refusal):
            failures.append(outcome)
            continue
        if outcome < _FEW and batch < _FEW and not overrides:
            try:
                return _guess(model, overrides, _FEW)
            except InputError:
                return given
        return given
    raise _none_accepted(model, failures)


def _tries(model: nn.Module, overrides: list[InputSpec], batch: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments worth a try, likely ones first; tensors are described by :class:`InputSpec`."""
    if not overrides:
        yield from examples(model, batch)
    fixed, extra = _placed(model, overrides)
    free = [p for p in _required(model) if p.name not in fixed]
    if extra:  # forward(*args)
        yield tuple(extra), fixed
        return
    for picked in _in_order([candidates(model, parameter, batch) for parameter in free]):
        values = {**{p.name: value for p, value in zip(free, picked, strict=True)}, **fixed}
        # Leading arguments by position: that works for positional-only ones and for *args too.
        names = positional(model, len(values))
        lead = list(itertools.takewhile(values.__contains__, names))
        yield tuple(values[n] for n in lead), {n: v for n, v in values.items() if n not in lead}


def _placed(model: nn.Module, overrides: list[InputSpec]) -> tuple[dict[str, InputSpec], list[InputSpec]]:
    """The arguments that overrides are for: by name, else the next ones by position; the rest if forward takes any."""
    signature = signature_of(model)
    kinds = {p.kind for p in signature}
    names = [p.name for p in signature if p.kind not in _VARIADIC]
    fixed = {spec.name: spec for spec in overrides if spec.name}
    unknown = [name for name in fixed if name not in names]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        known = ", ".join(names) or "none"
        raise InputError(f"{type(model).__name__}.forward has no argument {unknown[0]!r}; it has: {known}", hint=HINT)
    extra: list[InputSpec] = []
    free = (name for name in names if name not in fixed)
    for spec in (spec for spec in overrides if not spec.name):
        name = next(free, None)
        if name is not None:
            fixed[name] = replace(spec, name=name)
        elif inspect.Parameter.VAR_POSITIONAL in kinds:
            extra.append(replace(spec, name=f"input_{len(extra)}"))
        else:
            raise InputError(f"{len(overrides)} inputs given; {type(model).__name__}.forward takes {len(names)}", hint=HINT)
    return fixed, extra


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


@dataclass(frozen=True)
class _Refusal:
    """How a try failed, and after how many torch calls."""

    given: Arguments
    error: Exception
    calls: int


class _Counter(TorchFunctionMode):
    calls = 0

    @transparent
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _try(model: nn.Module, given: Arguments) -> int | _Refusal:
    """Run forward; the least number of samples per channel that a batch normalisation saw, or what was raised."""
    samples: list[int] = []
    if is_lazy(model):
        model = copy.deepcopy(model)

    def count(_: nn.Module, args: tuple[Any, ...]) -> None:
        samples.extend(t.numel() // max(t.shape[1], 1) for t in args[:1] if isinstance(t, torch.Tensor) and t.dim() > 1)

    counter = _Counter()
    with seeded(), preserved(model, parameters=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in model.modules():
            if isinstance(module, _BATCH_NORM):
                module.register_forward_pre_hook(count)
        args, kwargs = map_tensors((given.args, dict(given.kwargs)), lambda t: t.clone())
        try:
            with counter, torch.no_grad():
                _call(model, args, kwargs)
        except RuntimeError as error:
            if "require" not in str(error):
                return _Refusal(given, error, counter.calls)
            # It differentiates in its forward: that needs the graph, which costs memory.
            return _with_grad(model, given)
        except Exception as error:  # noqa: BLE001 - any way a model refuses an input; reported if none is accepted
            return _Refusal(given, error, counter.calls)
    return min(samples, default=_FEW)


def _with_grad(model: nn.Module, given: Arguments) -> int | _Refusal:
    args, kwargs = map_tensors((given.args, dict(given.kwargs)), lambda t: t.clone())
    try:
        with torch.enable_grad():
            _call(model, args, kwargs)
    except Exception as error:  # noqa: BLE001 - as in _try
        return _Refusal(given, error, 0)
    return _FEW


@transparent
def _call(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _none_accepted(model: nn.Module, failures: list[_Refusal]) -> InputError:
    name = type(model).__name__
    arguments = ", ".join(p.name for p in signature_of(model))
    if not failures:
        return InputError(f"no idea what {name}.forward({arguments}) takes", hint=HINT)
    # The try that got furthest fails for the most telling reason.
    best = max(failures, key=lambda refusal: refusal.calls)
    place = user_line(best.error.__traceback__)
    where = "" if place is None else f"{place.path}:{place.line}"
    reason = f"{type(best.error).__name__}: {str(best.error).strip().partition(chr(10))[0]}"
    if len({(type(refusal.error), str(refusal.error)) for refusal in failures}) == 1:
        return InputError(f"forward of {name} raised {reason}, whatever the input", where=where, hint=HINT)
    shown = list(dict.fromkeys(str(refusal.given) for refusal in failures))
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    tried = " | ".join(shown[:_SHOWN])
    message = f"no inputs found that {name}.forward({arguments}) accepts; tried {tried}{more}"
    message += f"; {best.given} got furthest and raised {reason}"
    return InputError(message, where=where, hint=HINT)
