"""What torch functions ask of the shapes of their operands, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from gradlint.trace.demand import Bound, Demand, Entries, Field, Least, Rank, Shape, Size
from gradlint.trace.examples import LENGTH
from gradlint.trace.probe import Called, Operand

__all__ = ["by_rule", "operands_in"]

_ADDING = ("addmm", "baddbmm", "addbmm")
_SIDE = 32  # of an image that nothing else says the size of


def by_rule(call: Called) -> Iterator[Demand]:
    """What the rule for this function says; nothing where there is no rule."""
    if call.module is not None:
        yield from _recurrent(call.module, call)
    elif call.name in _RULES:
        yield from _RULES[call.name](call)


def _linear(call: Called) -> Iterator[Demand]:
    x, weight = call.args[0], call.args[1] if len(call.args) > 1 else call.kwargs["weight"]
    if len(x.shape) < 2:
        yield Rank(x, 2)
    if x.shape:
        yield Size(x, -1, weight.shape[1])


def _convolution(call: Called) -> Iterator[Demand]:
    x, weight = call.args[:2]
    spatial, transposed = int(call.name[-2]), "transpose" in call.name
    groups = call.kwargs.get("groups", call.args[7 if transposed else 6] if len(call.args) > (7 if transposed else 6) else 1)
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if len(x.shape) != spatial + 2:
        side = _SIDE if channels <= 64 else _SIDE // 2 if channels <= 512 else _SIDE // 4
        sides = {1: (LENGTH,), 2: (side, side), 3: (LENGTH, side, side)}[spatial]
        yield Shape(x, (2, channels, *sides))
        yield Rank(x, spatial + 2)
    elif channels != x.shape[1]:
        yield Size(x, -spatial - 1, channels)
    if not transposed:
        yield from (Least(x, dim, weight.shape[dim]) for dim in range(-spatial, 0) if x.shape[dim] < 2 * weight.shape[dim])


def _norm(call: Called) -> Iterator[Demand]:
    x = call.args[0]
    sizes = [o.shape[0] for o in call.operands[1:] if len(o.shape) == 1]
    if sizes and len(x.shape) > 1:
        yield Size(x, 1 - len(x.shape), sizes[0])


def _layer_norm(call: Called) -> Iterator[Demand]:
    x, shape = call.args[0], tuple(call.args[1] if len(call.args) > 1 else call.kwargs["normalized_shape"])
    if len(x.shape) < len(shape):
        yield Rank(x, len(shape) + 1)
    else:
        wrong = [(dim, shape[dim]) for dim in range(-len(shape), 0) if x.shape[dim] != shape[dim]]
        yield from (Size(x, dim, size) for dim, size in wrong)


def _view(call: Called) -> Iterator[Demand]:
    x = call.args[0]
    wanted = [n for n in call.args[1:] if isinstance(n, int)] or [n for n in call.args[-1] if isinstance(n, int)]
    if call.name == "unflatten":
        yield Size(x, call.args[1] if call.args[1] < 0 else call.args[1] - len(x.shape), _product_of(wanted))
        return
    if not wanted or not x.shape:
        return
    # The dimension that is kept or left to torch is the batch; what the others hold is one sample.
    rest = wanted[1:] if wanted[0] in (-1, x.shape[0]) else wanted
    inner = _product_of(n for n in rest if n > 0)
    if -1 in rest:
        have = x.numel // max(x.shape[0], 1)
        yield Entries(x, inner * max(round(have / inner), 1))
        if x.shape[-1] % inner:
            yield Size(x, -1, inner * max(round(x.shape[-1] / inner), 1))
    else:
        yield Entries(x, inner)


def _split(call: Called) -> Iterator[Demand]:
    sizes = call.args[1] if len(call.args) > 1 else call.kwargs.get("split_size_or_sections", call.kwargs.get("split_sizes"))
    dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)
    x = call.args[0]
    if isinstance(sizes, list | tuple) and x.shape:
        yield Size(x, dim if dim < 0 else dim - len(x.shape), sum(sizes))


def _cat(call: Called) -> Iterator[Demand]:
    parts = [o for o in call.args[0] if isinstance(o, Operand)]
    dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    if not parts:
        return
    rank = max(len(o.shape) for o in parts)
    free = -rank - 1 if call.name == "stack" else dim if dim < 0 else dim - rank
    anchor = next((o for o in parts if not o.sources and len(o.shape) == rank), max(parts, key=lambda o: (len(o.shape), o.numel)))
    for part in parts:
        if len(part.shape) != len(anchor.shape):
            yield Rank(part, len(anchor.shape))
            yield Rank(anchor, len(part.shape))
            continue
        for k in range(-rank, 0):
            if k != free and part.shape[k] != anchor.shape[k]:
                yield Size(part, k, anchor.shape[k])
                yield Size(anchor, k, part.shape[k])


def _product(call: Called) -> Iterator[Demand]:
    a, b = call.args[1:3] if call.name in _ADDING else call.args[:2] if call.name != "__rmatmul__" else call.args[1::-1]
    strict = call.name in ("mm", "bmm", "spmm", *_ADDING)
    for operand in (a, b):
        if strict and len(operand.shape) != (rank := 3 if "bmm" in call.name else 2):
            yield Rank(operand, rank)
            return
    if not a.shape or not b.shape:
        return
    inner = -2 if len(b.shape) > 1 else -1
    if a.shape[-1] != b.shape[inner]:
        yield Size(a, -1, b.shape[inner])
        yield Size(b, inner, a.shape[-1])
    for k in range(-min(len(a.shape), len(b.shape)), -2):
        if a.shape[k] != b.shape[k]:
            yield Size(b, k, a.shape[k])
            yield Size(a, k, b.shape[k])


def _einsum(call: Called) -> Iterator[Demand]:
    equation, *rest = call.args
    if not isinstance(equation, str) or "." in equation:
        return
    terms = [term.strip() for term in equation.partition("->")[0].split(",")]
    operands = list(operands_in(rest))
    sizes: dict[str, tuple[int, bool]] = {}
    for term, operand in zip(terms, operands, strict=False):
        if len(operand.shape) != len(term):
            yield Rank(operand, len(term))
            continue
        for letter, size in zip(term, operand.shape, strict=True):
            if letter not in sizes or not operand.sources:
                sizes[letter] = size, bool(operand.sources)
    for term, operand in zip(terms, operands, strict=False):
        if len(operand.shape) == len(term):
            for k, letter in enumerate(term):
                if letter in sizes and operand.shape[k] != sizes[letter][0]:
                    yield Size(operand, k - len(term), sizes[letter][0])


def _attention(call: Called) -> Iterator[Demand]:
    query, key, value, width = call.args[:4]
    for operand in (query, key, value):
        if operand.shape and operand.shape[-1] != width and len(operand.shape) > 1:
            yield Size(operand, -1, width)
    if len(query.shape) != 3 or len(key.shape) != 3:
        yield from (Rank(o, 3) for o in (query, key, value) if len(o.shape) != 3)
        return
    if key.shape[1] != query.shape[1]:
        yield Size(key, -2, query.shape[1])
        yield Size(query, -2, key.shape[1])
    if isinstance(padding := call.kwargs.get("key_padding_mask"), Operand):
        yield Shape(padding, (key.shape[1], key.shape[0]))
    if isinstance(mask := call.kwargs.get("attn_mask"), Operand):
        yield Shape(mask, (query.shape[0], key.shape[0]))


def _packed(call: Called) -> Iterator[Demand]:
    x, lengths, first = call.args[:3]
    batch, time = (x.shape[0], x.shape[1]) if first else (x.shape[1], x.shape[0])
    if lengths.shape != (batch,):
        yield Shape(lengths, (batch,))
    yield Size(x, -len(x.shape) + (0 if first else 1), lengths.shape[0])
    yield Bound(lengths, time)


def _expanded(call: Called) -> Iterator[Demand]:
    x = call.args[0]
    sizes = [n for n in call.args[1:] if isinstance(n, int)] or list(call.args[-1])
    if len(x.shape) > len(sizes):
        yield Rank(x, len(sizes))
        return
    for k in range(-len(x.shape), 0):
        if call.name == "expand" and sizes[k] not in (-1, x.shape[k]) and x.shape[k] != 1:
            yield Size(x, k, 1)
            yield Size(x, k, sizes[k])


def _interpolated(call: Called) -> Iterator[Demand]:
    size = call.args[1] if len(call.args) > 1 else call.kwargs.get("size")
    if isinstance(size, tuple | list):
        yield Rank(call.args[0], len(size) + 2)


def _permuted(call: Called) -> Iterator[Demand]:
    dims = call.args[1] if len(call.args) == 2 and isinstance(call.args[1], tuple | list) else call.args[1:]
    yield Rank(call.args[0], len(dims))


def _indexed(call: Called) -> Iterator[Demand]:
    x, index = call.args
    if isinstance(index, str):
        yield Field(x, index)
        return
    parts = index if isinstance(index, tuple) else (index,)
    count = sum(1 for part in parts if part is not None and part is not Ellipsis)
    if count > len(x.shape):
        yield Rank(x, count)
    for dim, part in enumerate(parts):
        if isinstance(part, int) and not isinstance(part, bool) and dim < len(x.shape) and part >= x.shape[dim]:
            yield Size(x, dim - len(x.shape), part + 1)


def _one_hot(call: Called) -> Iterator[Demand]:
    classes = call.args[1] if len(call.args) > 1 else call.kwargs.get("num_classes", -1)
    if classes > 0:
        yield Bound(call.args[0], classes)


def _recurrent(module: nn.Module, call: Called) -> Iterator[Demand]:
    x = call.args[0] if call.args else call.kwargs.get("input")
    state = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    if not isinstance(x, Operand) or not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return
    full = 3 if isinstance(module, nn.RNNBase) else 2
    if len(x.shape) not in (full, full - 1):
        if full == 3:
            yield Shape(x, (*(x.shape[:1] or (2,)), LENGTH, module.input_size))
        yield Rank(x, full)
    elif x.shape[-1] != module.input_size:
        yield Size(x, -1, module.input_size)
    if state is None or len(x.shape) != full:
        return
    rows: tuple[int, ...] = (x.shape[0],)
    if isinstance(module, nn.RNNBase):
        rows = (module.num_layers * (2 if module.bidirectional else 1), x.shape[0 if module.batch_first else 1])
    for operand in operands_in(state):
        if operand.shape != (*rows, module.hidden_size):
            yield Shape(operand, (*rows, module.hidden_size))


def operands_in(value: Any) -> Iterator[Operand]:
    """The operands in arguments of a call."""
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from operands_in(item)


def _product_of(numbers: Any) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


_RULES: dict[str, Callable[[Called], Iterator[Demand]]] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "conv_transpose3d": _convolution,
    "batch_norm": _norm,
    "group_norm": _norm,
    "instance_norm": _norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "view": _view,
    "reshape": _view,
    "unflatten": _view,
    "split": _split,
    "split_with_sizes": _split,
    "cat": _cat,
    "concat": _cat,
    "stack": _cat,
    "einsum": _einsum,
    "multi_head_attention_forward": _attention,
    "_pack_padded_sequence": _packed,
    "permute": _permuted,
    "interpolate": _interpolated,
    "expand": _expanded,
    "repeat": _expanded,
    "__getitem__": _indexed,
    "one_hot": _one_hot,
    **dict.fromkeys(("matmul", "mm", "bmm", "spmm", "__matmul__", "__rmatmul__", *_ADDING), _product),
}
