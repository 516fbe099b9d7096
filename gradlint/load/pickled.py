"""Files of pickled weights: refused, with the way out. Unpickling runs whatever the file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError
from gradlint.load.pyfile import split

if TYPE_CHECKING:
    from gradlint.load.loaded import Loaded

__all__ = ["load"]

_BUILD = "name the code that builds the model: model.py:Net or package.module:factory"
_WEIGHTS: Mapping[str, str] = {
    ".ckpt": "name the LightningModule or the code that builds the model: model.py:Net",
    ".bin": "name the folder with its config.json, or the code that builds the model: model.py:Net",
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".npz"), _BUILD),
}


def load(target: str, _arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """None for every other kind of file.

    Raises:
        LoadError: it is a file that would have to be unpickled.
    """
    text, _ = split(target)
    hint = _WEIGHTS.get(Path(text).suffix.lower())
    if hint is None:
        return None
    message = f"{text} is a file of weights; gradlint never unpickles, that would run whatever is in it"
    raise LoadError(message, target=target, hint=hint)
