"""A ``LightningModule`` says how it is trained: its ``configure_optimizers``, read by its syntax.

Lightning itself is not needed, nor its trainer: what has ``configure_optimizers`` and ``training_step`` is meant. Its
``example_input_array`` is found where inputs are.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlint.errors import UsageError
from gradlint.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from torch import nn

__all__ = ["recipe_of"]


def recipe_of(model: nn.Module) -> Recipe | None:
    """What the module's file says of its training; None for modules that say nothing of it.

    If nothing in that file starts a trainer, whether gradients are clipped is not known: the recipe then has the optimisers of
    ``configure_optimizers`` only, and does not claim to train.
    """
    configure = getattr(type(model), "configure_optimizers", None)
    if configure is None or not callable(getattr(type(model), "training_step", None)):
        return None
    try:
        file = inspect.getsourcefile(inspect.unwrap(configure))
        lines, first = inspect.getsourcelines(configure)
        if file is None or "site-packages" in Path(file).parts:  # the one that Lightning itself defines does nothing
            return None
        whole = read_recipe(Path(file))
    except (OSError, TypeError, UsageError):  # typed into a console: there is nothing to read
        return None
    if whole.trains:
        return whole
    own = tuple(o for o in whole.optimizers if first <= o.location.line < first + len(lines))
    return replace(whole, optimizers=own, clips=(), precisions=())
