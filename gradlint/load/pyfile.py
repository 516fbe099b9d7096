"""``model.py`` and ``model.py:name``: import a file by its path."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError
from gradlint.load.discover import models_in, pick, unnamed
from gradlint.load.execute import importing, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from gradlint.load.loaded import Loaded

__all__ = ["load", "split"]


def load(target: str, arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """The models of a Python file; None if the target is no path.

    Raises:
        LoadError: no such file, a folder, a file of another kind, or one that cannot be imported.
    """
    text, name = split(target)
    path = Path(text)
    if path.is_dir():
        raise LoadError(f"{text} is a folder", target=target, hint="name the file in it that has the model")
    looks_like_a_path = path.suffix == ".py" or "/" in text or "\\" in text or path.exists()
    if not looks_like_a_path:
        return None
    if not path.exists():
        siblings = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"did you mean {path.with_name(close[0])}?" if close else "paths are relative to the folder that gradlint runs in"
        raise LoadError(f"no such file: {text}", target=target, hint=hint)
    if path.suffix != ".py":
        hint = "files may be Python (.py), notebooks (.ipynb), exported programs (.pt2) and config.json of Hugging Face"
        raise LoadError(f"{text} is not a Python file", target=target, hint=hint)
    file, folder = str(path), str(path.resolve().parent)
    module = _import(path, target)
    if name:
        return [pick(module, name, target, file, folder, arguments)]
    if arguments:
        raise unnamed(module, target, file)
    return models_in(module, target, file, folder)


def split(target: str) -> tuple[str, str]:
    """Path and name; the colon of a Windows drive separates nothing."""
    text, colon, name = target.rpartition(":")
    if colon and len(text) > 1 and all(part.isidentifier() for part in name.split(".")):
        return text, name
    return target, ""


def _import(path: Path, target: str) -> ModuleType:
    file, full = str(path), path.resolve()
    digest = hashlib.sha256(str(full).encode()).hexdigest()[:8]
    with importing(target, file):
        try:
            with running(str(full.parent), file):
                return _execute(f"_gradlint_{digest}_{path.stem}", file)
        except ImportError as error:
            package = _package_of(full)
            if "no known parent package" not in str(error) or package is None:
                raise
        # A file of a package that imports its neighbours relatively: import it as the member that it is.
        root, dotted = package
        with running(str(root), file):
            importlib.import_module(dotted)
            return _execute(f"{dotted}.{path.stem}", file)


def _execute(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look classes up by their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_of(path: Path) -> tuple[Path, str] | None:
    """The folder to import from, and the dotted name of the package that the file is in."""
    parts: list[str] = []
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return (folder, ".".join(parts)) if parts else None
