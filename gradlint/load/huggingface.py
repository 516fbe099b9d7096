"""``config.json`` of Hugging Face, or the folder it is in: the class named there, from the installed transformers.

Nothing is downloaded, no code of the folder is run, no weights are read: the model is judged at its initialisation.
"""

from __future__ import annotations

import difflib
import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradlint.errors import BuildError, LoadError
from gradlint.load.execute import importing, reason, running
from gradlint.load.loaded import Loaded
from gradlint.load.pyfile import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["load"]

_FILE = "config.json"


def load(target: str, arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """The models that a configuration names; None if the target is neither a JSON file nor a folder with a ``config.json``.

    Args:
        arguments: fields of the configuration to replace.

    Raises:
        LoadError: no such file, no configuration of transformers, or one that the installed version cannot build.
    """
    text, name = split(target)
    path = Path(text)
    if path.is_dir():
        path /= _FILE
        if not path.exists():
            return None
    elif path.suffix != ".json":
        return None
    data = _read(path, target)
    # The weights of a backbone would be downloaded, and replaced by those of the whole model in training from it.
    data |= {"use_pretrained_backbone": False} if data.get("use_pretrained_backbone") else {}
    with importing(target, str(path)):
        library = _transformers()
    names = [name] if name else data.get("architectures") or [_headless(library, data, path, target)]
    return [_loaded(library, each, data, arguments, path, target) for each in names]


def _read(path: Path, target: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        hint = "paths are relative to the folder that gradlint runs in"
        raise LoadError(f"no such file: {path}", target=target, hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}", target=target, hint="it should be JSON in UTF-8") from error
    except json.JSONDecodeError as error:
        where, hint = f"{path}:{error.lineno}", "it should be as save_pretrained writes it"
        raise LoadError(f"{path} is not JSON: {error.msg}", target=target, where=where, hint=hint) from error
    if isinstance(data, dict) and ("architectures" in data or "model_type" in data):
        names = data.get("architectures") or []
        if isinstance(names, list) and all(isinstance(name, str) for name in (*names, data.get("model_type", ""))):
            return data
    if isinstance(data, dict) and "architecture" in data:
        hint = "write def build(): return timm.create_model(...) into a file, and name that"
        raise LoadError(f"{path} is a configuration of timm, not of transformers", target=target, hint=hint)
    hint = "it should have model_type and architectures, as save_pretrained writes them"
    raise LoadError(f"{path} is not a configuration of transformers", target=target, hint=hint)


def _transformers() -> Any:
    import transformers  # noqa: PLC0415 - optional

    return transformers


def _headless(library: Any, data: Mapping[str, Any], path: Path, target: str) -> str:
    """The model without a head of that type."""
    known = library.models.auto.modeling_auto.MODEL_MAPPING_NAMES
    found = known.get(data.get("model_type"))
    if found is None:
        raise _unknown(library, f"model type {data.get('model_type')!r}", data, path, target)
    return str(found if isinstance(found, str) else found[0])


def _loaded(library: Any, name: str, data: Mapping[str, Any], arguments: Mapping[str, Any], path: Path, target: str) -> Loaded:
    model: Any = getattr(library, name, None)
    if not (isinstance(model, type) and issubclass(model, nn.Module)):
        raise _unknown(library, f"model {name!r}", data, path, target)
    with importing(target, str(path)):
        known = vars(_configured(model, data))
    for field in arguments:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see the documentation of its configuration"
            raise LoadError(f"the configuration of {name} has no {field!r}", target=target, hint=hint)
    return Loaded(name, partial(_built, model, {**data, **arguments}, path), None, str(path))


def _unknown(library: Any, what: str, data: Mapping[str, Any], path: Path, target: str) -> LoadError:
    if "auto_map" in data:
        hint = "if you trust that code, write a function that builds the model into a file, and name that"
        message = f"{path} needs code of its own for its {what} (auto_map), and gradlint runs no code that comes with weights"
        return LoadError(message, target=target, hint=hint)
    message = f"transformers {library.__version__} has no {what}, which {path} names"
    return LoadError(message, target=target, hint="install the version it was saved with: see transformers_version in it")


def _configured(model: Any, data: Mapping[str, Any]) -> Any:
    return model.config_class.from_dict(dict(data))


def _built(model: Any, data: dict[str, Any], path: Path) -> nn.Module:
    try:
        with running(str(path.resolve().parent), str(path)), _offline():
            made: nn.Module = model(_configured(model, data))
            return made
    except (Exception, SystemExit) as error:
        hint = "the file may be of another version of transformers, or need a package that is not installed"
        message = f"{model.__name__} cannot be built from {path}: {reason(error)}"
        raise BuildError(message, hint=hint) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Within it, nothing is asked of the hub."""
    from huggingface_hub import constants  # noqa: PLC0415 - transformers brings it

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
