"""Run the user's code: what it prints goes to stderr, its folder can be imported from, its errors name its line."""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from gradlint.errors import LoadError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["importing", "reason", "running", "user_line"]

_SKIPPED = (
    str(Path(__file__).parent.parent) + os.sep,
    "<frozen",
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
)
_borrowed: dict[str, str] = {}  # name of a module imported from a target's folder -> that folder


@contextmanager
def running(folder: str, script: str, *arguments: str) -> Iterator[None]:
    """Within it ``folder`` is importable, ``print`` goes to stderr and ``sys.argv`` is that of ``python script arguments``.

    Modules that an earlier target imported from another folder are forgotten: two folders may both have a ``blocks.py``.
    """
    path, argv = list(sys.path), list(sys.argv)
    for name in [name for name, home in _borrowed.items() if home != folder]:
        del _borrowed[name]
        sys.modules.pop(name, None)
    known = set(sys.modules)
    sys.path.insert(0, folder)
    sys.argv = [script, *arguments]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:], sys.argv[:] = path, argv
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if isinstance(origin, str) and str(Path(origin).parent).startswith(folder) and "site-packages" not in origin:
                _borrowed[name] = folder


@contextmanager
def importing(target: str, file: str) -> Iterator[None]:
    """Turn whatever importing raises into a LoadError.

    Raises:
        LoadError: with the reason and the user's line.
    """
    try:
        yield
    except TargetError:
        raise
    except SyntaxError as error:
        where = f"{error.filename or file}:{error.lineno or 1}"
        raise LoadError(f"syntax error: {error.msg}", target=target, where=where, hint="correct the line") from error
    except ModuleNotFoundError as error:
        hint = f"install {error.name!r} beside gradlint, or check the import" if error.name else ""
        where = user_line(error.__traceback__, file)
        raise LoadError(f"importing {file} failed: {error}", target=target, where=where, hint=hint) from error
    except SystemExit as error:
        message = f"{file} called sys.exit({'' if error.code is None else repr(error.code)}) when it was imported"
        hint = "put what runs as a script under if __name__ == '__main__':"
        raise LoadError(message, target=target, where=user_line(error.__traceback__, file), hint=hint) from error
    except Exception as error:
        message = f"importing {file} raised {reason(error)}"
        hint = "what runs as a script belongs under if __name__ == '__main__':; -v shows the traceback"
        raise LoadError(message, target=target, where=user_line(error.__traceback__, file), hint=hint) from error


def reason(error: BaseException) -> str:
    """The error in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_line(traceback: TracebackType | None, file: str) -> str:
    """``path:line`` of the innermost frame in the user's code, in ``file`` if there is one; else empty."""
    own = other = ""
    while traceback is not None:
        path = traceback.tb_frame.f_code.co_filename
        if path == file:
            own = f"{path}:{traceback.tb_lineno}"
        elif not path.startswith(_SKIPPED):
            other = f"{path}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return own or other
