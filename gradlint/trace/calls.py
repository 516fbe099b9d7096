"""What a function mode does not see: module calls, RNN leaves, ``autograd.Function``; patched in while tracing."""

from __future__ import annotations

from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint import stages
from gradlint.trace.cells import is_one_step, one_step
from gradlint.trace.private import applying
from gradlint.trace.source import locate, transparent
from gradlint.trace.tree import first_floating, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gradlint.findings import Location
    from gradlint.trace.recorder import Recorder

__all__ = ["ModuleCalls"]

_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)

_STEPS = 64
"""Steps that a recurrent module is really run for."""


class ModuleCalls:
    """Follows which module runs, and keeps what each returned at its last call.

    Args:
        model: its submodules are known by their paths.
    """

    def __init__(self, model: nn.Module, recorder: Recorder) -> None:
        self.outputs: dict[str, str | None] = {}
        self.called: dict[str, Location | None] = {}
        self._recorder = recorder
        self._paths = {id(module): path for path, module in model.named_modules()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Patch ``nn.Module.__call__`` and ``autograd.Function.apply`` within the block."""
        call_module = nn.Module.__call__
        recorder = self._recorder

        @transparent
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if recorder.busy or path is None:
                return call_module(module, *args, **kwargs)
            stages.now("trace", layer=path)
            location, outer, recorder.nodes.module = locate(), recorder.nodes.module, path
            try:
                if is_recurrent_leaf(module) and is_one_step(module, args):
                    result = one_step(module, *args, **kwargs)
                elif is_recurrent_leaf(module):
                    result = recorder.opaque("call_module", path, _Leaf(call_module, module), args, kwargs)
                else:
                    result = call_module(module, *args, **kwargs)
                self.called[path] = location
                self.outputs[path] = recorder.run(self._output, result)
            finally:
                recorder.nodes.module = outer
                stages.now(layer=outer)
            return result

        @transparent
        def apply(original: Any, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if recorder.busy or not recorder.run(self._any_live, args, kwargs):
                return original(cls, *args, **kwargs)
            if cls.__name__ == "CheckpointFunction":
                # Reentrant checkpoint runs forward without grad, and again with it in backward.
                outer, recorder.nodes.grad_mode = recorder.nodes.grad_mode, torch.is_grad_enabled()
                try:
                    return original(cls, *args, **kwargs)
                finally:
                    recorder.nodes.grad_mode = outer
            bound: Any = cls.apply  # type: ignore[attr-defined]
            return recorder.opaque("call_function", bound, MethodType(original, cls), args, kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            with applying(apply):
                yield
        finally:
            nn.Module.__call__ = call_module  # type: ignore[method-assign]

    def _any_live(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        return any(map(self._recorder.nodes.live, tensors_in((args, kwargs))))

    def _output(self, result: Any) -> str | None:
        tensor = first_floating(result)
        if tensor is None or not self._recorder.nodes.live(tensor):
            return None
        return self._recorder.nodes.of(tensor).name


class _Leaf:
    """``function(module, …)`` under the module's frame rules: callable without becoming a frame of its own.

    Of a long sequence only the first steps are run, and the last of them stands for those after it: what is known of a recurrent
    module comes from its weights, and no op is recorded in it.
    """

    def __init__(self, function: Any, module: nn.Module) -> None:
        self._function = function
        self._module = module

    @transparent
    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        axis = 1 if getattr(self._module, "batch_first", False) and isinstance(x, torch.Tensor) and x.dim() == 3 else 0
        if not isinstance(x, torch.Tensor) or x.shape[axis] <= _STEPS:
            return self._function(self._module, x, *args, **kwargs)
        out, state = self._function(self._module, x.narrow(axis, 0, _STEPS), *args, **kwargs)
        last = out.narrow(axis, _STEPS - 1, 1)
        rest = [x.shape[axis] - _STEPS if d == axis else -1 for d in range(x.dim())]
        return torch.cat([out, last.expand(rest)], axis), state


def is_recurrent_leaf(module: nn.Module) -> bool:
    """The module is an ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` as torch computes it, from its own parameters."""
    return isinstance(module, _RECURRENT) and (
        any(type(module).forward is kind.forward for kind in _RECURRENT) and not hasattr(module, "parametrizations")
    )
