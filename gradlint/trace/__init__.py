"""From a model to an ``fx.Graph`` with its parameters' laws and source lines.

    with recording() as laws:
        model = build()
    traced = trace(model, inputs=None, laws=laws)

:func:`trace` also takes a zero-argument callable and does the recording itself.
"""

from __future__ import annotations

import copy
import inspect
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.errors import BuildError, TargetError, TraceError
from gradlint.findings import Location
from gradlint.trace.ambient import ambient_kept
from gradlint.trace.arguments import Arguments, described, is_number, parse_input
from gradlint.trace.calls import ModuleCalls
from gradlint.trace.copies import Copies
from gradlint.trace.dispatched import Dispatched
from gradlint.trace.graph import InputSpec, ModuleRecord, ParameterRecord, Step, Traced, step
from gradlint.trace.inits import Laws, recording
from gradlint.trace.inputs import guessed, resolve
from gradlint.trace.nodes import Nodes
from gradlint.trace.private import original
from gradlint.trace.recorder import Recorder
from gradlint.trace.rungs import Rung, UnrunnableError, climbed, out_of_memory
from gradlint.trace.source import boundary, owned, transparent, user_line
from gradlint.trace.state import SEED, drawn_outside, eager, is_lazy, preserved, seeded, settled
from gradlint.trace.tree import map_tensors
from gradlint.trace.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = [
    "Arguments",
    "InputSpec",
    "Laws",
    "ModuleRecord",
    "ParameterRecord",
    "Step",
    "Traced",
    "ambient_kept",
    "build",
    "described",
    "parse_input",
    "recording",
    "settled",
    "step",
    "trace",
]

_RUNS = 8


def trace(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Any = None,
    *,
    laws: Laws | None = None,
    file: str | None = None,
    as_is: bool = False,
    weights: Path | None = None,
) -> Traced:
    """Run the model's forward once, in training mode, and record it. The model is left as it was.

    What the model prints goes to stderr.

    Args:
        model: a module, or a zero-argument callable that builds one; then the laws of its parameters are recorded.
        inputs: a tuple of positional arguments, a dict of keyword arguments, one tensor, a list of
            :class:`InputSpec` or texts for :func:`parse_input` (the other arguments are guessed), :class:`Arguments`, or
            None (all are guessed). Floating inputs made here are N(0, 1), integers uniform over their range.
        laws: what :func:`recording` found when ``model`` was constructed; without it a module is judged by its values.
        file: counts as the user's source even if it is installed in ``site-packages``.
        as_is: leave the modules' training flags as they are: parts of a model may be frozen in eval mode.
        weights: a safetensors file, an index of such files or a folder with the values of the parameters. What was constructed
            elsewhere is copied and not changed.

    Raises:
        BuildError: the callable raised, or returned something else.
        InputError: no inputs were found that the model accepts.
        TraceError: forward raised, or its output depends on no parameter and no floating-point input.
    """
    with ambient_kept(), owned(file), redirect_stdout(sys.stderr):
        if not isinstance(model, nn.Module):
            with recording(file) as recorded:
                model = build(model)
            laws = recorded
        model = original(model)
        if weights is not None and laws is None:
            model = copy.deepcopy(model)
        laws = laws or Laws()
        _check(model)
        with eager(), seeded(), torch.enable_grad():
            if is_lazy(model):
                _materialise(model if as_is else model.train(), inputs, laws)
            notes = [] if weights is None else Weights(weights).give(model, laws)
            found = climbed(model, laws, lambda rung: _traced(model, inputs, laws, rung, as_is=as_is))
            return replace(found, assumptions=(*notes, *found.assumptions))


class _ForwardError(TraceError):
    """Forward raised, be it because of what it was run on."""


def _traced(model: nn.Module, inputs: Any, laws: Laws, rung: Rung, *, as_is: bool) -> Traced:
    try:
        return _recorded(model, inputs, laws, rung, tried=False, as_is=as_is)
    except _ForwardError as error:
        if not guessed(inputs) or out_of_memory(error.__cause__):
            raise
    return _recorded(model, inputs, laws, rung, tried=True, as_is=as_is)


def _recorded(model: nn.Module, inputs: Any, laws: Laws, rung: Rung, *, tried: bool, as_is: bool) -> Traced:
    with preserved(model, blank=rung):
        if not as_is:
            model.train()
        return _likeliest(model, resolve(model, inputs, tried=tried, around=rung.around), laws, rung)


@transparent
def build(function: Callable[[], nn.Module]) -> nn.Module:
    """Call ``function``; BuildError if it raises or returns no module."""
    try:
        made = function()
    except TargetError:
        raise
    except Exception as error:
        place = user_line(error.__traceback__)
        raise BuildError(f"building the model raised {type(error).__name__}: {error}", where=_where(place)) from error
    if not isinstance(made, nn.Module):
        raise BuildError(f"expected an nn.Module, got {type(made).__name__}")
    return made


def _materialise(model: nn.Module, inputs: Any, laws: Laws) -> None:
    """Give lazy parameters their shapes, by running forward once."""
    given = resolve(model, inputs)
    args, kwargs = map_tensors((given.args, given.kwargs), lambda t: t.detach().clone())
    with laws.watching(), torch.no_grad():
        _run(model, args, kwargs)


def _check(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise TraceError(f"parameter {name} is on the meta device", hint="construct the model on the CPU")


def _likeliest(model: nn.Module, given: Arguments, laws: Laws, rung: Rung) -> Traced:
    """One run; where chance decides what forward does (dropped layers), of several runs the one that called most modules.

    A layer that happened to be dropped would otherwise be judged as one that nothing uses.
    """
    with preserved(model, blank=rung):
        best = _record(model, given, laws, rung)
    if not best.chance:
        return best
    weighted = {path for path, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None}
    for seed in range(SEED + 1, SEED + _RUNS):
        if weighted <= best.modules.keys():
            break
        with preserved(model, blank=rung):
            other = _record(model, given, laws, rung, seed)
        best = max(best, other, key=lambda traced: len(traced.modules))
    return best


@boundary
def _record(model: nn.Module, given: Arguments, laws: Laws, rung: Rung, seed: int = SEED) -> Traced:
    hollow = rung.around()
    nodes = Nodes(model, laws, hollow)
    recorder = Recorder(nodes)
    calls = ModuleCalls(model, recorder)
    # One copy of a tensor that is given twice (`input_ids` and `labels`): it is one input.
    copies = {id(t): t.detach().clone() for t in given.tensors_of(given.args, given.kwargs)}
    args, kwargs = map_tensors((given.args, given.kwargs), lambda t: copies[id(t)])
    for spec, drawn, tensor in zip(given.specs, given.drawn, copies.values(), strict=True):
        nodes.input(spec.name, tensor, known=not drawn and is_number(tensor))
    parameters = _parameters(model, laws)  # before forward, which may write to them
    with seeded(seed):
        try:
            with (
                drawn_outside() as outside, calls.watching(), hollow, laws.writes(), Dispatched(recorder), recorder,
                given.surroundings(),
            ):  # fmt: skip
                result = _run(model, args, kwargs)
        except UnrunnableError:
            raise
        except Exception as error:
            place = user_line(error.__traceback__)
            text = str(error).strip().partition("\n")[0]
            hint = "it should run in training mode on these inputs: correct the line, or give others with --input"
            raise _ForwardError(f"forward raised {type(error).__name__}: {text}", where=_where(place), hint=hint) from error
    for generator in outside:
        nodes.by_chance(f"forward drew from {generator}")
    output = nodes.finish(result)
    if output is None:
        message = "no floating-point output of the model depends on its parameters or inputs"
        hint = "return a floating-point tensor that parameters take part in, such as logits or a loss"
        raise TraceError(message, hint="; ".join(nodes.notes) or hint)
    if nodes.unknown:
        rung.missed(nodes.unknown)
        nodes.note(nodes.unknown)
    nodes.prune(name for name in calls.outputs.values() if name is not None)
    return Traced(
        graph=nodes.graph,
        model=model,
        parameters=parameters,
        modules=_modules(model, laws, calls),
        arguments=given,
        output=output.name,
        location=laws.construction.module(model) or _defined(model),
        assumptions=tuple(nodes.notes),
        chance=nodes.chance,
        rung=rung.name,
        realise=partial(laws.realise, model),
    )


@transparent
def _run(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _parameters(model: nn.Module, laws: Laws) -> dict[str, ParameterRecord]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    modules = dict(model.named_modules())
    records: dict[str, ParameterRecord] = {}
    copies = Copies(laws)
    for name, parameter in model.named_parameters():
        law = laws.law(parameter)
        records[name] = ParameterRecord(
            names=tuple(names[id(parameter)]),
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            requires_grad=parameter.requires_grad,
            law=law,
            location=laws.construction.parameter(parameter) or _constructed(modules, name.rpartition(".")[0], laws),
            drawn_with=copies.first(name, parameter) if law.std > 0 else name,
        )
    return records


def _modules(model: nn.Module, laws: Laws, calls: ModuleCalls) -> dict[str, ModuleRecord]:
    modules = dict(model.named_modules())
    return {
        path: ModuleRecord(
            path=path,
            type=type(module).__name__,
            output=calls.outputs[path],
            constructed=_constructed(modules, path, laws),
            called=calls.called[path],
        )
        for path, module in modules.items()
        if path in calls.called
    }


def _constructed(modules: Mapping[str, nn.Module], path: str, laws: Laws) -> Location | None:
    """The line that made the module; for a copy, the line that made what it is in."""
    while path:
        found = laws.construction.module(modules[path])
        if found is not None:
            return found
        path = path.rpartition(".")[0]
    return laws.construction.module(modules[""])


def _defined(model: nn.Module) -> Location | None:
    """Where the model's class is written."""
    try:
        path = inspect.getsourcefile(type(model))
        line = inspect.getsourcelines(type(model))[1]
    except (OSError, TypeError):
        return None
    return None if path is None else Location(path, max(line, 1))


def _where(place: Location | None) -> str:
    return "" if place is None else f"{place.path}:{place.line}"
