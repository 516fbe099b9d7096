"""What surrounds a model in its process: torch's global settings, warnings, paths, the environment. Kept while user code runs."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from gradlint.trace.private import global_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

__all__ = ["ambient_kept"]

_Setting = tuple["Callable[[], Any]", "Callable[[Any], object]"]


@contextmanager
def ambient_kept() -> Iterator[None]:
    """Put back at the end whatever user code may have set for the whole process.

    These are torch's default dtype and device, grad, anomaly, determinism, autocast, cuDNN, matmul and thread settings, its
    global module hooks; warning filters, ``sys.path``, ``sys.argv``, the recursion limit, the working directory and the
    environment. Random number generators are :func:`~gradlint.trace.state.seeded`'s.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for get, put in _settings():
            with suppress(RuntimeError):  # torch tells no precision that was set both the old and the new way
                stack.callback(_put_back, get, put, get())
        tables: list[MutableMapping[Any, Any]] = [*global_hooks(), os.environ]
        for table in tables:
            stack.callback(_refill, table, dict(table))
        for words in (sys.path, sys.argv):
            stack.callback(words.__setitem__, slice(None), list(words))
        for name, words in (("path", sys.path), ("argv", sys.argv)):  # user code may also bind another list
            stack.callback(setattr, sys, name, words)
        with suppress(FileNotFoundError):  # the working directory is gone already
            stack.callback(_put_back, os.getcwd, os.chdir, os.getcwd())
        yield


def _settings() -> Iterator[_Setting]:
    """How to read and write each global setting; written only where it has changed, the first ones last."""
    backends = torch.backends
    # Setting the precision the old way, below, sets these too, and not to what they were.
    precisions = (backends, backends.cuda.matmul, backends.cudnn, backends.mkldnn)
    precisions += tuple(getattr(backends.cudnn, op) for op in ("conv", "rnn") if hasattr(backends.cudnn, op))
    precisions += tuple(getattr(backends.mkldnn, op) for op in ("matmul", "conv", "rnn") if hasattr(backends.mkldnn, op))
    for owner in precisions:
        if hasattr(owner, "fp32_precision"):
            yield _attribute(owner, "fp32_precision")
    yield torch.get_default_dtype, torch.set_default_dtype
    # The CPU as default device would be a mode of its own: none is set instead.
    yield torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)
    yield torch.is_grad_enabled, torch.set_grad_enabled
    yield _anomaly, lambda flags: torch.set_anomaly_enabled(*flags)
    yield _deterministic, lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    yield torch.get_num_threads, torch.set_num_threads
    yield sys.getrecursionlimit, sys.setrecursionlimit
    yield lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)
    yield lambda: torch.get_autocast_dtype("cpu"), lambda dtype: torch.set_autocast_dtype("cpu", dtype)
    for name in ("enabled", "benchmark", "deterministic"):
        yield _attribute(backends.cudnn, name)
    yield _attribute(torch.utils.deterministic, "fill_uninitialized_memory")


def _attribute(owner: Any, name: str) -> _Setting:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _put_back(get: Callable[[], Any], put: Callable[[Any], object], before: Any) -> None:
    try:
        changed = get() != before
    except (OSError, RuntimeError):  # the working directory was removed; a precision was set both ways
        changed = True
    if changed:
        put(before)


def _refill(table: MutableMapping[Any, Any], before: dict[Any, Any]) -> None:
    if dict(table) != before:
        table.clear()
        table.update(before)
