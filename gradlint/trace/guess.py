"""What a model's arguments probably are: from its first layers, the arguments' names and its configuration."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradlint.trace.examples import LENGTH
from gradlint.trace.leaves import Leaf
from gradlint.trace.private import BATCH_NORM, CONVOLUTION

__all__ = ["candidates", "vocabulary"]

_SIDES = (32, 64, 224, 28, 84, 96, 128, 16, 256)
_SIDE_NAMES = ("image_size", "img_size", "input_size", "resolution", "input_resolution", "image_resolution")
_LENGTH_NAMES = ("seq_len", "seq_length", "sequence_length", "block_size", "context_length", "max_len", "max_seq_len")
_VOCABULARY_NAMES = ("vocab_size", "n_vocab", "num_tokens", "ntoken", "ntokens", "num_embeddings")

_IDS = re.compile(r"(^|_)(ids?|idx|indices|index|tokens?|toks?|text|words?|sent(ence)?s?|seqs?|src|tgt|trg|prompt|chars?)(_|$)")
_SEQUENCES = re.compile(r"(^|_)(src|tgt|trg|seqs?)(_|$)")
_LABELS = re.compile(r"(^|_)(labels?|classes|y|targets?)(_|$)")
_MASKS = re.compile(r"mask")
_LENGTHS = re.compile(r"len(gth)?s?(_|$)")
_STATES = re.compile(r"(^|_)(h|c|hx|hidden|state|h_?0|c_?0|prev|memory_state|carry)(_|$)")
_TIMES = re.compile(r"(^|_)(t|time|times|timesteps?|step|sigma|noise_level)(_|$)")
_EDGES = re.compile(r"edge_index|edges")
_ADJACENCY = re.compile(r"(^|_)(adj|adjacency|a_hat)(_|$)")
_ATTRIBUTES = re.compile(r"edge_(attr|weight|feat)")
_REALS = re.compile(
    r"^(z|noise|eps|latents?|x|obs|observations?|states?|actions?|feats?|features?|cond(ition)?|values?|signal|series"
    r"|rewards?|returns?(_to_go)?|rtgs?|coords?|positions?|pos|points?)$"
    r"|_(feats?|features?|embeds?|cond|values?)$"
)
_ENTITIES = re.compile(r"(^|_)(users?|items?|movies?|products?)(_ids?)?$")
_ENDS = re.compile(r"^(dones?|terminals?|terminated|resets?|episode_starts?)$")
_BOXES = re.compile(r"(^|_)(bbox|boxes)(_|$)")
_GRIDS = re.compile(r"(^|_)grid_(thw|hw)$|(^|_)spatial_shapes$")
_IMAGES = re.compile(r"(^|_)(im|img|imgs|image|images|pixels|pixel_values)(_|$)")

_SIDE_OF_GRID = 4
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


def vocabulary(model: nn.Module) -> int:
    """Exclusive upper bound for integer inputs that nothing else bounds."""
    for place in (getattr(model, "config", None), model):
        for name in _VOCABULARY_NAMES:
            if isinstance(size := getattr(place, name, None), int) and not isinstance(size, bool) and size > 0:
                return size
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    return tables[0] if tables else 10


def candidates(model: nn.Module, parameter: inspect.Parameter, batch: int, names: Sequence[str] = ()) -> list[Any]:
    """What the argument may be, likely first: leaves (in tuples where there are several), or plain values.

    Args:
        names: of all arguments: beside an adjacency the rows are nodes.
    """
    plain = _annotated(parameter)
    if plain is not None:
        return plain
    name = parameter.name.lower()
    patches = _patches(model, names) if not _GRIDS.search(name) else []
    graph = any(_EDGES.search(n.lower()) or _ADJACENCY.search(n.lower()) for n in names)
    by_layer = _by_layers(model, LENGTH if graph else batch)
    found = [*patches, *_by_name(model, name, batch, by_layer, graph=graph), *by_layer]
    wanted = _kind_annotated(parameter)
    found.sort(key=lambda c: wanted is not None and isinstance(c, Leaf) and c.kind != wanted)
    return list(dict.fromkeys(found))


def _patches(model: nn.Module, names: Sequence[str]) -> list[Leaf]:
    """The patches of one image in a row, where a grid beside them says how they lie."""
    axes = next((3 if name.endswith("thw") else 2 for name in names if _GRIDS.search(name)), None)
    first = next((m for m in model.modules() if isinstance(m, CONVOLUTION | nn.Linear)), None)
    if axes is None or first is None:
        return []
    width = first.in_features if isinstance(first, nn.Linear) else first.in_channels * math.prod(first.kernel_size)
    return [Leaf((_SIDE_OF_GRID**axes, width), _name(_dtype(model)))]


def _annotated(parameter: inspect.Parameter) -> list[Any] | None:
    """For arguments that are annotated as plain Python values."""
    annotation = parameter.annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    plain: dict[str, list[Any]] = {"int": [1, LENGTH], "float": [1.0], "bool": [False, True], "str": [""]}
    return plain.get(name)


def _kind_annotated(parameter: inspect.Parameter) -> str | None:
    """For arguments that are annotated as tensors of a type: ``LongTensor``, ``Int[Tensor, "b t"]``."""
    text = str(parameter.annotation)
    kinds = {"int": r"\b(Long|Int)(Tensor)?\b", "bool": r"\bBool(Tensor)?\b", "float": r"\bFloat(Tensor)?\b"}
    return next((kind for kind, pattern in kinds.items() if re.search(pattern, text)), None)


def _by_name(model: nn.Module, name: str, batch: int, by_layer: list[Leaf], *, graph: bool) -> list[Any]:
    dtype = _name(_dtype(model))
    integral = [leaf for leaf in by_layer if leaf.kind == "int"]
    floating = [leaf for leaf in by_layer if leaf.kind == "float"]
    main = by_layer[0].shape
    sees = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if _MASKS.search(name):
        length = main[1] if len(main) > 1 else LENGTH
        # Padding masks of torch are true where there is none to see, others where there is something.
        usual = "padding" not in name
        row, square = (batch, length), (length, length)
        shapes = (square, row) if re.search(r"(^|_)(src|tgt|trg|attn|causal)_mask", name) else (row, square)
        masks = [Leaf(shape, "bool", fill=float(usual)) for shape in shapes]
        return [masks[0], None, masks[1], Leaf(row, "int64", 2, 1.0), Leaf(row, dtype, fill=1.0)]
    if _EDGES.search(name):
        return [Leaf((2, 2 * LENGTH), "int64", LENGTH)]
    if _ADJACENCY.search(name):
        return [Leaf((LENGTH, LENGTH), dtype, fill=1 / LENGTH)]
    if graph and name in ("batch", "batch_idx", "graph_ids"):
        return [Leaf((LENGTH,), "int64", 2)]
    if graph and _ATTRIBUTES.search(name):
        return [Leaf((2 * LENGTH, *leaf.shape[1:]), leaf.dtype, leaf.high) for leaf in floating if len(leaf.shape) == 2]
    if _LENGTHS.search(name):
        return [Leaf((batch,), "int64", LENGTH, float(LENGTH))]
    if _BOXES.search(name):  # corners that coincide: no side is negative
        length = main[1] if len(main) > 1 else LENGTH
        return [Leaf((batch, length, 4), kind, high, 1.0) for kind, high in (("int64", 2), (dtype, None))]
    if _GRIDS.search(name):  # of patches, of one image or video
        return [Leaf((1, 2 if name.endswith(("_hw", "shapes")) else 3), "int64", _SIDE_OF_GRID + 1, float(_SIDE_OF_GRID))]
    if _TIMES.search(name):
        steps, reals = ("int64", 1000), (dtype, None)
        # Beside an image it counts the steps of a diffusion, else it is a coordinate.
        kinds = (steps, reals) if "step" in name or sees else (reals, steps)
        return [Leaf(shape, *kind) for shape in ((batch,), (batch, 1), ()) for kind in kinds]
    if _IMAGES.search(name):
        images = [leaf for leaf in floating if len(leaf.shape) == 4]
        return images if sees else [*images[:1], *floating]
    if _STATES.search(name):
        return [*_states(model, batch, dtype), *floating]
    if _LABELS.search(name):
        classes = [Leaf((batch,), "int64", leaf.high) for leaf in integral[:1]]
        return [*classes, Leaf((batch,), "int64", vocabulary(model))] if not floating else [*classes, *floating]
    if _ENTITIES.search(name):
        return [leaf for leaf in integral if len(leaf.shape) == 1]
    if _ENDS.search(name):
        return [Leaf((batch,), dtype, fill=0.0)]
    tables = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    if _IDS.search(name) and (tables or not _SEQUENCES.search(name)):
        return integral
    if _REALS.search(name):
        return floating
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
            state = Leaf((layers, batch, module.proj_size or module.hidden_size), dtype)
            cell = Leaf((layers, batch, module.hidden_size), dtype)
            yield (state, cell) if isinstance(module, nn.LSTM) else state
        elif isinstance(module, _CELLS):
            state = Leaf((batch, module.hidden_size), dtype)
            yield (state, state) if isinstance(module, nn.LSTMCell) else state


def _by_layers(model: nn.Module, batch: int) -> list[Leaf]:
    """What the first layers with parameters take, in the order they were registered; images last."""
    dtype = _name(_dtype(model))
    lengths = list(dict.fromkeys([LENGTH, *_sizes(model, _LENGTH_NAMES), 8]))
    sides = list(dict.fromkeys([*_sizes(model, _SIDE_NAMES), *_SIDES]))
    time_first = _is_time_first(model)
    leading: list[tuple[tuple[int, ...], str, int | None]] = []
    kinds: set[tuple[type, tuple[tuple[int, ...], ...]]] = set()
    # Parameters beside submodules are mostly positions, tokens or scales: they are not what an input meets first.
    for module in sorted(model.modules(), key=_is_container):
        own = [p for p in module.parameters(recurse=False) if not isinstance(p, UninitializedParameter)]
        kind = type(module), tuple(tuple(p.shape) for p in own)
        if not own or kind in kinds:
            continue
        kinds.add(kind)
        leading += [(shape, *rest) for shape, *rest in _taken(module, batch, lengths, sides, dtype, time_first=time_first)]  # type: ignore[misc]
        if len(kinds) == 4:
            break
    images = [((batch, channels, side, side), dtype, None) for side in (*sides[:3], 28) for channels in (3, 1)]
    other = [((batch, 10), dtype, None), ((batch, LENGTH, 32), dtype, None)]
    ids = [((batch, LENGTH), "int64", vocabulary(model))]
    return [Leaf(*found) for found in dict.fromkeys([*leading, *images, *other, *ids])]


def _is_time_first(model: nn.Module) -> bool:
    """The first layer over sequences has the time before the batch."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            return not module.batch_first
    return False


def _is_container(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.") and any(True for _ in module.children())


def _taken(
    module: nn.Module, batch: int, lengths: list[int], sides: list[int], dtype: str, *, time_first: bool
) -> list[tuple[tuple[int, ...], str, int | None]]:
    """Shapes, dtype and bound of what one layer takes."""

    def vectors(size: int) -> list[tuple[int, ...]]:
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
            rows = [(batch, n) for n in lengths]
            rows = [(lengths[0], batch), *rows] if time_first else rows
            return [(shape, "int64", high) for shape in (*rows, (batch,))]
        case CONVOLUTION():
            shapes = images(module.in_channels, len(module.kernel_size))
        case BATCH_NORM():
            dims = {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(type(module).__name__, 0)
            shapes = images(module.num_features, dims) if dims else [(batch, module.num_features)]
        case nn.GroupNorm():
            shapes = images(module.num_channels, 2)
        case nn.LayerNorm() | nn.RMSNorm():
            shape = tuple(module.normalized_shape)
            shapes = [(batch, LENGTH, *shape), (batch, *shape)]
        case nn.RNNBase():
            shapes = sequences(module.input_size, batch_first=module.batch_first)
        case nn.RNNCell() | nn.LSTMCell() | nn.GRUCell():
            shapes = vectors(module.input_size)
        case nn.MultiheadAttention():
            shapes = sequences(module.embed_dim, batch_first=module.batch_first)
        case nn.Bilinear():
            shapes = [*vectors(module.in1_features), *vectors(module.in2_features)]
        case nn.Linear():
            shapes = vectors(module.in_features)
        case _:
            sizes = [n for p in module.parameters(recurse=False) for n in reversed(p.shape) if n > 1]
            shapes = [shape for n in dict.fromkeys(sizes) for shape in vectors(n)]
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
