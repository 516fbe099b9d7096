"""The tensors a model is run on: given, described on the command line, or guessed."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradlint.errors import InputError
from gradlint.trace.graph import InputSpec
from gradlint.trace.guess import candidates, examples, vocabulary
from gradlint.trace.source import transparent, user_line
from gradlint.trace.state import is_lazy, preserved, seeded
from gradlint.trace.tree import map_tensors, tensors_in

__all__ = ["Arguments", "draw", "parse_input", "resolve"]

_TRIES = 160
_DTYPES = {
    **{name: name for name in "float16 bfloat16 float32 float64 complex64 int8 int16 int32 int64 uint8 bool".split()},
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int64",
}
_HINT = "describe the inputs, for example --input 2,3,224,224 or --input ids:int64:2,128"
_SHOWN = 6
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_FEW = 4  # samples per channel that a batch normalisation needs to be more than a sign


@dataclass(frozen=True)
class Arguments:
    """What ``forward`` is called with; ``specs`` describes each tensor in it, in order."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    specs: tuple[InputSpec, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.specs))

    @staticmethod
    def tensors_of(args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """The tensors in arguments, in the order of :attr:`specs`."""
        seen: set[int] = set()
        for tensor in tensors_in((args, kwargs)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def parse_input(text: str) -> InputSpec:
    """Read ``[name:][dtype:]shape``, such as ``2,3,224,224``, ``ids:int64:2,128`` or ``ids:int64<1000:2,128``.

    Without a dtype it is float32; ``<n`` is the exclusive upper bound of integers. An empty name is the next argument.

    Raises:
        InputError: the text is not of that form.
    """
    *head, shape = (part.strip() for part in text.split(":"))
    dtype, high = "float32", None
    if head and (found := re.fullmatch(r"(\w+)(?:<(\d+))?", head[-1])) and found[1] in _DTYPES:
        dtype, high = _DTYPES[found[1]], int(found[2]) if found[2] else None
        head.pop()
    sizes = [size for size in re.split(r"[,x\s]+", shape.strip("()[]")) if size]
    name = head[0] if head else ""
    if len(head) > 1 or not all(size.isdigit() for size in sizes) or (name and not name.isidentifier()):
        raise InputError(f"cannot read the input {text!r}", hint=_HINT)
    return InputSpec(name, tuple(map(int, sizes)), dtype, high)


def resolve(model: nn.Module, inputs: Any) -> Arguments:
    """The arguments to run ``model`` on; see :func:`gradlint.trace.trace` for what ``inputs`` may be.

    Raises:
        InputError: nothing was found that the model accepts, or ``inputs`` is of no such form.
    """
    if inputs is None:
        return _guess(model, [])
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        return _given(model, (), inputs)
    if isinstance(inputs, list) and all(isinstance(item, InputSpec | str) for item in inputs):
        return _guess(model, [parse_input(item) if isinstance(item, str) else item for item in inputs])
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return _given(model, tuple(inputs), {})
    raise InputError(f"inputs must be a tuple, a dict, a tensor or None, not {type(inputs).__name__}")


def _given(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], specs: Sequence[InputSpec | None] = ()
) -> Arguments:
    """Arguments with a spec for each tensor: the one it was drawn from, else one read off it."""
    named = [*zip(_positional(model, len(args)), args, strict=True), *kwargs.items()]
    drawn_from = iter(specs)
    found: list[InputSpec] = []
    seen: set[int] = set()
    for name, value in named:
        tensors = list(tensors_in(value))
        for index, tensor in enumerate(tensors):
            spec = next(drawn_from, None)
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            label = name if len(tensors) == 1 else f"{name}_{index}"
            found.append(_described(label, tensor) if spec is None else replace(spec, name=label))
    return Arguments(args, dict(kwargs), tuple(found))


def _described(name: str, tensor: torch.Tensor) -> InputSpec:
    integral = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    high = int(tensor.max()) + 1 if integral and tensor.numel() else None
    return InputSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), high)


def _positional(model: nn.Module, n: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in _signature(model) if p.kind in kinds][:n]
    return names + [f"input_{i}" for i in range(len(names), n)]


def _signature(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _required(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments that need a value: those without a default, at least the first one."""
    named = [p for p in _signature(model) if p.kind not in _VARIADIC]
    if not named and inspect.Parameter.VAR_POSITIONAL in {p.kind for p in _signature(model)}:
        return [inspect.Parameter("input", inspect.Parameter.POSITIONAL_ONLY)]
    return [p for p in named if p.default is inspect.Parameter.empty] or named[:1]


def _guess(model: nn.Module, overrides: list[InputSpec], batch: int = 2) -> Arguments:
    """The first candidate that the model accepts, run with what ``overrides`` fix."""
    failures: list[_Refusal] = []
    for args, kwargs in itertools.islice(_tries(model, overrides, batch), _TRIES):
        drawn = _drawn(model, args, kwargs)
        outcome = _try(model, drawn)
        if isinstance(outcome, _Refusal):
            failures.append(outcome)
            continue
        if outcome < _FEW and batch < _FEW and not overrides:
            try:
                return _guess(model, overrides, _FEW)
            except InputError:
                return drawn
        return drawn
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
        names = _positional(model, len(values))
        lead = list(itertools.takewhile(values.__contains__, names))
        yield tuple(values[n] for n in lead), {n: v for n, v in values.items() if n not in lead}


def _placed(model: nn.Module, overrides: list[InputSpec]) -> tuple[dict[str, InputSpec], list[InputSpec]]:
    """The arguments that overrides are for: by name, else the next ones by position; the rest if forward takes any."""
    signature = _signature(model)
    kinds = {p.kind for p in signature}
    names = [p.name for p in signature if p.kind not in _VARIADIC]
    fixed = {spec.name: spec for spec in overrides if spec.name}
    unknown = [name for name in fixed if name not in names]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        known = ", ".join(names) or "none"
        raise InputError(f"{type(model).__name__}.forward has no argument {unknown[0]!r}; it has: {known}", hint=_HINT)
    extra: list[InputSpec] = []
    free = (name for name in names if name not in fixed)
    for spec in (spec for spec in overrides if not spec.name):
        name = next(free, None)
        if name is not None:
            fixed[name] = replace(spec, name=name)
        elif inspect.Parameter.VAR_POSITIONAL in kinds:
            extra.append(replace(spec, name=f"input_{len(extra)}"))
        else:
            raise InputError(f"{len(overrides)} inputs given; {type(model).__name__}.forward takes {len(names)}", hint=_HINT)
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


def _drawn(model: nn.Module, args: Any, kwargs: Any) -> Arguments:
    """Draw the tensors that specs describe."""
    high = vocabulary(model)
    with seeded():
        real_args, real_kwargs = _realised((args, kwargs), high)
    return _given(model, real_args, real_kwargs, _specs_in((args, kwargs), high))


def _realised(value: Any, high: int) -> Any:
    if isinstance(value, InputSpec):
        return draw(_bounded(value, high))
    if isinstance(value, dict):
        return {key: _realised(item, high) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_realised(item, high) for item in value)
    return value


def _specs_in(value: Any, high: int) -> list[InputSpec | None]:
    """For each tensor in ``value``, in order, the spec it is drawn from; None for real tensors."""
    if isinstance(value, InputSpec):
        return [_bounded(value, high)]
    if isinstance(value, dict):
        return [spec for item in value.values() for spec in _specs_in(item, high)]
    if type(value) in (list, tuple):
        return [spec for item in value for spec in _specs_in(item, high)]
    return [None for _ in tensors_in(value)]


def _bounded(spec: InputSpec, high: int) -> InputSpec:
    integral = "int" in spec.dtype
    return replace(spec, high=high) if integral and spec.high is None else spec


def draw(spec: InputSpec) -> torch.Tensor:
    """A tensor of the described kind: N(0, 1), or integers uniform over their range (booleans: fair coins)."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(spec.shape, dtype=dtype)
    return torch.randint(0, 2 if dtype == torch.bool else spec.high or 2, spec.shape).to(dtype)


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
    """Run forward once; the least number of samples per channel that a batch normalisation saw, or what was raised."""
    samples: list[int] = []
    if is_lazy(model):
        model = copy.deepcopy(model)

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        samples.extend(t.numel() // max(t.shape[1], 1) for t in args[:1] if isinstance(t, torch.Tensor) and t.dim() > 1)

    with seeded(), preserved(model, parameters=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(count)
        args, kwargs = map_tensors((given.args, dict(given.kwargs)), lambda t: t.clone())
        counter = _Counter()
        try:
            with counter:
                _call(model, args, kwargs)
        except Exception as error:  # any way a model refuses an input; reported if none is accepted
            return _Refusal(given, error, counter.calls)
    return min(samples, default=_FEW)


@transparent
def _call(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _none_accepted(model: nn.Module, failures: list[_Refusal]) -> InputError:
    name = type(model).__name__
    arguments = ", ".join(p.name for p in _signature(model))
    if not failures:
        return InputError(f"no idea what {name}.forward({arguments}) takes", hint=_HINT)
    # The try that got furthest fails for the most telling reason.
    best = max(failures, key=lambda refusal: refusal.calls)
    place = user_line(best.error.__traceback__)
    where = "" if place is None else f"{place.path}:{place.line}"
    reason = f"{type(best.error).__name__}: {str(best.error).strip().partition(chr(10))[0]}"
    if len({(type(refusal.error), str(refusal.error)) for refusal in failures}) == 1:
        return InputError(f"forward of {name} raised {reason}, whatever the input", where=where, hint=_HINT)
    shown = list(dict.fromkeys(str(refusal.given) for refusal in failures))
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    tried = " | ".join(shown[:_SHOWN])
    message = f"no inputs found that {name}.forward({arguments}) accepts; tried {tried}{more}; {best.given} got furthest and raised {reason}"
    return InputError(message, where=where, hint=_HINT)
