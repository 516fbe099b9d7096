"""Which of the names in an imported module are models to analyse."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from torch import nn

from gradlint.errors import BuildError, LoadError
from gradlint.findings import Location
from gradlint.load.execute import reason, running, user_line
from gradlint.load.loaded import Loaded

__all__ = ["FACTORY", "models_in", "pick", "unnamed"]

FACTORY = re.compile(r"(build|make|create|get_model)(_\w+|[A-Z]\w*)?|model")
_NONE: Mapping[str, Any] = MappingProxyType({})
_NOWHERE: Mapping[str, Location] = MappingProxyType({})
_Runner = Callable[[], Any]


def models_in(module: ModuleType, target: str, file: str, folder: str, places: Mapping[str, Location] = _NOWHERE) -> list[Loaded]:
    """The models of a module, in the order in which they are written.

    Instances win over the factories and classes they are made with, factories over the classes they name; a class that
    another model of the file names is a part of it.

    Args:
        places: where names are written, if the module is no file.

    Raises:
        LoadError: there is none; those that need arguments are listed.
    """
    names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    instances = _instances(names)
    own = {name: value for name, value in names.items() if getattr(value, "__module__", None) == module.__name__}
    factories = {n: f for n, f in own.items() if isinstance(f, FunctionType) and FACTORY.fullmatch(n)}
    classes = {n: c for n, c in own.items() if _is_model_class(c) and n == c.__name__}
    classes = {n: c for n, c in classes.items() if not _is_base(c, classes.values())}
    ready = {n: v for n, v in {**classes, **factories}.items() if not _missing(v)}
    inside = {type(part) for model in instances.values() for part in model.modules()}
    used = _used_at_module_level(module) if instances else set()
    alone = {n: v for n, v in ready.items() if v not in inside and not (n in used and n in factories)}
    # A helper is named in the code of another model; of two that name each other, both stay.
    mentions = {n: _mentioned(v) for n, v in {**classes, **factories}.items()}
    chosen = {n: v for n, v in alone.items() if not any(n in mentions[m] and m not in mentions[n] for m in mentions if m != n)}
    found = {**instances, **(chosen or ({} if instances else alone))}
    if not found:
        raise _nothing(target, file, {**classes, **factories})
    order = list(names)
    return [_loaded(name, found[name], file, folder, places.get(name)) for name in sorted(found, key=order.index)]


def pick(
    module: ModuleType,
    name: str,
    target: str,
    file: str,
    folder: str,
    arguments: Mapping[str, Any] = _NONE,
    places: Mapping[str, Location] = _NOWHERE,
) -> Loaded:
    """The model of that (possibly dotted) name.

    Args:
        arguments: what to call it with, by keyword.
        places: where names are written, if the module is no file.

    Raises:
        LoadError: no such name, it is no model, it needs arguments, or takes none of that name.
    """
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            candidates = [n for n in vars(value) if not n.startswith("_")] if hasattr(value, "__dict__") else []
            close = difflib.get_close_matches(part, candidates, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"{file} defines: {', '.join(_models_by_name(module)) or 'no model'}"
            )
            raise LoadError(f"{file} has no {name!r}", target=target, hint=hint)
        value = getattr(value, part)
    is_module = isinstance(value, nn.Module)
    if not is_module and not callable(value):
        message = f"{name!r} in {file} is neither a model nor a factory, but of type {type(value).__name__}"
        raise LoadError(message, target=target, hint="name an nn.Module, a class of them, or a function that returns one")
    if is_module and arguments:
        raise LoadError(f"{name} in {file} is built already: it takes no arguments", target=target, hint="leave out --arg")
    if not is_module:
        value = _called_with(value, name, arguments, target)
    return _loaded(name, value, file, folder, places.get(name))


def unnamed(module: ModuleType, target: str, file: str) -> LoadError:
    """Arguments were given, and no name of what to call with them."""
    names = _models_by_name(module)
    hint = f"name it: {file}:{names[0]}" if names else ""
    return LoadError("--arg is for one class or function, and none is named", target=target, hint=hint)


def _called_with(function: Callable[..., Any], name: str, arguments: Mapping[str, Any], target: str) -> Callable[..., Any]:
    """The function with its arguments.

    Raises:
        LoadError: it needs others, or takes none of that name.
    """
    taken = _parameters(function)
    if taken is not None and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken):
        known = [p.name for p in taken if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)]
        for word in arguments:
            if word not in known:
                close = difflib.get_close_matches(word, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes: {', '.join(known) or 'nothing'}"
                raise LoadError(f"{name} takes no argument {word!r}", target=target, hint=hint)
    if missing := [word for word in _missing(function) if word not in arguments]:
        given = " ".join(f"--arg {word}=..." for word in missing)
        hint = f"give them: {given}; or write a function without arguments that returns {name}(...)"
        raise LoadError(f"{name} needs arguments: {', '.join(missing)}", target=target, hint=hint)
    return partial(function, **arguments) if arguments else function


def _instances(names: dict[str, Any]) -> dict[str, nn.Module]:
    """Module-level models with parameters (not losses), without those that are part of another or the same again."""
    all_of_them = {n: v for n, v in names.items() if isinstance(v, nn.Module) and any(True for _ in v.parameters())}
    parts = {id(part) for model in all_of_them.values() for part in list(model.modules())[1:]}
    seen: set[int] = set()
    found = {}
    for name, model in all_of_them.items():
        if id(model) not in parts | seen:
            seen.add(id(model))
            found[name] = model
    return found


def _is_model_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and not inspect.isabstract(value)


def _is_base(value: type[nn.Module], classes: Iterable[type[nn.Module]]) -> bool:
    """Others derive from it, and only they have a forward."""
    code = getattr(inspect.unwrap(value.forward), "__code__", None)
    unwritten = value.forward is nn.Module.forward or (code is not None and code.co_names == ("NotImplementedError",))
    return unwritten and any(other is not value and issubclass(other, value) for other in classes)


def _missing(function: Callable[..., Any]) -> list[str]:
    """The arguments that must be given."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in _parameters(function) or () if p.default is inspect.Parameter.empty and p.kind not in variadic]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """What it takes; None for a builtin without a signature: calling it will tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _mentioned(value: Any) -> set[str]:
    """The global names in the code of a function, or of a class's methods."""
    functions = [value] if isinstance(value, FunctionType) else [inspect.unwrap(f) for f in vars(value).values() if callable(f)]
    codes = [f.__code__ for f in functions if isinstance(f, FunctionType)]
    return {name for code in codes for name in _names(code)}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _used_at_module_level(module: ModuleType) -> set[str]:
    """Names that module-level statements read, other than under ``if __name__ == "__main__":``."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return set()
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    statements = [s for s in tree.body if not isinstance(s, skipped)]
    return {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _models_by_name(module: ModuleType) -> list[str]:
    own = ((n, v) for n, v in vars(module).items() if not n.startswith("_"))
    return [
        n
        for n, v in own
        if isinstance(v, nn.Module)
        or (getattr(v, "__module__", None) == module.__name__ and (_is_model_class(v) or FACTORY.fullmatch(n)))
    ]


def _nothing(target: str, file: str, candidates: dict[str, Any]) -> LoadError:
    if not candidates:
        hint = "it should have an nn.Module class, a function such as build_model(), or a module-level model"
        return LoadError(f"no model found in {file}", target=target, hint=hint)
    needs = "; ".join(f"{name}({', '.join(_missing(value))})" for name, value in candidates.items())
    first, value = next(iter(candidates.items()))
    given = " ".join(f"--arg {word}=..." for word in _missing(value))
    hint = f"name one and give its arguments: {file}:{first} {given}; or write def build_model(): ..., which returns one"
    return LoadError(f"no model in {file} can be built without arguments: {needs}", target=target, hint=hint)


def _loaded(name: str, value: Any, file: str, folder: str, place: Location | None) -> Loaded:
    if isinstance(value, nn.Module):
        model = value
        return Loaded(name, lambda: model, None, file, instance=True)
    written = value.func if isinstance(value, partial) else value
    return Loaded(name, _builder(name, value, file, folder), place or _place(written), file)


def _builder(name: str, function: _Runner, file: str, folder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        try:
            with running(folder, file):
                made = function()
        except (Exception, SystemExit) as error:
            where = user_line(error.__traceback__, file)
            hint = "correct the line, or build the model another way in a function of its own; -v shows the traceback"
            raise BuildError(f"{name}() raised {reason(error)}", where=where, hint=hint) from error
        if not isinstance(made, nn.Module):
            hint = "a factory returns the model and nothing else"
            raise BuildError(f"{name}() returned {type(made).__name__}, not an nn.Module", hint=hint)
        return made

    return build


def _place(value: Any) -> Location | None:
    try:
        path = inspect.getsourcefile(value)
        line = inspect.getsourcelines(value)[1]
    except (OSError, TypeError):
        return None
    return None if path is None else Location(path, max(line, 1))
