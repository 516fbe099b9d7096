"""What a call that failed asks of its operands: read from the call where its rule is known, else from torch's message."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from gradlint.trace.demand import Bound, Demand, Kind, Least, Number, Rank, Size
from gradlint.trace.op_demands import by_rule, operands_in
from gradlint.trace.probe import RECURRENT, Called, Operand, Outcome

__all__ = ["demands"]


_LARGEST = 8192  # that is taken for a size

_RANKS = 7  # more dimensions than a tensor has
_NUMBER = re.compile(r"-?\d+")
_INTEGRAL = re.compile(
    r"Long|int64|int32|index tensor|must be long|integer|Int;|dtype int|IndexTensor"
    r"|not implemented for 'Float'|arrays used as indices"
)
_BOOLEAN = re.compile(
    r"boolean mask|bool tensor|expected condition to be a boolean|BoolTensor"
    r"|not implemented for 'Float'"
)
_NEEDS_RANK = re.compile(
    r"xpected \dD \(unbatched\) or (\d)D|xpected (?:input to be )?(?:a )?(\d)-?[Dd]"
    r"|must be a? ?(\d)-?[Dd]|(\d)D tensors? expected"
)
_TEMPLATE = re.compile(r"shape (?:of )?[\[(]((?:\w+, ?){1,6}\w+,?)[\])]")
_ONE_VALUE = re.compile(
    r"only one element tensors|cannot be converted to (a )?(Python )?[Ss]calar|ambiguous|cannot be interpreted as an integer"
)


def demands(outcome: Outcome) -> list[Demand]:
    """What would let the call go on, likely ones first; only of operands that arguments determine."""
    call, error = outcome.call, outcome.error
    if call is None or error is None:
        return []
    text = str(error)
    found = list(_inside(call, text) if outcome.inside else _in_python(call, outcome, error))
    usable = [d for d in found if d.operand.sources] or (
        [] if call.module or call.name in RECURRENT else [d for d in _by_message(call, text) if d.operand.sources]
    )
    return list(dict.fromkeys(usable))


def _inside(call: Called, text: str) -> Iterator[Demand]:
    yield from _kinds(call, text)
    with suppress(IndexError, KeyError, TypeError, AttributeError):  # a rule knows the usual ways to call, not all of them
        yield from by_rule(call)
    yield from _dimensions(call, text)
    if found := re.search(r"Given input size: \((.*?)\). Calculated output size: \((.*?)\)", text):
        output = [int(n) for n in found[2].split("x")]
        yield from (Least(call.operands[0], k - len(output), 2) for k, n in enumerate(output) if n < 1)


def _kinds(call: Called, text: str) -> Iterator[Demand]:
    """Of what type the operands should be."""
    if _INTEGRAL.search(text):
        indices = [o for o in call.operands if (o.dtype.is_floating_point or o.dtype == torch.bool) and o.sources]
        if call.name == "embedding":
            indices = indices[:1]
        elif call.name == "__getitem__":
            indices = [o for o in operands_in(call.args[1:]) if o.dtype.is_floating_point]
        yield from (Kind(o, "int") for o in reversed(indices))
    if _BOOLEAN.search(text):
        yield from (Kind(o, "bool") for o in call.operands[1:] if o.dtype != torch.bool)
        yield from (Kind(o, "bool") for o in call.operands[:1] if o.dtype != torch.bool)
    if "floating point or complex" in text or "only floating" in text.lower():
        yield from (Kind(o, "float") for o in call.operands if not o.dtype.is_floating_point)
    weights = any(o.dtype.is_floating_point and not o.sources for o in call.operands)
    if weights and call.name != "embedding":
        integral = [o for o in call.operands if not (o.dtype.is_floating_point or o.dtype.is_complex)]
        if re.search(r"dtype|[Ii]nput type|expected scalar type|same type", text):
            yield from (Kind(o, "float") for o in integral)
    if re.search(r"index out of range in self|out of (bounds|range)|smaller than num_classes", text):
        numbers = [int(n) for n in _NUMBER.findall(text)]
        for operand in call.operands:
            if operand.sources and operand.dtype in (torch.int64, torch.int32):
                if call.name == "embedding":
                    yield Bound(operand, call.args[1].shape[0])
                elif numbers and "dimension specified" not in text and "Dimension out of range" not in text:
                    yield Bound(operand, max(numbers[-1] if "size" in text else max(numbers), 1))
    if _ONE_VALUE.search(text):
        yield from (Number(o) for o in call.operands[:1])


def _in_python(call: Called, outcome: Outcome, error: Exception) -> Iterator[Demand]:
    """Python code refused something that the last call told it."""
    text = str(error)
    x = next(iter(call.operands), None)
    if x is None:
        return
    if outcome.asserted is not None:
        yield from _asserted(x, *outcome.asserted)
    if found := re.search(r"values to unpack \(expected (\d+)", text):
        if call.name in ("size", "shape.get"):
            yield Rank(x, int(found[1]))
        else:
            yield from _unpacked(call, x, int(found[1]))
    elif isinstance(error, IndexError) and call.name in ("size", "shape.get"):
        yield Rank(x, len(x.shape) + 1)
    elif found := _TEMPLATE.search(text):
        yield from _spelt(call, found[1])
    elif _ONE_VALUE.search(text) or isinstance(error, TypeError):
        yield Number(x)


def _spelt(call: Called, template: str) -> Iterator[Demand]:
    """The message spells a shape out, some sizes as numbers: ``(batch_size, 2, height, width)``."""
    sizes = [part.strip() for part in template.split(",") if part.strip()]
    for x in call.operands:
        if len(x.shape) != len(sizes):
            yield Rank(x, len(sizes))
        else:
            yield from (
                Size(x, k - len(sizes), int(size)) for k, size in enumerate(sizes) if size.isdigit() and int(size) != x.shape[k]
            )


def _asserted(x: Operand, have: Any, wanted: Any) -> Iterator[Demand]:
    """Something about the shape was asserted to equal something else."""
    for one, other in ((have, wanted), (wanted, have)):
        if isinstance(one, torch.Size) and isinstance(other, tuple | list):
            if len(one) != len(other):
                yield Rank(x, len(x.shape) + len(other) - len(one))
            elif tuple(one) == x.shape[len(x.shape) - len(one) :]:
                wrong = [(k - len(one), size) for k, size in enumerate(other) if size != one[k] and isinstance(size, int)]
                yield from (Size(x, dim, size) for dim, size in wrong)
    if isinstance(have, int) and isinstance(wanted, int):
        if have == len(x.shape) and wanted < _RANKS:
            yield Rank(x, wanted)
        yield from (Size(x, k - len(x.shape), wanted) for k, size in enumerate(x.shape) if size == have)


def _unpacked(call: Called, x: Operand, count: int) -> Iterator[Demand]:
    dim = call.kwargs.get("dim", next((n for n in reversed(call.args[1:]) if isinstance(n, int)), 0))
    if x.shape:
        yield Size(x, dim if dim < 0 else dim - len(x.shape), count)


def _dimensions(call: Called, text: str) -> Iterator[Demand]:
    """A dimension that is not there."""
    if found := re.search(r"Dimension out of range .*but got (-?\d+)", text):
        dim = int(found[1])
        yield from (Rank(o, dim + 1 if dim >= 0 else -dim) for o in call.operands[:1])
    if found := _NEEDS_RANK.search(text):
        rank = int(next(digit for digit in found.groups() if digit))
        yield from (Rank(o, rank) for o in call.operands if len(o.shape) != rank)
    if found := re.search(r"supposed to be a vector|1D tensor|must be 1-?D|should be a 1D", text):
        yield from (Rank(o, 1) for o in call.operands if len(o.shape) != 1 and not o.dtype.is_floating_point)
        yield from (Rank(o, 1) for o in call.operands if len(o.shape) != 1)
    if not call.module and call.name not in RECURRENT:
        yield from _broadcast(call)


def _broadcast(call: Called) -> Iterator[Demand]:
    """Operands that do not broadcast: either may follow the other."""
    for a, b in itertools.combinations(call.operands, 2):
        for k in range(-min(len(a.shape), len(b.shape)), 0):
            if a.shape[k] != b.shape[k] and 1 not in (a.shape[k], b.shape[k]):
                yield Size(b, k, a.shape[k])
                yield Size(a, k, b.shape[k])


def _by_message(call: Called, text: str) -> Iterator[Demand]:
    """Sizes that the message names: one that an operand has may have to be another."""
    numbers = list(dict.fromkeys(int(n) for n in _NUMBER.findall(text) if 0 < int(n) <= _LARGEST))
    for operand in call.operands:
        for k in range(-len(operand.shape), 0):
            if operand.shape[k] in numbers:
                yield from (Size(operand, k, n) for n in numbers if n != operand.shape[k])
