"""``transformers.Trainer(..., callbacks=[GradlintCallback()])``: the model is judged before its first step.

The model that the trainer calls first, with that batch, by the values its weights have; once, in the main process.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gradlint.config.training import OPTIMIZERS, Training
from gradlint.integrations.first_step import Judging, UnstableModelError

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError("gradlint.integrations.transformers needs transformers: pip install transformers accelerate") from error

__all__ = ["GradlintCallback", "UnstableModelError"]


class GradlintCallback(Judging, TrainerCallback):
    """Judge the model once, before step 0, with the batch that it is trained on first.

    Findings are logged (``gradlint``, as warnings) and kept in :attr:`reports`. How the model is trained is read from the
    trainer's arguments, unless ``train`` says it. A run that is resumed from a checkpoint is not judged again.

    Arguments and errors are those of :class:`~gradlint.integrations.first_step.Judging`.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Wait for the first call."""
        if model is None or self.reports or state.global_step or not state.is_world_process_zero:
            return
        if self._first.settings.train == Training():
            self._first.settings = self._first.settings.updated({"train": _training(args)}, "TrainingArguments")
        self._first.watch(model)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first batch is through."""
        self._first.close()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first batch is through."""
        self._first.close()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """There was no batch."""
        self._first.close()


def _training(args: TrainingArguments) -> Training:
    kind = str(getattr(args.optim, "value", args.optim)).partition("_")[0]
    return Training(
        optimizer=kind if kind in OPTIMIZERS else "",
        lr=args.learning_rate or None,
        weight_decay=args.weight_decay,
        clip=args.max_grad_norm or None,
        precision="fp16" if args.fp16 else "bf16" if args.bf16 else "fp32",
    )
