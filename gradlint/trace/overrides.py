"""Inputs that are described by texts, put where they belong among forward's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradlint.errors import InputError
from gradlint.trace.arguments import HINT, signature_of
from gradlint.trace.guess import vocabulary
from gradlint.trace.leaves import Batch, Key, Leaf

if TYPE_CHECKING:
    from torch import nn

    from gradlint.trace.graph import InputSpec

__all__ = ["placed"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def placed(model: nn.Module, specs: Sequence[InputSpec]) -> tuple[dict[str, Any], frozenset[Key]]:
    """The arguments that specs are for, and where in them: by name, else the next ones by position.

    ``batch.image`` is a field of an argument (by key or as an attribute), ``state.0`` an item of a tuple.

    Raises:
        InputError: forward has no such argument, or not so many.
    """
    signature = signature_of(model)
    kinds = {p.kind for p in signature}
    names = [p.name for p in signature if p.kind not in _VARIADIC]
    values: dict[str, Any] = {}
    keys: list[Key] = []
    for spec in (spec for spec in specs if spec.name):
        name, *inner = spec.name.split(".")
        if name not in names and inspect.Parameter.VAR_KEYWORD not in kinds and not _numbered(name, kinds):
            known = ", ".join(names) or "none"
            raise InputError(f"{type(model).__name__}.forward has no argument {name!r}; it has: {known}", hint=HINT)
        key: Key = (name, *(int(part) if part.isdigit() else part for part in inner))
        values[name] = _inserted(values.get(name), key[1:], _leaf(model, spec))
        keys.append(key)
    free = [name for name in names if name not in values]
    unnamed = [spec for spec in specs if not spec.name]
    if len(unnamed) > len(free) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise InputError(f"{len(specs)} inputs given; {type(model).__name__}.forward takes {len(names)}", hint=HINT)
    free += [f"input_{index}" for index in range(len(unnamed) - len(free))]
    for name, spec in zip(free, unnamed, strict=False):
        values[name] = _leaf(model, spec)
        keys.append((name,))
    return values, frozenset(keys)


def _numbered(name: str, kinds: set[Any]) -> bool:
    return inspect.Parameter.VAR_POSITIONAL in kinds and name.removeprefix("input_").isdigit()


def _leaf(model: nn.Module, spec: InputSpec) -> Leaf:
    leaf = Leaf.of(spec)
    return Leaf(leaf.shape, leaf.dtype, vocabulary(model)) if leaf.kind == "int" and leaf.high is None else leaf


def _inserted(tree: Any, key: Key, leaf: Leaf) -> Any:
    """``tree`` with the leaf at ``key``; what is not there yet is made."""
    if not key:
        return leaf
    first, rest = key[0], key[1:]
    if isinstance(first, int):
        items = list(tree) if isinstance(tree, tuple) else []
        items += [None] * (first + 1 - len(items))
        items[first] = _inserted(items[first], rest, leaf)
        return tuple(items)
    fields = tree if isinstance(tree, Batch) else Batch()
    return Batch({**fields, first: _inserted(fields.get(first), rest, leaf)})
