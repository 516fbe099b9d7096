"""Which arguments that were left at None a forward cannot do without."""

from __future__ import annotations

import linecache
import re
from collections.abc import Collection, Iterator
from itertools import islice
from types import FrameType

__all__ = ["omitted"]

_FRAMES = 6  # from the innermost, that are looked at
_WORD = re.compile(r"[A-Za-z_]\w{2,}")


def omitted(error: Exception, names: Collection[str]) -> tuple[str, ...]:
    """Those of ``names`` that the error is about: its message names them, or the line that raised it reads them as None."""
    said = [name for name in _WORD.findall(str(error)) if name in names]
    read = [
        name
        for frame, line in islice(_innermost(error), _FRAMES)
        for name in _WORD.findall(line)
        if name in names and frame.f_locals.get(name, error) is None
    ]
    return tuple(dict.fromkeys((*said, *read)))


def _innermost(error: Exception) -> Iterator[tuple[FrameType, str]]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((traceback.tb_frame, linecache.getline(code.co_filename, traceback.tb_lineno)))
        traceback = traceback.tb_next
    return reversed(frames)
