"""The private parts of torch that tracing needs, in one place, so that a new torch version is checked in one place."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.jit._fuser import optimized_execution
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from gradlint.trace.source import transparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import CodeType

__all__ = [
    "BATCH_NORM",
    "CONVOLUTION",
    "LINEAR",
    "PAD",
    "WEIGHT_NORM",
    "DispatchMode",
    "StorageWeakRef",
    "applying",
    "expired",
    "global_hooks",
    "hold",
    "is_functorch_wrapped",
    "is_view_operator",
    "operator_name",
    "original",
    "storage_key",
    "unoptimised",
    "unscripted",
    "version",
    "view_base",
]

BATCH_NORM: type[Any] = torch.nn.modules.batchnorm._BatchNorm
"""What all batch normalisations derive from."""

CONVOLUTION: type[Any] = torch.nn.modules.conv._ConvNd
"""What all convolutions derive from."""

LINEAR: Any = torch._C._nn.linear
"""``F.linear`` as modules in C call it."""

PAD: Any = torch._C._nn.pad
"""``F.pad`` below its own function."""

WEIGHT_NORM: Any = torch._weight_norm
"""What ``weight_norm`` computes a weight with."""


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``TorchDispatchMode`` that does not import ``torch._dynamo`` at its first call (1.7 s)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def version(tensor: torch.Tensor) -> int | None:
    """How often the tensor's storage was written in place; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else int(tensor._version)


def view_base(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor that this one is a view of; None if it is none, or torch does not keep it (inference tensors)."""
    return tensor._base if not tensor.is_inference() and tensor._is_view() else None


def original(model: torch.nn.Module) -> torch.nn.Module:
    """The module that ``torch.compile`` was given, of what it returned; any other module itself."""
    found: torch.nn.Module = getattr(model, "_orig_mod", model)
    return found


def storage_key(tensor: torch.Tensor) -> int | None:
    """What two tensors that share memory have in common; None for tensors without a storage (sparse, nested)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def hold(tensor: torch.Tensor) -> StorageWeakRef:
    """Keep the address of the tensor's storage from being used again, without keeping its memory."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def expired(held: StorageWeakRef) -> bool:
    """Nothing uses the storage any more."""
    return bool(held.expired())  # type: ignore[no-untyped-call]


def is_functorch_wrapped(tensor: torch.Tensor) -> bool:
    """The tensor is seen from inside ``torch.func`` (``vmap``, ``grad``), where identities mean nothing."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def global_hooks() -> tuple[dict[int, Any], ...]:
    """The tables of hooks that torch calls for every module."""
    module = torch.nn.modules.module
    return (
        module._global_buffer_registration_hooks,
        module._global_module_registration_hooks,
        module._global_parameter_registration_hooks,
        module._global_forward_pre_hooks,
        module._global_forward_hooks,
        module._global_forward_hooks_always_called,
        module._global_forward_hooks_with_kwargs,
        module._global_backward_pre_hooks,
        module._global_backward_hooks,
    )


@cache
def operator_name(func: Callable[..., Any]) -> str:
    """The name of an operator (``torch.ops``) without namespace and overload, such as ``normal_``; empty if it is none."""
    if isinstance(func, OpOverloadPacket):
        return str(func._qualified_op_name).rpartition("::")[2]
    return str(func._schema.name).rpartition("::")[2] if isinstance(func, OpOverload) else ""


def is_view_operator(func: Callable[..., Any]) -> bool:
    """The aten operator returns another view of its first argument."""
    return bool(getattr(func, "is_view", False))


@contextmanager
def unscripted() -> Iterator[None]:
    """Within it ``torch.jit.script`` and ``torch.jit.trace`` return what they are given, as with ``PYTORCH_JIT=0``."""
    state: Any = torch.jit._state
    enabled = bool(state._enabled)
    state.disable()
    try:
        yield
    finally:
        if enabled:
            state.enable()


def unoptimised() -> AbstractContextManager[None]:
    """Within it scripts run as they are written, under torch's autograd instead of their own."""
    manager: AbstractContextManager[None] = optimized_execution(should_optimize=False)
    return manager


_APPLY = "_gradlint_apply"


def _stand_in() -> CodeType:
    __class__ = None

    @transparent
    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        __class__  # noqa: B018  (the code it stands in for has this free variable)
        return _gradlint_apply(cls, args, kwargs)  # type: ignore[name-defined]  # noqa: F821  (put there by `applying`)

    return apply.__code__


@contextmanager
def applying(call: Callable[[Callable[..., Any], type, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """Within it ``autograd.Function.apply`` runs ``call(original, cls, args, kwargs)``.

    The code itself is exchanged: ``fn = MyFunction.apply``, bound before, must run it, too.
    """
    function: Any = torch.autograd.Function.__dict__["apply"].__func__
    before, names = function.__code__, function.__globals__
    original = FunctionType(before, names, function.__name__, function.__defaults__, function.__closure__)
    names[_APPLY] = partial(call, original)
    function.__code__ = _stand_in()
    try:
        yield
    finally:
        function.__code__ = before
        del names[_APPLY]
