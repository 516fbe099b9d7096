"""How a model is obtained from what the user wrote on the command line; one file per way.

A loader takes the target and returns its models, or None if the target is of another kind. Nothing is ever unpickled.
To know the laws of the parameters, load (and build) within :func:`gradlint.trace.recording`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError
from gradlint.load import exported, huggingface, importpath, notebook, pickled, pyfile
from gradlint.load.arguments import parse_arguments
from gradlint.load.lightning import recipe_of
from gradlint.load.loaded import Call, Loaded
from gradlint.load.script import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LOADERS", "Call", "Loaded", "capture", "load", "parse_arguments", "recipe_of"]

LOADERS: tuple[Callable[[str, Mapping[str, Any]], list[Loaded] | None], ...] = (
    pickled.load,
    exported.load,
    huggingface.load,
    notebook.load,
    pyfile.load,
    importpath.load,
)

_NONE: Mapping[str, Any] = MappingProxyType({})


def load(target: str, arguments: Mapping[str, Any] = _NONE) -> list[Loaded]:
    """The models of a target: ``model.py``, ``package.module``, with a name after a colon, or ``config.json`` or its folder.

    Without a name, the models of a file are: module-level instances; the classes that need no argument and are not parts of
    others in the file; the functions ``build*``, ``make*``, ``create*``, ``get_model*``, ``model`` that need no argument.

    Args:
        arguments: what a named class or function is called with, by keyword; fields of a configuration.

    Raises:
        LoadError: there is no such file, module or name; importing it fails; or there is no model in it.
    """
    for loader in LOADERS:
        found = loader(target, arguments)
        if found is not None:
            return found
    raise LoadError(
        f"cannot tell what {target!r} is",
        target=target,
        hint="targets are model.py, model.py:name, package.module:factory, net.ipynb, config.json of Hugging Face and net.pt2",
    )
