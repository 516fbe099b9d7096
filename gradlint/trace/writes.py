"""What one aten operator does to the law of the memory it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gradlint.trace.tags import Tag, erfinv_of_uniform

__all__ = ["LAWFUL", "UNWRITTEN", "Write", "law_after"]


UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Operators that hand out memory as it is."""


@dataclass(frozen=True)
class Write:
    """One operator that made or overwrote ``result``.

    Args:
        name: of the operator, without the underscore of its in-place form.
        known: the one law of all entries of a tensor, if it has one.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: torch.Tensor
    known: Callable[[torch.Tensor], Tag | None]

    def argument(self, index: int, name: str, default: float | None = None) -> float | None:
        """A number given by position or by name; None if it is no single number."""
        value = self.args[index] if len(self.args) > index else self.kwargs.get(name, default)
        return _number(value)

    @property
    def source(self) -> Tag | None:
        """The law of the first argument."""
        first = self.args[0] if self.args else None
        return self.known(first) if isinstance(first, torch.Tensor) else None


def law_after(write: Write) -> Tag | None:
    """The law of ``write.result`` now; None if it has no closed form."""
    rule = _RULES.get(write.name)
    return None if rule is None else rule(write)


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        single = value.dim() == 0 and not value.is_complex() and not value.is_meta
        return float(value.detach()) if single else None
    return float(value) if isinstance(value, int | float) else None


def _filled(w: Write) -> Tag | None:
    value = w.argument(0 if w.name == "scalar_tensor" else 1, "fill_value", w.kwargs.get("value"))
    return Tag.constant(value) if value is not None and w.result.is_floating_point() else None


def _normal(w: Write) -> Tag | None:
    first = 0 if w.args and not isinstance(w.args[0], torch.Tensor) else 1  # normal(0.0, 1.0, size) and x.normal_(0.0, 1.0)
    if w.name == "normal_functional" or any(isinstance(a, torch.Tensor) and a is not w.result for a in w.args):
        return None
    mean, std = w.argument(first, "mean", 0.0), w.argument(first + 1, "std", 1.0)
    return None if mean is None or std is None else Tag.normal(mean, std)


def _uniform(w: Write) -> Tag | None:
    low, high = w.argument(1, "from", 0.0), w.argument(2, "to", 1.0)
    return None if low is None or high is None else Tag.uniform(low, high)


def _bernoulli(w: Write) -> Tag | None:
    p = w.argument(1, "p")
    if p is None and (drawn := w.source) is not None and drawn.kind == "constant":
        p = drawn.mean
    return None if p is None or not 0 <= p <= 1 else Tag.bernoulli(p)


def _compared(w: Write) -> Tag | None:
    """``torch.rand(...) < p``: a coin."""
    drawn, bound = w.source, w.argument(1, "other")
    if drawn is None or drawn.kind != "uniform" or bound is None:
        return None
    below = min(max((bound - drawn.low) / (drawn.high - drawn.low), 0.0), 1.0)
    return Tag.bernoulli(below if w.name in ("lt", "le") else 1 - below)


def _floored(w: Write) -> Tag | None:
    """``(p + torch.rand(...)).floor()``: a coin, too."""
    drawn = w.source
    if drawn is None or drawn.kind != "uniform" or not (0 <= drawn.low < 1 <= drawn.high <= 2):
        return None
    return Tag.bernoulli((drawn.high - 1) / (drawn.high - drawn.low))


def _copied(w: Write) -> Tag | None:
    source = w.args[1] if w.name == "copy" else w.args[0]
    tag = w.known(source) if isinstance(source, torch.Tensor) else None
    if tag is None or tag.std == 0.0:
        return tag
    return tag if source.numel() == w.result.numel() else None  # a row that is repeated is no array of independent entries


def _affine(w: Write) -> Tag | None:
    x, other = w.args[0], w.args[1] if len(w.args) > 1 else None
    value = _number(other)
    if value is None and w.name in ("mul", "add") and isinstance(other, torch.Tensor):
        x, other, value = other, x, _number(x)
    tag = w.known(x) if isinstance(x, torch.Tensor) else None
    if tag is None:
        return None
    if value is None:
        # Orthogonal columns times signs (what nn.init.orthogonal_ does) are as orthogonal as before.
        return _times_signs(w)
    alpha = float(w.kwargs.get("alpha", 1))
    scale, shift = {
        "mul": (value, 0.0),
        "div": (1 / value if value else math.nan, 0.0),
        "add": (1.0, alpha * value),
        "sub": (1.0, -alpha * value),
        "rsub": (-alpha, value),
    }[w.name]
    if not math.isfinite(scale) or w.kwargs.get("rounding_mode") is not None:
        return None
    return tag.affine(scale, shift)


def _times_signs(w: Write) -> Tag | None:
    tag, other = w.source, w.args[1]
    rotated = tag is not None and tag.kind == "orthogonal" and w.name == "mul" and isinstance(other, torch.Tensor)
    return tag if rotated and bool((other.abs() == 1).all()) else None


def _erfinv(w: Write) -> Tag | None:
    drawn = w.source
    if drawn is None or drawn.kind != "uniform" or not -1 <= drawn.low < drawn.high <= 1:
        return None
    return erfinv_of_uniform(drawn.low, drawn.high)


def _clamped(w: Write) -> Tag | None:
    """Clamping to bounds that the law keeps anyway changes nothing."""
    tag = w.source
    if tag is None or tag.kind == "uninitialised":
        return tag
    low, high = w.argument(1, "min"), w.argument(2, "max")
    slack = 1e-6 * (tag.std + abs(tag.mean))
    kept = (low is None or low <= tag.low + slack) and (high is None or high >= tag.high - slack)
    return replace(tag, label="") if kept else None


_Rule = Callable[[Write], Tag | None]

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("zero", "zeros", "zeros_like", "new_zeros"), lambda _: Tag.constant(0.0)),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), lambda _: Tag.constant(1.0)),
    **dict.fromkeys(("fill", "full_like", "scalar_tensor"), _filled),
    **dict.fromkeys(("rand", "rand_like"), lambda _: Tag.uniform(0.0, 1.0)),
    **dict.fromkeys(("randn", "randn_like"), lambda _: Tag.normal(0.0, 1.0)),
    **dict.fromkeys(("copy", "clone", "_to_copy", "contiguous", "lift_fresh_copy", "detach_copy", "alias_copy"), _copied),
    **dict.fromkeys(("mul", "div", "add", "sub", "rsub"), _affine),
    **dict.fromkeys(("lt", "le", "gt", "ge"), _compared),
    "full": _filled,
    "new_full": lambda w: _filled(replace(w, args=w.args[1:])),
    "normal": _normal,
    "uniform": _uniform,
    "bernoulli": _bernoulli,
    "floor": _floored,
    "erfinv": _erfinv,
    "clamp": _clamped,
    "eye": lambda w: Tag("identity", 1 / max(w.result.shape[-1], 1), 0.0),
    **dict.fromkeys(UNWRITTEN, lambda w: Tag.uninitialised() if w.result.is_floating_point() else None),
    "neg": lambda w: None if w.source is None else w.source.affine(-1.0),
}

LAWFUL = frozenset({*_RULES, "linalg_qr"})
"""Operators whose result may have a law."""
