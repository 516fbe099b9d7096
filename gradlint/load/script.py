"""``--capture train.py``: run the user's training script until it calls its model, and lint exactly that call.

The model is the outermost ``nn.Module`` that is called in training mode, with gradients enabled, and has a parameter that
takes one: a sanity check in eval mode, a frozen teacher and a loss are passed over, and so are the wrappers
``nn.DataParallel``, ``DistributedDataParallel`` and what ``torch.compile`` returns. ``train.py:Name`` asks for the first such
call of a class of that name, wherever it is called. The script is stopped there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.errors import LoadError
from gradlint.load.execute import reason, running, user_line
from gradlint.load.loaded import Call, Loaded
from gradlint.load.pyfile import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType

__all__ = ["capture"]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_SHOWN = 3


def capture(target: str, arguments: Sequence[str] = ()) -> Loaded:
    """The model that a script trains, with the arguments it is first called with.

    Args:
        target: ``train.py``, ``package.train`` (as ``python -m`` takes it), either with ``:ClassName``.
        arguments: the script's own, for its ``sys.argv``.

    Raises:
        LoadError: no such script; it raised or ended before it called a model.
    """
    text, name = split(target)
    file, folder, code, module = _main(text, target)
    watch = _Watch(name)
    here = Path.cwd()
    try:
        with running(folder, file, *arguments), _as_main(module), watch.calls():
            exec(code, vars(module))  # noqa: S102 - running the user's script is what was asked for
    except _Captured:
        pass
    except SystemExit as error:
        if watch.call is None:
            how = "" if error.code is None else repr(error.code)
            hint = "the script's own arguments are given after --: gradlint --capture train.py -- --epochs 1"
            where = user_line(error.__traceback__, file)
            message = f"{text} called sys.exit({how}) before it called a model to train it"
            raise LoadError(message, target=target, where=where, hint=hint) from error
    except Exception as error:
        if watch.call is None:
            where = user_line(error.__traceback__, file)
            message = f"{text} raised {reason(error)} before it called a model to train it"
            hint = f"the script should run as far as its first training step: python {text}"
            raise LoadError(message, target=target, where=where, hint=hint) from error
    finally:
        os.chdir(here)
    call = watch.call
    if call is None:
        raise LoadError(f"{text} ended without calling {name or 'a model'} to train it", target=target, hint=watch.hint())
    model = call.model
    return Loaded(type(model).__name__, lambda: model, None, file, instance=True, call=call)


class _Captured(BaseException):
    """Stops the script; no Exception, for scripts catch those."""


@dataclass
class _Watch:
    """Waits for the call.

    Args:
        name: of the class that is wanted; empty: whatever is outermost.
        passed: why the calls that have been seen were not it.
    """

    name: str
    call: Call | None = None
    passed: dict[str, str] = field(default_factory=dict)
    inside: int = 0

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Patch ``nn.Module.__call__`` within the block."""
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.call is not None:  # the script has caught what was to stop it
                raise _Captured
            if isinstance(module, _WRAPPERS) or type(module).__name__ == "OptimizedModule" or not _has_parameters(module):
                return original(module, *args, **kwargs)
            if self._is_it(module):
                self.call = Call.now(module, args, kwargs)
                raise _Captured
            self.inside += 1
            try:
                return original(module, *args, **kwargs)
            finally:
                self.inside -= 1

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    def _is_it(self, module: nn.Module) -> bool:
        kind = type(module).__name__
        if self.name and kind != self.name:
            why = "is another class"
        elif self.inside and not self.name:
            return False
        elif not module.training:
            why = "was in eval mode"
        elif not torch.is_grad_enabled():
            why = "was called without gradients"
        elif not any(p.requires_grad for p in module.parameters()):
            why = "has no parameter that takes a gradient"
        else:
            return True
        self.passed.setdefault(kind, why)
        return False

    def hint(self) -> str:
        """What was called instead, or how to get there."""
        if not self.passed:
            return "no model was called at all; gradlint runs the script as `python` would, with __name__ == '__main__'"
        shown = [f"{kind} {why}" for kind, why in list(self.passed.items())[:_SHOWN]]
        return f"called was: {', '.join(shown)}"


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _main(text: str, target: str) -> tuple[str, str, CodeType, ModuleType]:
    """File, folder to import from, code, and the module that it runs as."""
    module = ModuleType("__main__")
    path = Path(text)
    if path.is_file():
        try:
            code = compile(path.read_bytes(), text, "exec")
        except (SyntaxError, ValueError) as error:  # ValueError: null bytes
            where = f"{text}:{getattr(error, 'lineno', None) or 1}"
            raise LoadError(f"syntax error: {error}", target=target, where=where, hint="correct the line") from error
        module.__file__ = text
        return text, str(path.resolve().parent), code, module
    folder = str(Path.cwd())
    spec = None
    if all(part.isidentifier() for part in text.split(".")):
        with running(folder, text):
            try:
                spec = importlib.util.find_spec(text)
            except ImportError:  # of a package above it
                spec = None
    found = None if spec is None or spec.loader is None else getattr(spec.loader, "get_code", lambda _: None)(text)
    if spec is None or found is None or spec.origin is None:
        raise LoadError(f"no such script: {text}", target=target, hint="name a Python file, or a module as `python -m` does")
    module.__file__, module.__spec__, module.__package__ = spec.origin, spec, spec.parent
    return spec.origin, folder, found, module


@contextmanager
def _as_main(module: ModuleType) -> Iterator[None]:
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        yield
    finally:
        sys.modules["__main__"] = before
