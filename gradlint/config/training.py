"""How models are trained, as far as the configuration says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gradlint.config.values import NOT_NEGATIVE, POSITIVE, Kind, choice, object_of, read_table
from gradlint.errors import UsageError
from gradlint.findings import Location
from gradlint.recipe import Clip, Number, Optimizer, Recipe

__all__ = ["OPTIMIZERS", "TRAINING", "Training"]

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adagrad", "rmsprop", "lion", "lars", "lamb", "muon")


@dataclass(frozen=True)
class Training:
    """How models will be trained, as far as it is given rather than read from a script.

    Args:
        optimizer: the optimiser's kind, in lower case; empty means it is not known.
        lr: the learning rate.
        weight_decay: its coefficient.
        clip: the largest norm that clipping lets a gradient have.
        precision: in which forward and backward run; empty means it is not known.
    """

    optimizer: str = ""
    lr: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    precision: str = ""

    def recipe(self, place: Location, script: Recipe | None) -> Recipe | None:
        """What a script says, and what is given here in place of it.

        Args:
            place: where this is given.
            script: None where none was named.
        """
        if self == Training():
            return script
        lr, decay, clip = (None if x is None else Number(f"{x:g}", x) for x in (self.lr, self.weight_decay, self.clip))
        known = script or Recipe(place.path, steps=(place,))
        named = self.optimizer or lr is not None or decay is not None
        return replace(
            known,
            optimizers=(Optimizer(self.optimizer, lr, decay, place),) if named else known.optimizers,
            clips=known.clips if clip is None else (Clip("norm", clip, place),),
            precisions=known.precisions if not self.precision else (self.precision,) if self.precision != "fp32" else (),
        )


def _read(value: object, where: str) -> Training:
    if isinstance(value, Training):
        return value
    if isinstance(value, Mapping):
        return Training(**read_table(value, _KINDS, where, kebab=True))
    raise UsageError(f"{where}: expected a table, got {value!r}")


_KINDS: Mapping[str, Kind] = {
    "optimizer": choice(*OPTIMIZERS),
    "lr": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip": POSITIVE,
    "precision": choice("fp32", "fp16", "bf16"),
}
TRAINING = Kind(_read, object_of(Training, _KINDS))
