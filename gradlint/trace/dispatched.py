"""What no function mode sees: torch calls made below Python (scripted modules) or inside ``torch.func`` transforms.

Torch's dispatcher sees them, as aten operators. They are recorded there, by the functions that they stand for; values are
exact, module paths end at the module that entered the compiled code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradlint.trace.private import DispatchMode, is_functorch_wrapped, operator_name
from gradlint.trace.source import transparent
from gradlint.trace.tree import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradlint.trace.recorder import Recorder

__all__ = ["Dispatched"]

_UNWRITTEN = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_FACTS = frozenset({"is_same_size", "sym_size", "_local_scalar_dense", "_has_compatible_shallow_copy_type"})


class Dispatched(DispatchMode):
    """Records operators that run while the function mode handles no call.

    Args:
        recorder: the function mode; entered after this one.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    @transparent
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        recorder = self._recorder
        name = operator_name(func)
        if name in _UNWRITTEN:  # what happened to be in that memory must not become a value of the graph
            made = func(*args, **kwargs)
            return recorder.run(made.zero_) if made.layout == torch.strided else made
        if recorder.handling or recorder.busy:
            return func(*args, **kwargs)
        tensors = list(tensors_in((args, kwargs)))
        if name in _FACTS or any(map(is_functorch_wrapped, tensors)) or not any(map(recorder.nodes.live, tensors)):
            if name == "_local_scalar_dense" and any(map(recorder.nodes.live, tensors)):
                recorder.escaped("item")
            return recorder.run(func, *args, **kwargs)
        return recorder.run(recorder.operator, func, name, args, kwargs)
