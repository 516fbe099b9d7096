"""How a model is obtained from what the user wrote on the command line; one file per way.

A loader takes the target and returns its models, or None if the target is of another kind. Nothing is ever unpickled.
To know the laws of the parameters, load (and build) within :func:`gradlint.trace.recording`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlint.errors import LoadError
from gradlint.load import importpath, pyfile
from gradlint.load.loaded import Loaded
from gradlint.load.script import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["LOADERS", "Loaded", "capture", "load"]

LOADERS: tuple[Callable[[str, Mapping[str, Any]], list[Loaded] | None], ...] = (
    pyfile.load,
    importpath.load,
)


def load(target: str, arguments: Mapping[str, Any] | None = None) -> list[Loaded]:
    """The models of a target: ``model.py``, ``model.py:name``, ``package.module`` or ``package.module:name``.

    Without a name, these are: module-level instances; the classes that need no argument and are not parts of others in the
    file; the functions ``build*``, ``make*``, ``create*``, ``get_model*``, ``model`` that need no argument.

    Args:
        arguments: what the named class or function is called with.

    Raises:
        LoadError: there is no such file, module or name; importing it fails; or there is no model in it.
    """
    for loader in LOADERS:
        found = loader(target, arguments or {})
        if found is not None:
            return found
    raise LoadError(
        f"cannot tell what {target!r} is",
        target=target,
        hint="targets are model.py, model.py:name and package.module:factory",
    )
