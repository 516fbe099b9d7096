"""Every architecture of the installed transformers, from its default configuration made small by one rule for all."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

__all__ = ["Architecture", "architectures", "small"]

_HEADS = (  # what an architecture is trained for, the first of these that it has
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "OBJECT_DETECTION",
    "IMAGE_TEXT_TO_TEXT",
)
_DEPTH = re.compile(r"(^|_)(layers?|depths?|blocks?|repeats)$|^num_\w*(layers|blocks)(_\w+)?$|^n_layers?$")
_WIDTH = re.compile(
    r"hidden|embed|inner|intermediate|dim|width|channels|filters|d_model|d_ff|d_kv|ffn|feed_?forward|mlp_size|rank|"
    r"projection_size|d_inner|d_head|n_embd|q_lora|kv_lora"
)
_NO_WIDTH = re.compile(
    r"layer(s|_types|_pattern)?$|_layers?_|act|prob|drop|init|kernel|stride|num_channels|in_chan|heads|patch|image|eps|"
    r"^(num|n)_(?!filters|embd|hidden$)"
)
_VOCABULARY = re.compile(r"vocab_size$|codebook_size$")
_SIDE = re.compile(r"image_size$")
_CHUNK = re.compile(r"(^|mamba_|ssm_)chunk_size$")
_EXPERTS = re.compile(r"^(num|n)_\w*experts$|^moe_num_experts$")
_ID = re.compile(r"_(token_)?(id|index|idx)$")
_WORDS, _SPECIAL = 1024, 40
_STEPS = ((8, 2), (8, None), (1, 2), (4, 2), (8, 4), (4, 4), (2, 2), (4, None), (2, None), (1, None))
_EACH, _MOST, _PIXELS, _STEPS_AT_ONCE = 32, 3, 224, 16
_LIMIT = 60_000_000


@dataclass(frozen=True)
class Architecture:
    """One model type.

    Args:
        kind: names its configuration.
        classes: of models with that configuration: what it is trained as first, the model without a head last.
    """

    kind: str
    classes: tuple[str, ...]


def architectures() -> Iterator[Architecture]:
    """All of them, in alphabetical order."""
    tables = [getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES") for head in _HEADS]
    for kind, base in sorted(modeling_auto.MODEL_MAPPING_NAMES.items()):
        found = [next((table[kind] for table in tables if kind in table), base), base]
        names = [name if isinstance(name, str) else name[0] for name in found]
        yield Architecture(kind, tuple(dict.fromkeys(names)))


def shrunk(kind: type, factor: int, depth: int | None) -> Any:
    """A configuration with widths divided by ``factor`` and at most ``depth`` layers; all else is its default.

    Only the fields that hold a size are given: what the configuration derives from them, it derives anew.
    """
    parts: Mapping[str, Any] = getattr(kind, "sub_configs", {})
    changed: dict[str, Any] = {}
    default_parts = kind() if transformers.AutoConfig in parts.values() else None
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in parts:
            part = parts[field.name]
            if part is transformers.AutoConfig:
                part = type(getattr(default_parts, field.name))
            if dataclasses.is_dataclass(part):
                changed[field.name] = shrunk(part, factor, depth)
        elif (new := _shrunk(field.name, default, factor, depth)) != default:
            changed[field.name] = new
    return kind(**changed)


def _shrunk(name: str, value: Any, factor: int, depth: int | None) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | list | tuple) for item in value):
        if _WIDTH.search(name) and not all(isinstance(item, int) and item >= 64 and item % factor == 0 for item in value):
            return value  # stages that follow one another are divided together or not at all
        return type(value)(_shrunk(name, item, factor, depth) for item in value)
    if not isinstance(value, int):
        return value
    if _SIDE.search(name):
        return min(value, _PIXELS)
    if _CHUNK.search(name):
        return min(value, _STEPS_AT_ONCE)
    if _VOCABULARY.search(name):
        return min(value, _WORDS)
    if _ID.search(name):
        return value if value < _WORDS else _WORDS - 1 - value % _SPECIAL
    if _EXPERTS.search(name):
        return min(value, _EACH)
    if _DEPTH.search(name):
        return value if depth is None else min(value, depth)
    if _WIDTH.search(name) and not _NO_WIDTH.search(name) and value >= 64 and value % factor == 0:
        return value // factor
    return value


def small(architecture: Architecture) -> Iterator[Callable[[], nn.Module]]:
    """What builds it, in a few sizes, small ones first: a size may be refused by the architecture itself.

    Raises:
        RuntimeError: none of them can be built; with the reason for the smallest.
    """
    failures, built = [], 0
    for name in architecture.classes:
        model = getattr(transformers, name)
        for factor, depth in _STEPS:
            try:
                config = shrunk(CONFIG_MAPPING[architecture.kind], factor, depth)
                with torch.device("meta"):
                    size = sum(p.numel() for p in model(config).parameters())
            except Exception as error:  # noqa: BLE001 - what one size does not suit, the next may
                failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
                continue
            if size <= _LIMIT:
                yield partial(model, config)
                built += 1
                if built == _MOST:
                    return
            else:
                failures.append(f"{size / 1e6:.0f} M parameters")
    if not built:
        raise RuntimeError(failures[0])
