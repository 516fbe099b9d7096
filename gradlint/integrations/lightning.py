"""``Trainer(..., callbacks=[GradlintCallback()])`` of Lightning: the models are judged before their first step.

Every model that ``training_step`` calls in the first batch, with what it is called with there; once, in the main process.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from gradlint.config.training import OPTIMIZERS, Training
from gradlint.integrations.first_step import Judging, UnstableModelError


def _package() -> Any:
    """Two packages hold the same Lightning, and their classes are not each other's: that of the program is meant."""
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules):
        if find_spec(name.partition(".")[0]) is not None:
            return importlib.import_module(name)
    raise ImportError("gradlint.integrations.lightning needs Lightning: pip install lightning (or pytorch-lightning)")


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    _lightning = _package()
    Callback, LightningModule = _lightning.Callback, _lightning.LightningModule

__all__ = ["GradlintCallback", "UnstableModelError"]


class GradlintCallback(Judging, Callback):
    """Judge each model of a ``LightningModule`` once, before step 0, with what it is first called with.

    Findings are logged (``gradlint``, as warnings) and kept in :attr:`reports`. How the models are trained is read from the
    trainer, unless ``train`` says it. A run that is resumed from a checkpoint is not judged again.

    Arguments and errors are those of :class:`~gradlint.integrations.first_step.Judging`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wait for the first calls."""
        if self.reports or trainer.global_step or batch_idx or not trainer.is_global_zero:
            return
        if self._first.settings.train == Training():
            self._first.settings = self._first.settings.updated({"train": _training(trainer)}, "Trainer()")
        self._first.watch(pl_module, _redirected)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """The first batch is through."""
        self._first.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """It was cut short."""
        self._first.close()


def _redirected(module: nn.Module) -> bool:
    """A strategy calls ``training_step`` through forward: that is not a call of the model."""
    return isinstance(module, LightningModule) and getattr(module.forward, "__func__", None) is not type(module).forward


def _training(trainer: Trainer) -> Training:
    groups = [(type(optimizer).__name__.lower(), optimizer.defaults) for optimizer in trainer.optimizers]
    kind, defaults = groups[0] if groups else ("", {})
    precision = str(trainer.precision)
    return Training(
        optimizer=kind if kind in OPTIMIZERS else "",
        lr=defaults.get("lr") or None,
        weight_decay=defaults.get("weight_decay"),
        clip=trainer.gradient_clip_val or None,
        precision="bf16" if precision.startswith("bf16") else "fp16" if precision.startswith("16") else "fp32",
    )
