"""The mode that sees every operator while a model is built: it keeps laws, and puts off the values of large tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from gradlint.trace.deferred import FACTORIES, draw, factory_of
from gradlint.trace.initialisers import Initialiser
from gradlint.trace.names import RESHAPES, name_of
from gradlint.trace.private import DispatchMode, is_view_operator, operator_name, storage_key
from gradlint.trace.source import locate, transparent
from gradlint.trace.tags import Tag
from gradlint.trace.tree import map_tensors, tensors_in
from gradlint.trace.writes import LAWFUL, UNWRITTEN, Write, law_after

if TYPE_CHECKING:
    from gradlint.trace.inits import Laws

__all__ = ["Leaks", "Watcher"]

_LEAKS = frozenset(
    "numpy __array__ tolist __dlpack__ apply_ map_ map2_ __deepcopy__ data_ptr storage typed_storage untyped_storage "
    "share_memory_ pin_memory __reduce_ex__".split()
)
"""Methods that show a tensor's memory to what is no torch operator."""


class Watcher(DispatchMode):
    """Keeps ``laws``.

    Args:
        building: values of large tensors are put off, and memory that is handed out is marked as unwritten.
    """

    def __init__(self, laws: Laws, *, building: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._laws = laws
        self._building = building

    @transparent
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._laws.deferred.filling:
            return func(*args, **kwargs)
        name = operator_name(func)
        if self._building:
            made = self._made(name, args, kwargs) if name in FACTORIES else None
            if made is None and self._laws.deferred.over:
                made = self._interpreted(func, name, args, kwargs)
            if made is not None:
                return made
        result = func(*args, **kwargs)
        out = kwargs.get("out")
        written = out if out is not None else args[0] if name.endswith("_") and args else None
        if written is None and name not in LAWFUL and Initialiser.running() is None:
            if self._building:  # new memory, of which nothing is known but the line
                self._noted(args, result, fresh=name == "lift_fresh")
            return result
        if isinstance(written, torch.Tensor):
            self._update(name, args, kwargs, written)
        elif name == "linalg_qr":
            self._laws.write(result[0], self._orthonormal(args[0], result[0]))
        elif name in UNWRITTEN:
            if self._building and result.device.type == "cpu" and result.layout == torch.strided:
                self._update(name, args, kwargs, result.zero_())  # so that nothing depends on what was there
        else:
            for tensor in tensors_in(result):
                if not self._is_view(tensor, args):
                    self._update(name, args, kwargs, tensor)
        return result

    def _made(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        """A large new tensor, its values put off if there are too many."""
        asked = factory_of(args, kwargs, self._laws.deferred.large)
        tensor = None if asked is None else self._laws.deferred.make(*asked)
        if tensor is None:
            return None
        if tensor not in self._laws.deferred:
            FACTORIES[name](tensor, kwargs, args)
        self._update(name, args, kwargs, tensor)
        if self._laws.deferred.exceeded():
            self._laws.put_off()
        return tensor

    def _interpreted(self, func: Callable[..., Any], name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What an operator on tensors without values leaves, by its law alone; None once they have values after all."""
        waiting = [t for t in tensors_in((args, kwargs)) if t in self._laws.deferred]
        if not waiting or is_view_operator(func) or name in RESHAPES or name == "detach_":
            return None
        written = kwargs["out"] if isinstance(kwargs.get("out"), torch.Tensor) else args[0] if name.endswith("_") else None
        done = self._stated(func, name, args, kwargs, written)
        if done is None:
            done = self._in_closed_form(func, name, args, kwargs, written)
        if done is None:
            for tensor in waiting:
                self._laws.fill(tensor)
        return done

    def _stated(
        self, func: Callable[..., Any], name: str, args: Any, kwargs: Mapping[str, Any], written: torch.Tensor | None
    ) -> Any:
        """A step of an initialiser whose end is known: it need not be made."""
        initialiser = Initialiser.running()
        target = None if initialiser is None else initialiser.arguments.get("tensor")
        if initialiser is None or not isinstance(target, torch.Tensor) or target not in self._laws.deferred:
            return None
        tag = initialiser.law(target)
        if tag is None or tag.kind == "identity":
            return None
        if written is not None:
            self._update(name, args, kwargs, written)
            return written
        return map_tensors(_on_meta(func, args, kwargs), self._blank)

    def _in_closed_form(
        self, func: Callable[..., Any], name: str, args: Any, kwargs: Mapping[str, Any], written: torch.Tensor | None
    ) -> torch.Tensor | None:
        """An operator whose result has a law that follows from those of its arguments."""
        laws = self._laws
        if name.removesuffix("_") not in LAWFUL or (
            written is not None and (written not in laws.deferred or not laws.whole(written))
        ):
            return None
        result = written if written is not None else _on_meta(func, args, kwargs)
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return None
        tag = law_after(Write(name.removesuffix("_"), args, kwargs, result, laws.source))
        if tag is None or tag.kind == "identity":
            return None
        if written is None:
            result = self._blank(result)
            if result not in laws.deferred:
                draw(result, tag)
        self._update(name, args, kwargs, result)
        return result

    def _blank(self, like: torch.Tensor) -> torch.Tensor:
        """A tensor like ``like`` in CPU memory, without values if it is large."""
        made = self._laws.deferred.make(like.shape, like.dtype) if like.numel() >= self._laws.deferred.large else None
        return torch.zeros(like.shape, dtype=like.dtype) if made is None else made

    def _update(self, name: str, args: Any, kwargs: Mapping[str, Any], result: torch.Tensor) -> None:
        """Write the new law of ``result``, with the user's line and the initialiser's name."""
        tag = law_after(Write(name.removesuffix("_"), args, kwargs, result, self._laws.source))
        initialiser = Initialiser.running()
        if initialiser is not None:
            tag = initialiser.law(result) or tag
        if tag is None:
            tag = Tag.unknown()
        if name == "_to_copy" and tag.location is not None:  # another dtype, drawn where it was drawn
            tag = replace(tag, draw=tag.draw or self._laws.next_draw(tag))
        elif tag.known or self._laws.knows(result):
            label = "" if initialiser is None else initialiser.label
            tag = replace(tag, location=locate() or tag.location, label=label, draw=tag.draw or self._laws.next_draw(tag))
        self._laws.write(result, tag)

    def _noted(self, args: Any, result: Any, *, fresh: bool) -> None:
        """The values of ``result`` come from here."""
        for tensor in tensors_in(result):
            if tensor.is_floating_point() and (not self._laws.knows(tensor) if fresh else not self._is_view(tensor, args)):
                self._laws.write(tensor, replace(Tag.unknown(), location=locate()), anew=True)

    def _is_view(self, tensor: torch.Tensor, args: Any) -> bool:
        key = storage_key(tensor)
        return any(storage_key(t) == key for t in tensors_in(args))

    def _orthonormal(self, source: torch.Tensor, q: torch.Tensor) -> Tag:
        """The law of the orthonormal factor of a Gaussian matrix: uniform over rotations."""
        drawn = self._laws.common(source)
        if drawn is None or drawn.kind != "normal" or drawn.mean != 0.0:
            return Tag.unknown()
        return Tag("orthogonal", 0.0, 1 / math.sqrt(max(q.shape[-2:])))


class Leaks(TorchFunctionMode):
    """Memory that something else than torch looks at, or may write, has values, and is not known to be unwritten."""

    def __init__(self, laws: Laws) -> None:
        super().__init__()
        self._laws = laws

    @transparent
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if name_of(func) in _LEAKS:
            for tensor in tensors_in(args):
                self._laws.leaked(tensor)
        return func(*args, **(kwargs or {}))


def _on_meta(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What ``func`` returns, without values."""
    on_meta: Any = map_tensors((tuple(args), dict(kwargs)), lambda t: torch.empty_like(t, device="meta"))
    return func(*on_meta[0], **{k: v for k, v in on_meta[1].items() if k != "generator"})
