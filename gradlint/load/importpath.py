"""``package.module`` and ``package.module:factory``: import by name, the working directory included."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError
from gradlint.load.discover import models_in, pick, unnamed
from gradlint.load.execute import importing, running

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradlint.load.loaded import Loaded

__all__ = ["load"]


def load(target: str, arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """The models of an importable module; None if the target is no dotted name.

    Raises:
        LoadError: there is no such module, it cannot be imported, or has no such name.
    """
    dotted, _, name = target.partition(":")
    if not all(part.isidentifier() for part in (*dotted.split("."), *(name.split(".") if name else ()))):
        return None
    folder = str(Path.cwd())
    with importing(target, dotted), running(folder, dotted):
        try:
            known = importlib.util.find_spec(dotted) is not None
        except ModuleNotFoundError as error:  # the package that it would be in
            if not dotted.startswith(str(error.name)):
                raise
            known = False
        if not known:
            hint = "a file is given by its path, such as ./model.py; a module must be importable from here"
            raise LoadError(f"no module named {dotted!r}", target=target, hint=hint)
        module = importlib.import_module(dotted)
    file = getattr(module, "__file__", None) or dotted
    if name:
        return [pick(module, name, target, file, folder, arguments)]
    if arguments:
        raise unnamed(module, target, dotted)
    return models_in(module, target, file, folder)
