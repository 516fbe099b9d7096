"""What is being done now, told to whoever listens: a worker tells its client, so that a crash says where it was. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["heard", "listening", "now"]

_Listener = Callable[[str, str, str], None]
_listeners: list[_Listener] = []


def now(stage: str = "", target: str = "", layer: str = "") -> None:
    """Something begins.

    Args:
        stage: as in :class:`~gradlint.errors.TargetError`; empty: the same as before.
        target: the target or model; empty: the same as before.
        layer: the module that is called, by its path; empty: none, or the model itself.
    """
    for listener in _listeners:
        listener(stage, target, layer)


def listening() -> bool:
    """Whether anybody wants to know: what it takes to tell the layer can be left out."""
    return bool(_listeners)


@contextmanager
def heard(listener: _Listener) -> Iterator[None]:
    """Tell ``listener`` of each beginning within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
