"""What a model's arguments probably are: from its first layers, the arguments' names and its configuration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradlint.trace.graph import InputSpec

__all__ = ["candidates", "examples", "vocabulary"]

_LENGTH = 16
_SIDES = (32, 64, 224, 28, 84, 96, 128, 16, 256)
_SIDE_NAMES = ("image_size", "img_size", "input_size", "resolution", "input_resolution", "image_resolution")
_LENGTH_NAMES = ("seq_len", "seq_length", "sequence_length", "block_size", "context_length", "max_len", "max_seq_len")
_VOCABULARY_NAMES = ("vocab_size", "n_vocab", "num_tokens", "ntoken", "ntokens", "num_embeddings")

_IDS = re.compile(r"(^|_)(ids?|idx|indices|index|tokens?|toks?|text|words?|sent(ence)?s?|seqs?|src|tgt|prompt|chars?)(_|$)")
_LABELS = re.compile(r"(^|_)(labels?|classes|y|targets?|cond)(_|$)")
_MASKS = re.compile(r"mask")
_LENGTHS = re.compile(r"len(gth)?s?(_|$)")
_STATES = re.compile(r"(^|_)(h|c|hx|hidden|state|h_?0|c_?0|prev|memory_state|carry)(_|$)")
_TIMES = re.compile(r"(^|_)(t|time|times|timesteps?|step|sigma|noise_level)(_|$)")
_EDGES = re.compile(r"edge_index|edges")
_ADJACENCY = re.compile(r"(^|_)(adj|adjacency|a_hat)(_|$)")
_IMAGES = re.compile(r"(^|_)(im|img|imgs|image|images|pixels|pixel_values)(_|$)")

_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


def vocabulary(model: nn.Module) -> int:
    """Exclusive upper bound for integer inputs that nothing else bounds."""
    for place in (getattr(model, "config", None), model):
        for name in _VOCABULARY_NAMES:
            if isinstance(size := getattr(place, name, None), int) and not isinstance(size, bool) and size > 0:
                return size
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    return tables[0] if tables else 10


def examples(model: nn.Module, batch: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments the model itself offers: an example attribute, or a transformers configuration."""
    for name in ("example_inputs", "example_input_array"):
        offered = getattr(model, name, None)
        if callable(offered) and not isinstance(offered, torch.Tensor):
            offered = offered()
        if isinstance(offered, torch.Tensor):
            yield (offered,), {}
        elif isinstance(offered, Mapping):
            yield (), dict(offered)
        elif isinstance(offered, tuple | list):
            yield tuple(offered), {}
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is not None and isinstance(main, str):
        yield from (((), kwargs) for kwargs in _configured(main, config, batch))


def _configured(main: str, config: Any, batch: int) -> Iterator[dict[str, Any]]:
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
    length = min(_LENGTH, known("max_position_embeddings", "n_positions", "max_target_positions", default=_LENGTH))
    ids = InputSpec("input_ids", (batch, length), "int64", words)
    side = known("image_size", default=224)
    image = InputSpec("pixel_values", (batch, known("num_channels", "in_channels", default=3), side, side), "float32")
    frames = 2 * known("max_source_positions", default=64)
    mel = InputSpec("input_features", (batch, known("num_mel_bins", "input_feat_per_channel", default=80), frames), "float32")
    wave = InputSpec("input_values", (batch, 4000), "float32")
    spectrogram = InputSpec("input_values", (batch, known("max_length", default=1024), mel.shape[1]), "float32")
    by_name = {
        "input_ids": [ids],
        "pixel_values": [image],
        "input_features": [mel],
        "input_values": [wave, spectrogram],
    }
    decoder = {}
    if getattr(config, "is_encoder_decoder", False):
        decoder = {"decoder_input_ids": InputSpec("decoder_input_ids", (batch, length), "int64", words)}
    for spec in by_name.get(main, [ids]):
        yield {main: spec, **decoder}
        if main == "pixel_values":  # models of images and text take both
            yield {main: spec, "input_ids": ids}
        elif main == "input_ids":
            yield {main: spec, "pixel_values": image}


def candidates(model: nn.Module, parameter: inspect.Parameter, batch: int) -> list[Any]:
    """What the argument may be, likely first: specs for tensors (in tuples where there are several), or real values."""
    plain = _annotated(parameter)
    if plain is not None:
        return plain
    by_layer = _by_layers(model, batch)
    found = [*_by_name(model, parameter.name.lower(), batch, by_layer), *by_layer]
    return list(dict.fromkeys(InputSpec(parameter.name, *_of(c)) if isinstance(c, InputSpec) else c for c in found))


def _of(spec: InputSpec) -> tuple[tuple[int, ...], str, int | None]:
    return spec.shape, spec.dtype, spec.high


def _annotated(parameter: inspect.Parameter) -> list[Any] | None:
    """For arguments that are annotated as plain Python values."""
    annotation = parameter.annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    plain: dict[str, list[Any]] = {"int": [1, _LENGTH], "float": [1.0], "bool": [False, True], "str": [""]}
    return plain.get(name)


def _by_name(model: nn.Module, name: str, batch: int, by_layer: list[InputSpec]) -> list[Any]:
    dtype = _dtype(model)
    integral = [spec for spec in by_layer if "int" in spec.dtype]
    floating = [spec for spec in by_layer if "int" not in spec.dtype]
    main = by_layer[0].shape
    if _MASKS.search(name):
        length = main[1] if len(main) > 1 else _LENGTH
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        return [torch.ones(batch, length, dtype=torch.bool), causal, None, torch.ones(batch, length, dtype=torch.int64)]
    if _EDGES.search(name):
        return [InputSpec(name, (2, 2 * _LENGTH), "int64", batch)]
    if _ADJACENCY.search(name):
        return [torch.full((n, n), 1 / n, dtype=dtype) for n in (batch, _LENGTH)]
    if _LENGTHS.search(name):
        return [torch.full((batch,), _LENGTH)]
    if _TIMES.search(name):
        shapes = ((batch,), (batch, 1), ())
        return [InputSpec(name, shape, kind, high) for shape in shapes for kind, high in ((_name(dtype), None), ("int64", 10))]
    if _IMAGES.search(name):
        return [spec for spec in floating if len(spec.shape) == 4]
    if _STATES.search(name):
        return [*_states(model, batch, _name(dtype)), *floating]
    if _LABELS.search(name):
        classes = [InputSpec(name, (batch,), "int64", spec.high) for spec in integral[:1]]
        return [*classes, InputSpec(name, (batch,), "int64", None)] if not floating else [*classes, *floating]
    if _IDS.search(name) and integral:
        return integral
    return []


def _states(model: nn.Module, batch: int, dtype: str) -> Iterator[Any]:
    """Initial states of the recurrent layers of a model."""
    make = getattr(model, "init_hidden", None)
    if callable(make):
        for args in ((batch,), ()):
            try:
                yield make(*args)
            except TypeError:  # takes another number of arguments
                continue
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            layers = module.num_layers * (2 if module.bidirectional else 1)
            state = InputSpec("", (layers, batch, module.proj_size or module.hidden_size), dtype)
            cell = InputSpec("", (layers, batch, module.hidden_size), dtype)
            yield (state, cell) if isinstance(module, nn.LSTM) else state
        elif isinstance(module, _CELLS):
            state = InputSpec("", (batch, module.hidden_size), dtype)
            yield (state, state) if isinstance(module, nn.LSTMCell) else state
    for name in ("hidden_size", "hidden_dim", "hidden", "n_hidden"):
        if isinstance(size := getattr(model, name, None), int):
            yield InputSpec("", (batch, size), dtype)


def _by_layers(model: nn.Module, batch: int) -> list[InputSpec]:
    """What the first layers with parameters take, in the order they were registered; images last."""
    dtype = _name(_dtype(model))
    lengths = list(dict.fromkeys([_LENGTH, *_sizes(model, _LENGTH_NAMES), 8]))
    sides = list(dict.fromkeys([*_sizes(model, _SIDE_NAMES), *_SIDES]))
    leading: list[tuple[tuple[int, ...], str, int | None]] = []
    kinds: set[tuple[type, tuple[tuple[int, ...], ...]]] = set()
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if not isinstance(p, UninitializedParameter)]
        kind = type(module), tuple(tuple(p.shape) for p in own)
        if not own or kind in kinds:
            continue
        kinds.add(kind)
        leading += [(shape, *rest) for shape, *rest in _taken(module, batch, lengths, sides, dtype)]  # type: ignore[misc]
        if len(kinds) == 4:
            break
    images = [((batch, channels, side, side), dtype, None) for side in (*sides[:3], 28) for channels in (3, 1)]
    other = [((batch, 10), dtype, None), ((batch, _LENGTH, 32), dtype, None)]
    ids = [((batch, _LENGTH), "int64", None)]
    return [InputSpec("", *found) for found in dict.fromkeys([*leading, *images, *other, *ids])]


def _taken(
    module: nn.Module, batch: int, lengths: list[int], sides: list[int], dtype: str
) -> list[tuple[tuple[int, ...], str, int | None]]:
    """Shapes, dtype and bound of what one layer takes."""

    def rows(size: int) -> list[tuple[int, ...]]:
        return [(batch, size), *((batch, length, size) for length in lengths)]

    def sequences(size: int, *, batch_first: bool) -> list[tuple[int, ...]]:
        long = [(batch, length, size) if batch_first else (length, batch, size) for length in lengths]
        return [*long, (batch, size)]

    def images(channels: int, dims: int) -> list[tuple[int, ...]]:
        if dims == 1:
            return [(batch, channels, n) for n in (*lengths, 64, 256, 1024, 4096)]
        if dims == 3:
            return [(batch, channels, n, m, m) for n, m in ((8, 32), (16, 16), (16, 64), (16, 112))]
        return [(batch, channels, side, side) for side in sides]

    shapes: list[tuple[int, ...]]
    match module:
        case nn.Embedding() | nn.EmbeddingBag():
            high = module.num_embeddings
            return [(shape, "int64", high) for shape in (*((batch, n) for n in lengths), (batch,))]
        case nn.modules.conv._ConvNd():
            shapes = images(module.in_channels, len(module.kernel_size))
        case nn.modules.batchnorm._BatchNorm():
            dims = {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(type(module).__name__, 0)
            shapes = images(module.num_features, dims) if dims else [(batch, module.num_features)]
        case nn.GroupNorm():
            shapes = images(module.num_channels, 2)
        case nn.LayerNorm() | nn.RMSNorm():
            shape = tuple(module.normalized_shape)
            shapes = [(batch, _LENGTH, *shape), (batch, *shape)]
        case nn.RNNBase():
            shapes = sequences(module.input_size, batch_first=module.batch_first)
        case nn.RNNCell() | nn.LSTMCell() | nn.GRUCell():
            shapes = rows(module.input_size)
        case nn.MultiheadAttention():
            shapes = sequences(module.embed_dim, batch_first=module.batch_first)
        case nn.Bilinear():
            shapes = [*rows(module.in1_features), *rows(module.in2_features)]
        case nn.Linear():
            shapes = rows(module.in_features)
        case _:
            sizes = [n for p in module.parameters(recurse=False) for n in reversed(p.shape) if n > 1]
            shapes = [shape for n in dict.fromkeys(sizes) for shape in rows(n)]
    return [(shape, dtype, None) for shape in shapes]


def _sizes(model: nn.Module, names: tuple[str, ...]) -> list[int]:
    found = []
    for place in (model, getattr(model, "config", None), getattr(model, "cfg", None)):
        for name in names:
            size = getattr(place, name, None)
            if isinstance(size, tuple | list) and size:
                size = size[-1]
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 4096:
                found.append(size)
    return found


def _dtype(model: nn.Module) -> torch.dtype:
    made = (p for p in model.parameters() if not isinstance(p, UninitializedParameter))
    floating = (p.dtype for p in made if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
