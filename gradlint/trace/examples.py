"""Arguments that a model itself offers: an attribute with examples, or a transformers configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from gradlint.trace.arguments import positional
from gradlint.trace.leaves import Leaf, Values
from gradlint.trace.tree import tensors_in

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LENGTH", "examples", "offered"]

LENGTH = 16
"""Length of a sequence where nothing says how long it is."""

_ATTRIBUTES = ("example_inputs", "example_input_array")


def offered(model: nn.Module) -> tuple[str, Values] | None:
    """The first attribute that holds example inputs, and its value by the names of forward's arguments.

    A tensor is the first argument, a tuple or list the positional ones, a mapping the ones by keyword; or a function of no
    arguments that returns one of these.
    """
    for name in _ATTRIBUTES:
        value = getattr(model, name, None)
        if callable(value) and not isinstance(value, torch.Tensor):
            value = value()
        if not tensors_in(value):
            continue
        if isinstance(value, Mapping):
            return name, dict(value)
        args = (value,) if isinstance(value, torch.Tensor) else tuple(value or ())
        return name, dict(zip(positional(model, len(args)), args, strict=True))
    return None


def examples(model: nn.Module, batch: int) -> Iterator[Values]:
    """What a transformers model with this configuration takes, by the name of its main input."""
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is not None and isinstance(main, str):
        yield from _configured(main, config, batch)


def _configured(main: str, config: Any, batch: int) -> Iterator[Values]:
    def known(*names: str, default: int) -> int:
        places = [config, *(getattr(config, part, None) for part in ("text_config", "vision_config", "encoder"))]
        for name in names:
            for place in places:
                value = getattr(place, name, None)
                if isinstance(value, list | tuple) and value:
                    value = value[0]
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return default

    words = known("vocab_size", default=10)
    length = min(LENGTH, known("max_position_embeddings", "n_positions", "max_target_positions", default=LENGTH))
    ids = Leaf((batch, length), "int64", words)
    side = known("image_size", default=224)
    image = Leaf((batch, known("num_channels", "in_channels", default=3), side, side), "float32")
    length_of_video = known("num_frames", "frames_per_clip", default=0)
    videos = [Leaf((batch, length_of_video, *image.shape[1:]), "float32")] if length_of_video else []
    frames = 2 * known("max_source_positions", default=64)
    mel = Leaf((batch, known("num_mel_bins", "input_feat_per_channel", default=80), frames), "float32")
    wave = Leaf((batch, 4000), "float32")
    spectrogram = Leaf((batch, known("max_length", default=1024), mel.shape[1]), "float32")
    by_name = {
        "input_ids": [ids],
        "pixel_values": [*videos, image],
        "pixel_values_videos": videos,
        "input_features": [mel],
        "input_values": [wave, spectrogram],
    }
    decoder = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
    for leaf in by_name.get(main, []):
        yield {main: leaf, **decoder}
        if main == "pixel_values":  # models of images and text take both
            yield {main: leaf, "input_ids": ids}
        elif main == "input_ids":
            yield {main: leaf, "pixel_values": image}
