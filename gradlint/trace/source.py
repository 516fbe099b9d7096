"""Which line of the user's source made a call, constructed a module or wrote a parameter."""

from __future__ import annotations

import itertools
import os
import sys
import sysconfig
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from gradlint.findings import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType, TracebackType

__all__ = ["Construction", "boundary", "locate", "owned", "place", "transparent", "user_line"]

_F = TypeVar("_F", bound="Callable[..., Any]")

_GRADLINT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_STDLIB = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# HF's own wrappers of torch.nn.init: the line that called them is the one that decided.
_INITIALISERS = os.path.join("transformers", "initialization.py")

_transparent: set[CodeType] = set()
_boundaries: set[CodeType] = set()
_own: set[str] = set()


def transparent(function: _F) -> _F:
    """Mark a function of gradlint that user code runs beneath: the search for the user's line goes through it."""
    _transparent.add(function.__code__)
    return function


def boundary(function: _F) -> _F:
    """Mark a function of gradlint whose caller is never looked at."""
    _boundaries.add(function.__code__)
    return function


@contextmanager
def owned(path: str | None) -> Iterator[None]:
    """Within it, the file ``path`` counts as the user's even if it lies in ``site-packages``."""
    known = path is None or path in _own
    if path is not None:
        _own.add(path)
        _kind.cache_clear()
    try:
        yield
    finally:
        if path is not None and not known:
            _own.discard(path)
            _kind.cache_clear()


@cache
def _kind(path: str) -> str:
    """Whose code a file is: ``user``, ``library`` (any installed package), ``gradlint``, or ``skip`` (torch, Python)."""
    if path in _own:
        return "user"
    if path.startswith("<"):
        return "user" if path.startswith(("<stdin>", "<ipython")) else "skip"
    full = os.path.abspath(path)
    if full.startswith(_GRADLINT):
        return "gradlint"
    if full.startswith(_TORCH) or full.endswith(_INITIALISERS):
        return "skip"
    if any(part in full for part in _PACKAGES):
        return "library"
    return "skip" if full.startswith(_STDLIB) else "user"


def locate(constructing: nn.Module | None = None) -> Location | None:
    """The user's line that is being executed, with the library's line beneath it; without one, the library's line alone.

    The search ends at gradlint's own call into the user's code, so the script that runs gradlint is never blamed.

    Args:
        constructing: skip the ``__init__`` frames of this module: the line that made it is wanted.
    """
    frame: FrameType | None = sys._getframe(1)
    fallback: FrameType | None = None
    inside = True
    while frame is not None:
        code = frame.f_code
        kind = _kind(code.co_filename)
        if kind == "gradlint":
            if code in _boundaries or not (inside or code in _transparent):
                break
        else:
            inside = False
            if constructing is not None and _constructs(frame, constructing):
                pass
            elif kind == "user":
                return place(frame, fallback)
            elif kind == "library" and fallback is None:
                fallback = frame
        frame = frame.f_back
    return None if fallback is None else place(fallback)


def _constructs(frame: FrameType, module: nn.Module) -> bool:
    code = frame.f_code
    return code.co_name == "__init__" and code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is module


def place(frame: FrameType, library: FrameType | None = None) -> Location:
    """Where a frame is, with the column of the expression that is being evaluated.

    Args:
        library: a frame of an installed package that it called.
    """
    found = _place(frame.f_code.co_filename, frame.f_code, frame.f_lasti, frame.f_lineno)
    return found if library is None else replace(found, library=place(library))


@cache
def _place(path: str, code: CodeType, instruction: int, line: int) -> Location:
    # Bytecode positions are per instruction, two bytes each.
    found = next(itertools.islice(code.co_positions(), max(instruction, 0) // 2, None), None)
    if found is None or found[0] is None:
        return Location(path, line)
    return Location(path, found[0], 1 + (found[2] or 0))


def user_line(traceback: TracebackType | None) -> Location | None:
    """The innermost line of the user's code in a traceback, else of a library's."""
    user: Location | None = None
    library: Location | None = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        kind = _kind(code.co_filename)
        if kind == "user":
            user = _place(code.co_filename, code, traceback.tb_lasti, traceback.tb_lineno)
        elif kind == "library":
            library = _place(code.co_filename, code, traceback.tb_lasti, traceback.tb_lineno)
        elif kind == "gradlint" and code not in _transparent:
            user = library = None
        traceback = traceback.tb_next
    return user or library


class Construction:
    """The lines that constructed modules and registered parameters, while :meth:`watching`."""

    def __init__(self) -> None:
        self._modules: dict[int, tuple[weakref.ref[nn.Module], Location]] = {}
        self._parameters: dict[int, tuple[weakref.ref[nn.Parameter], Location]] = {}

    def module(self, module: nn.Module) -> Location | None:
        """The user's line that constructed ``module``."""
        found = self._modules.get(id(module))
        return found[1] if found is not None and found[0]() is module else None

    def parameter(self, parameter: nn.Parameter) -> Location | None:
        """The user's line that registered ``parameter``, or constructed the library module that did."""
        found = self._parameters.get(id(parameter))
        return found[1] if found is not None and found[0]() is parameter else None

    def _module_made(self, module: nn.Module) -> None:
        if self.module(module) is None and (location := locate(module)) is not None:
            self._modules[id(module)] = weakref.ref(module), location

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record every construction and registration within the block."""
        init = nn.Module.__init__

        @transparent
        def recorded_init(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            self._module_made(module)
            init(module, *args, **kwargs)

        def submodule(_parent: nn.Module, _name: str, child: nn.Module | None) -> None:
            # A copy (nn.TransformerEncoder) never ran __init__: the line that registered it made it.
            if child is not None:
                self._module_made(child)

        def parameter(_parent: nn.Module, _name: str, made: nn.Parameter | None) -> None:
            if made is not None and self.parameter(made) is None and (location := locate()) is not None:
                self._parameters[id(made)] = weakref.ref(made), location

        handles = [
            register_module_module_registration_hook(submodule),
            register_module_parameter_registration_hook(parameter),
        ]
        nn.Module.__init__ = recorded_init  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.__init__ = init  # type: ignore[method-assign]
            for handle in handles:
                handle.remove()
