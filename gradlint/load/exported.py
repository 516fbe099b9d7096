"""``net.pt2``: an exported program, run from its JSON by a module of the same tree as the one that was exported."""

from __future__ import annotations

import inspect
import itertools
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.errors import GradlintError, LoadError
from gradlint.load.archive import DTYPES, Archive, read, sizes
from gradlint.load.loaded import Loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

__all__ = ["load"]

_LAYOUTS = {7: torch.strided}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+)')
_TORCH = re.compile(r"[\\/](site|dist)-packages[\\/]torch[\\/]")
_REGIONS = "torch.ops.higher_order.wrap_with_"


def load(target: str, arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """The model of a ``.pt2`` file, judged by its values; None for every other kind of file.

    Raises:
        LoadError: it cannot be read without unpickling, or calls what cannot be run here.
    """
    path = Path(target)
    if path.suffix.lower() != ".pt2":
        return None
    if arguments:
        raise LoadError(f"{target} is built already: it takes no arguments", target=target, hint="leave out --arg")
    with _whole(target):
        program = _Program(read(path, target), str(path), target)
    return [Loaded(program.name, cache(program.build), None, str(path), instance=True)]


@contextmanager
def _whole(target: str) -> Iterator[None]:
    """Whatever is missing in a file, or is not of the kind that its format says, is told as that.

    Raises:
        LoadError: something is.
    """
    try:
        yield
    except GradlintError:
        raise
    except Exception as error:
        message = f"{target} is damaged, or no exported program: {type(error).__name__}: {error}"
        raise LoadError(message, target=target, hint="a .pt2 file is what torch.export.save writes") from error


@dataclass(frozen=True)
class _Call:
    """One node of the program.

    Args:
        function: what it calls.
        inputs: name, value and whether it is a keyword, as the JSON has them.
        outputs: as the JSON has them.
        stack: of each module around it, from the outermost: the call's own key, its path, the name of its class.
        line: ``run()`` as if written on the user's line; None where that is not known.
    """

    function: Callable[..., Any]
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    stack: tuple[tuple[str, str, str], ...]
    line: CodeType | None


class _Program:
    """An exported program, read."""

    def __init__(self, archive: Archive, path: str, target: str) -> None:
        self._archive, self._path, self._target = archive, path, target
        self._module = archive.program["graph_module"]
        self.calls = self._calls(self._module["graph"])
        self.name = next((call.stack[0][2] for call in self.calls if call.stack), Path(path).stem)

    def build(self) -> nn.Module:
        """The model: its modules, parameters and buffers under the names that they had.

        Raises:
            LoadError: what the file says of them makes no sense.
        """
        with _whole(self._target):
            return self._built()

    def _built(self) -> nn.Module:
        specs = self._module["signature"]["input_specs"]
        given = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in specs if "as_tensor" in _user(spec)]
        held = {next(iter(spec.values()))["arg"]["name"]: name for spec in specs if (name := _held(spec)) is not None}
        model = _made(self.name, self.calls, self._archive)
        outputs = [spec["user_output"]["arg"] for spec in self._module["signature"]["output_specs"] if "user_output" in spec]
        graph = self._module["graph"]

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
            values = {name: tensors.get(source, self._archive.tensors.get(source)) for name, source in held.items()}
            values.update(zip(given, args, strict=False))
            values.update(kwargs)
            _run(module, self.calls, values, 1)
            return tuple(_value(item, values) for item in outputs)

        kinds = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *given)]
        forward.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
        type(model).forward = forward
        type(model).example_inputs = lambda _: {name: self._example(graph, name) for name in given}  # type: ignore[attr-defined]
        return model

    def _example(self, graph: Mapping[str, Any], name: str) -> torch.Tensor:
        """A tensor of the shape that it was exported with; integers are below the rows of the tables they index."""
        meta = graph["tensor_values"][name]
        shape, dtype = sizes(meta), DTYPES[meta["dtype"]]
        generator = torch.Generator().manual_seed(0)
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        if dtype == torch.bool:
            return torch.ones(shape, dtype=dtype)
        tables = [node for node in graph["nodes"] if node["target"] == "torch.ops.aten.embedding.default"]
        direct = [node for node in tables if node["inputs"][1]["arg"].get("as_tensor", {}).get("name") == name]
        rows = [sizes(graph["tensor_values"][node["inputs"][0]["arg"]["as_tensor"]["name"]])[0] for node in direct or tables]
        return torch.randint(min(rows, default=2), shape, generator=generator).to(dtype)

    def _calls(self, graph: Mapping[str, Any]) -> list[_Call]:
        return [self._call(node) for node in graph["nodes"]]

    def _call(self, node: Mapping[str, Any]) -> _Call:
        meta = node.get("metadata") or {}
        entries = (entry.split(",") for entry in meta.get("nn_module_stack", "").split(";") if entry.count(",") == 2)
        stack = tuple((key, path.partition("@")[0], kind.rpartition(".")[2]) for key, path, kind in entries)
        if not all(kind.isidentifier() and key.startswith("L") for key, _, kind in stack):  # what the exporter put there
            stack = ()
        return _Call(self._function(node["target"]), node["inputs"], node["outputs"], stack, _line(meta.get("stack_trace", "")))

    def _function(self, target: str) -> Callable[..., Any]:
        if target.startswith(_REGIONS):
            return partial(self._region, target.removeprefix(_REGIONS))
        parts = target.split(".")
        place: Any = {"torch": torch, "_operator": operator, "math": math}.get(parts[0])
        if parts[:2] == ["torch", "ops"] or parts[0] in ("_operator", "math"):
            try:
                for part in parts[1:]:
                    place = getattr(place, part)
            except AttributeError:
                place = None
            if callable(place) and parts[2:3] != ["higher_order"]:
                return place  # type: ignore[no-any-return]
        message = f"{self._path} calls {target}, which cannot be run here"
        hint = "control flow and operators of other libraries are not in the file: name the code that builds the model instead"
        raise LoadError(message, target=self._target, hint=hint)

    def _region(self, kind: str, *args: Any) -> Any:
        """A part of the program under its own gradient mode or autocast."""
        at = next(i for i, arg in enumerate(args) if isinstance(arg, Mapping))
        state, graph, operands = args[:at], args[at], args[at + 1 :]
        values = {item["as_tensor"]["name"]: operand for item, operand in zip(graph["inputs"], operands, strict=True)}
        if kind == "autocast":
            device, dtype, enabled, kept = state
            context: Any = torch.autocast(device, dtype, enabled, kept)
        else:
            context = torch.set_grad_enabled(bool(state[0]))
        with context:
            for call in self._calls(graph):
                _execute(call, values)
        results = tuple(_value(item, values) for item in graph["outputs"])
        return results[0] if graph["is_single_tensor_return"] else results


class _Part(nn.Module):
    """A module of the program; what it computes is in the program."""

    def forward(self, root: nn.Module, calls: Sequence[_Call], values: dict[str, Any], depth: int) -> list[Any]:
        _run(root, calls, values, depth)
        names = [item["as_tensor"]["name"] for item in calls[-1].outputs if "as_tensor" in item]
        return [values[name] for name in names]


def _made(name: str, calls: Sequence[_Call], archive: Archive) -> nn.Module:
    """The tree of modules, each constructed as if on the user's line of its first call: the file does not say where it was."""
    places: dict[str, tuple[str, CodeType | None]] = {}
    for call in calls:
        for _, path, kind in call.stack[1:]:
            places.setdefault(path, (kind, call.line))
    for known in (*places, *(key.rpartition(".")[0] for key in archive.tensors)):
        for path in itertools.accumulate(filter(None, known.split(".")), "{}.{}".format):
            places.setdefault(path, ("Module", None))
    model: nn.Module = _as_if_on(None, type(name, (nn.Module,), {}))
    for path, (kind, line) in sorted(places.items(), key=lambda item: item[0].count(".")):
        parent, _, own = path.rpartition(".")
        model.get_submodule(parent).add_module(own, _as_if_on(line, type(kind, (_Part,), {})))
    parameters: dict[int, nn.Parameter] = {}
    for key, tensor in archive.tensors.items():
        parent, _, own = key.rpartition(".")
        if key in archive.trainable:
            parameter = parameters.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            model.get_submodule(parent).register_parameter(own, parameter)
        else:
            model.get_submodule(parent).register_buffer(own, tensor)
    return model


def _run(root: nn.Module, calls: Sequence[_Call], values: dict[str, Any], depth: int) -> None:
    """Execute calls; those of one module at this depth within a call of that module."""
    for entry, group in itertools.groupby(calls, lambda call: call.stack[depth] if len(call.stack) > depth else None):
        if entry is None:
            for call in group:
                _execute(call, values)
        else:
            root.get_submodule(entry[1])(root, list(group), values, depth + 1)


def _execute(call: _Call, values: dict[str, Any]) -> None:
    args = [_value(item["arg"], values) for item in call.inputs if item.get("kind") != 2]
    kwargs = {item["name"]: _value(item["arg"], values) for item in call.inputs if item.get("kind") == 2}
    run = partial(call.function, *args, **kwargs)
    values.update(_bound(call.outputs, _as_if_on(call.line, run)))


def _bound(outputs: Sequence[Mapping[str, Any]], result: Any) -> Iterator[tuple[str, Any]]:
    results = [result] if len(outputs) == 1 and not isinstance(result, tuple) else result
    for item, value in zip(outputs, results or (), strict=False):
        [(kind, held)] = item.items()
        if kind in ("as_tensor", "as_optional_tensor"):
            yield held.get("name") or held["as_tensor"]["name"], value
        elif kind == "as_tensors":
            parts = value if isinstance(value, list | tuple) else results
            yield from zip((part["name"] for part in held), parts, strict=True)
        elif kind.startswith("as_sym") and "as_name" in held:
            yield held["as_name"], value


def _value(argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """One argument: a union, of which the JSON names the member."""
    [(kind, held)] = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return values[held["name"]]
        case "as_tensors":
            return [values[item["name"]] for item in held]
        case "as_name":
            return values[held]
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
            return [_value(item, values) for item in held]
        case "as_sym_int" | "as_sym_bool" | "as_sym_float" | "as_optional_tensor":
            return _value(held, values)
        case "as_float":
            return float(held)  # infinities are texts
        case "as_floats":
            return [float(item) for item in held]
        case "as_complex":
            return complex(held["real"], held["imag"])
        case "as_scalar_type":
            return DTYPES[held]
        case "as_memory_format":
            return _FORMATS[held]
        case "as_layout":
            return _LAYOUTS[held]
        case "as_device":
            return torch.device("cpu")
        case "as_graph":
            return held["graph"]
        case "as_string_to_argument":
            return {name: _value(item, values) for name, item in held.items()}
    return held


def _as_if_on(line: CodeType | None, run: Callable[[], Any]) -> Any:
    return eval(line or _written("<exported program>", 1), {"run": run})  # noqa: S307 - the text is ours: run()


def _line(trace: str) -> CodeType | None:
    """``run()``, as the innermost line of a stack that is not torch's."""
    frames = [m for m in _FRAME.finditer(trace) if not _TORCH.search(m["path"])]
    return _written(frames[-1]["path"], int(frames[-1]["line"])) if frames else None


@cache
def _written(path: str, line: int) -> CodeType:
    return compile("run()", path, "eval").replace(co_firstlineno=line)


def _user(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec.get("user_input", {}).get("arg", {})
    return found


def _held(spec: Mapping[str, Any]) -> str | None:
    """The parameter, buffer or constant that an input is."""
    for kind, key in (("parameter", "parameter_name"), ("buffer", "buffer_name"), ("tensor_constant", "tensor_constant_name")):
        if kind in spec:
            return str(spec[kind][key])
    return None
