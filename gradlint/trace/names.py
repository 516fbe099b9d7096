"""What a torch call is called in the graph: plain names, no in-place variants, no reflected operators."""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CONCATENATIONS",
    "CONSTANT_FILLS",
    "CONVOLUTIONS",
    "ESCAPES",
    "FACTS",
    "NORMS",
    "PRODUCTS",
    "RESHAPES",
    "SHAPE_ONLY",
    "TENSOR_PROPERTIES",
    "UNTOUCHED",
    "Call",
    "is_basic_index",
    "name_of",
    "normalise",
    "writes_first",
]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHAPE_ONLY = _set(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like "
    "new_zeros new_ones new_full new_empty new_tensor new_empty_strided"
)
"""Functions that use only the shape and dtype of their tensor: what they return does not depend on it."""

LENDING = _set("type_as expand_as view_as reshape_as to")
"""Functions that use only the shape, dtype or device of the tensors behind the first."""

ESCAPES = _set("__bool__ __float__ __int__ __index__ __complex__ item tolist numpy __array__ equal allclose is_nonzero")
"""Methods by which a value leaves torch: what Python does with it is seen for this one run only."""

FACTS = _set(
    "size dim numel nelement ndimension stride storage_offset is_contiguous is_floating_point is_complex is_signed "
    "element_size get_device data_ptr untyped_storage storage has_names __len__ __hash__ __repr__ __format__ _is_view "
    "is_inference is_leaf retain_grad register_hook register_post_accumulate_grad_hook backward is_tensor is_same_size "
    "result_type __reduce_ex__ is_shared is_pinned is_set_to"
)
"""Functions that tell about a tensor what does not depend on its values."""

TENSOR_PROPERTIES = _set("T.get H.get mT.get mH.get data.get real.get imag.get")
"""The properties of a tensor that are tensors made of it."""

CONSTANT_FILLS = _set(
    "fill_ zero_ zeros_ ones_ constant_ normal_ uniform_ bernoulli_ random_ exponential_ geometric_ cauchy_ "
    "log_normal_ trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_"
)
"""In-place calls that overwrite all that was there before."""

RESHAPES = _set("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ as_strided_ resize_ resize_as_")
"""In-place calls that change which view of its memory a tensor is."""

UNTOUCHED = _set("requires_grad_ share_memory_ rename_")
"""Calls that are named like in-place ones and change no value."""

CONCATENATIONS = _set("cat concat concatenate")

NORMS = _set("layer_norm rms_norm batch_norm group_norm instance_norm normalize")
"""Functions whose output does not depend on the scale of their input."""

CONVOLUTIONS = _set("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")

PRODUCTS = _set("matmul mm bmm baddbmm einsum")
"""Contractions of two tensors, either of which may be a weight."""

_METHODS = {
    "__abs__": "abs",
    "__add__": "add",
    "__and__": "bitwise_and",
    "__div__": "div",
    "__eq__": "eq",
    "__floordiv__": "floor_divide",
    "__ge__": "ge",
    "__gt__": "gt",
    "__invert__": "bitwise_not",
    "__le__": "le",
    "__lshift__": "bitwise_left_shift",
    "__lt__": "lt",
    "__matmul__": "matmul",
    "__mod__": "remainder",
    "__mul__": "mul",
    "__ne__": "ne",
    "__neg__": "neg",
    "__or__": "bitwise_or",
    "__pos__": "positive",
    "__pow__": "pow",
    "__radd__": "add",
    "__rand__": "bitwise_and",
    "__rmul__": "mul",
    "__ror__": "bitwise_or",
    "__rshift__": "bitwise_right_shift",
    "__rxor__": "bitwise_xor",
    "__sub__": "sub",
    "__truediv__": "div",
    "__xor__": "bitwise_xor",
    "absolute": "abs",
    "divide": "div",
    "multiply": "mul",
    "negative": "neg",
    "subtract": "sub",
    "true_divide": "div",
}

_IN_PLACE = {
    "__iadd__": "add",
    "__iand__": "bitwise_and",
    "__idiv__": "div",
    "__ifloordiv__": "floor_divide",
    "__ilshift__": "bitwise_left_shift",
    "__imod__": "remainder",
    "__imul__": "mul",
    "__ior__": "bitwise_or",
    "__ipow__": "pow",
    "__irshift__": "bitwise_right_shift",
    "__isub__": "sub",
    "__itruediv__": "div",
    "__ixor__": "bitwise_xor",
}

_REFLECTED: dict[str, Callable[[Any, Any], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "__rsub__": lambda x, other: (torch.rsub, (x, other)),
    "__rdiv__": lambda x, other: (operator.truediv, (other, x)),
    "__rtruediv__": lambda x, other: (operator.truediv, (other, x)),
    "__rpow__": lambda x, other: (torch.pow, (other, x)),
    "__rmod__": lambda x, other: (operator.mod, (other, x)),
    "__rfloordiv__": lambda x, other: (operator.floordiv, (other, x)),
    "__rmatmul__": lambda x, other: (torch.matmul, (other, x)),
    "__getitem__": lambda x, index: (operator.getitem, (x, index)),
}


@dataclass(frozen=True)
class Call:
    """A call as the graph has it: ``op`` is ``call_function`` or ``call_method``."""

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def name_of(func: Callable[..., Any]) -> str:
    """``add_``, ``linear``; for a property of a tensor its own name with ``.get`` or ``.set``: ``mT.get``."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        return f"{func.__self__.__name__}.{name.strip('_')}"  # type: ignore[attr-defined]
    return str(name)


def writes_first(name: str) -> bool:
    """A function of this name writes its first argument by torch's naming convention."""
    return name == "__setitem__" or name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def normalise(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call as the graph has it, out of place and without the empty tensors of a concatenation."""
    name = name_of(func)
    kwargs = {key: value for key, value in kwargs.items() if key != "out"}
    if name in CONCATENATIONS and args and isinstance(args[0], tuple | list):
        # An empty key cache, or no dimension left beside the rotated ones: nothing is put there.
        parts = [t for t in args[0] if not (isinstance(t, torch.Tensor) and t.numel() == 0)]
        return Call("call_function", func, (parts or list(args[0]), *args[1:]), kwargs)
    if name in ("max", "min") and len(args) == 2 and isinstance(args[1], torch.Tensor):
        return Call("call_function", getattr(torch, f"{name}imum"), args, kwargs)
    if name in _REFLECTED and len(args) == 2:
        target, args = _REFLECTED[name](*args)
        return Call("call_function", target, args, kwargs)
    if name.endswith(".get"):
        return _property(name[: -len(".get")], args[0])
    if _is_method(func):
        return Call("call_method", _plain(name), args, kwargs)
    args, kwargs = _without_inplace(func, args, kwargs)
    if writes_first(name):
        return Call("call_function", _functional(func, name), args, kwargs)
    return Call("call_function", func, args, kwargs)


def is_basic_index(index: Any) -> bool:
    """Indexing with ``index`` makes a view."""
    return all(
        i is None or i is Ellipsis or isinstance(i, slice) or (isinstance(i, int) and not isinstance(i, bool))
        for i in (index if isinstance(index, tuple) else (index,))
    )


def _functional(func: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The out-of-place function of an in-place one: ``torch.relu`` of ``torch.relu_`` (``func`` itself if none)."""
    places = (F, torch) if getattr(func, "__module__", "").startswith("torch.nn") else (torch, F)
    for place in (*places, torch.special):
        found = getattr(place, name.rstrip("_"), None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    return func


def _plain(name: str) -> str:
    if name in _IN_PLACE:
        return _IN_PLACE[name]
    plain = name[:-1] if writes_first(name) else name
    return _METHODS.get(plain, plain)


def _is_method(func: Callable[..., Any]) -> bool:
    return type(func).__name__ in ("method_descriptor", "wrapper_descriptor") or (
        getattr(func, "__module__", None) == "torch._tensor" and getattr(func, "__qualname__", "").startswith("Tensor.")
    )


def _property(name: str, tensor: torch.Tensor) -> Call:
    ndim = tensor.dim()
    if name in ("T", "H"):
        if ndim == 2:
            return Call("call_method", "transpose", (tensor, 0, 1), {})
        return Call("call_method", "permute", (tensor, *reversed(range(ndim))), {})
    if name in ("mT", "mH"):
        return Call("call_method", "transpose", (tensor, -2, -1), {})
    if name == "data":
        return Call("call_method", "detach", (tensor,), {})
    return Call("call_function", getattr(torch, name, getattr), (tensor,) if hasattr(torch, name) else (tensor, name), {})


def _without_inplace(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if "inplace" in kwargs:
        return args, {key: value for key, value in kwargs.items() if key != "inplace"}
    if not any(arg is True for arg in args):
        return args, kwargs
    try:
        names = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):  # builtins have no signature, and no inplace argument
        return args, kwargs
    if "inplace" not in names[: len(args)]:
        return args, kwargs
    index = names.index("inplace")
    return (*args[:index], False, *args[index + 1 :]), kwargs
