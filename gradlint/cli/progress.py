"""A sign of life on stderr, where a person waits: after a second, and gone when it is done."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

__all__ = ["progress"]

_PATIENCE = 1.0  # seconds


@contextmanager
def progress(targets: Sequence[str], *, quiet: bool = False, patience: float = _PATIENCE) -> Iterator[None]:
    """Says what is checked and for how long; nothing where stderr is no terminal, and nothing of what takes no time.

    Args:
        patience: seconds until it appears.
    """
    stderr = sys.__stderr__
    console = Console(file=stderr)
    if quiet or stderr is None or not stderr.isatty() or console.is_dumb_terminal or "PRE_COMMIT" in os.environ:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # --help needs none

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # The streams of the model's code are its own: what it prints goes past the spinner.
    shown = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    shown.add_task(f"checking {targets[0] if len(targets) == 1 else f'{len(targets)} targets'}", total=None)
    timer = threading.Timer(patience, shown.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.live.is_started:
            shown.stop()
