"""One-sided rules: the table of ``f(a)`` and b from that of a and b.

Exact where f is linear in a; for a function of a Gaussian tensor by Stein's lemma, ``cov(φ(u), b) = E[φ'] cov(u, b)``
(Stein 1981), for a norm by its fixed denominator. ``f`` may be an op, or an op's backward acting on a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from gradlint.covary.ledger import Ledger, Record
from gradlint.handwritten import Norm
from gradlint.moments import Moments, averaged, weighted
from gradlint.ops.pool import average_windows
from gradlint.trace.graph import step

__all__ = ["Moves", "gradient_moves", "value_moves"]

Map = Callable[[Moments], Moments]

NORMS = {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "unit_norm"}
_POOLS = {"avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3}
_SAME = {"dropout", "dropout1d", "dropout2d", "dropout3d", "identity"}


@dataclass(frozen=True)
class Moves:
    """A tensor as a sum of functions of others: each with what its function does to a table.

    Args:
        exact: the functions are linear.
    """

    terms: tuple[tuple[fx.Node, Map], ...]
    exact: bool = True


def _times(factor: float) -> Map:
    return lambda c: weighted(c, factor)


def value_moves(ledger: Ledger, node: fx.Node) -> Moves | None:
    """The output of a call in terms of its inputs; None if no rule says."""
    norm = ledger.norms.get(node)
    if norm is not None:
        act = _handwritten(ledger, norm)
        return None if act is None else Moves(((norm.root, act),), exact=False)
    root = ledger.root(node)
    if root is not None:
        curve = ledger.curve(node)
        return Moves(((root, _times(curve.regression)),), curve.affine)
    record = ledger.records.get(node)
    if record is None:
        return None
    factors = _factors(record)
    if factors is not None:
        return Moves(tuple((n, _times(f)) for slot, f in factors.items() if f and (n := record.node(record.handles[slot]))))
    if record.name in NORMS:
        source = record.node(record.handles[0])
        act = _norm(record)
        return None if source is None or act is None else Moves(((source, act),), exact=False)
    if record.name in _POOLS:
        source, act = record.node(record.handles[0]), _pooled(record, step(node).shape or ())
        return None if source is None or act is None else Moves(((source, act),))
    reduced = _reduced(ledger, node)
    if reduced is not None:
        source, dims, factor = reduced
        return Moves(((source, lambda c: weighted(averaged(c, dims), factor)),))
    if record.name in ("expand", "reshape") and (source := record.node(record.handles[0])) is not None:
        return Moves(((source, _times(1.0)),)) if record.name == "expand" or _pads(source, node) else None
    return None


def gradient_moves(ledger: Ledger, node: fx.Node, slot: int, target: fx.Node) -> Moves | None:
    """What a call sends back to ``target`` in terms of gradients of outputs, its own (or those of a view of it)."""
    norm = ledger.norms.get(node)
    if norm is not None:
        act = _handwritten(ledger, norm)
        return None if act is None else Moves(((node, act),), exact=False)
    if ledger.root(node) is not None:
        curve = ledger.curve(node)
        return Moves(((node, _times(curve.slope)),), curve.affine)
    record = ledger.records.get(node)
    if record is None:
        return None
    factors = _factors(record)
    shape = step(target).shape or ()
    if factors is not None:
        factor = factors.get(slot, 0.0)
        return Moves(((node, lambda c: weighted(_folded(c, shape), factor)),) if factor else ())
    if record.name in NORMS and slot == 0:
        act = _norm(record)
        return None if act is None else Moves(((node, act),), exact=False)
    if record.name in _POOLS:
        act = _pooled(record, step(node).shape or ())
        return None if act is None else Moves(((node, act),))
    if record.name in ("sum", "mean"):
        share = 1.0 if record.name == "sum" else math.prod(step(node).shape or ()) / math.prod(shape)
        kept = _kept(record)
        if step(node).shape == kept:
            return Moves(((node, _times(share)),))
        views = [n for n in node.users if n in ledger.records]
        if len(views) == len(node.users) and all(step(n).shape == kept for n in views):
            return Moves(tuple((n, _times(share)) for n in views))
        return None
    if record.name == "expand" or (record.name == "reshape" and _pads(target, node)):
        return Moves(((node, lambda c: _folded(c, shape)),))
    return None


def _factors(record: Record) -> dict[int, float] | None:
    """The mean derivative of the output by each input, for sums and products entry by entry; None for another op."""
    args, slots = record.args, {h: i for i, h in enumerate(record.handles)}
    alpha = float(record.kwargs.get("alpha", 1))
    if record.name in _SAME:
        return {0: 1.0}
    if record.name == "neg":
        return {0: -1.0}
    if record.name not in ("add", "sub", "rsub", "mul", "div") or len(args) < 2:
        return None
    x, y = args[:2]
    if record.name in ("add", "sub", "rsub"):
        first, second = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-1.0, 1.0)}[record.name]
    elif record.name == "mul":
        first, second = _mean(y), _mean(x)
    elif _mean(y):
        first, second = 1 / _mean(y), -_mean(x) / _mean(y) ** 2
    else:
        return None
    return {slots[h]: f for h, f in ((x, first), (y, second)) if h in slots} if _tensors(x, y) else None


def _tensors(*args: Any) -> bool:
    return all(isinstance(a, Moments | int | float) for a in args)


def _mean(x: Any) -> float:
    return x.mean if isinstance(x, Moments) else float(x)


def _folded(c: Moments, shape: Sequence[int]) -> Moments:
    """Sum the first tensor down to ``shape``: the adjoint of broadcasting."""
    lead = len(c.dims) - len(shape)
    gone = [d for d, n in enumerate(c.shape) if n > 1 and (d < lead or shape[d - lead] == 1)]
    return weighted(averaged(c, gone), math.prod(c.shape[d] for d in gone)) if gone else c


def _norm(record: Record) -> Map | None:
    """Centring and division by the standard deviation, times the mean of the scale."""
    x = record.handles[0]
    rank = len(x.dims)
    given = {**dict(zip(_ARGUMENTS[record.name], record.args, strict=False)), **record.kwargs}
    centred, split = record.name not in ("rms_norm", "unit_norm"), x.shape
    if record.name in ("layer_norm", "rms_norm"):
        dims = list(range(rank - len(given["normalized_shape"]), rank))
    elif record.name == "batch_norm":
        if not given.get("training") and given.get("running_var") is not None:
            return None
        dims = [d for d in range(rank) if d != 1]
    elif record.name == "unit_norm":
        dim = given.get("dim", 1)
        dims = [dim] if isinstance(dim, int) else list(dim)
    else:
        groups = given["num_groups"] if record.name == "group_norm" else x.shape[1]
        split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        dims = list(range(2, len(split)))
    eps = 0.0 if record.name == "unit_norm" else given.get("eps") or 0.0
    weight = given.get("weight")
    factor = weight.mean if isinstance(weight, Moments) else 1.0
    if record.name == "unit_norm":
        factor /= math.sqrt(math.prod(x.shape[d % rank] for d in dims))
    return _scaled(x, split, dims, centred=centred, eps=eps, factor=factor)


def _handwritten(ledger: Ledger, norm: Norm) -> Map | None:
    x = ledger.values[norm.root]
    if not isinstance(x, Moments):
        return None
    return _scaled(x, x.shape, norm.dims, centred=norm.centred, eps=norm.eps, factor=norm.factor)


def _scaled(x: Moments, split: Sequence[int], dims: Sequence[int], *, centred: bool, eps: float, factor: float) -> Map | None:
    """Over ``dims`` of ``x`` in the shape ``split``: centred if asked for, divided by what the norm of ``x`` divides by."""
    y = x.reshape(split)
    power = (y.centre(dims) if centred else y).q + eps
    if power <= 0:
        return None
    factor /= math.sqrt(power)

    def act(c: Moments) -> Moments:
        if not centred:
            return weighted(c, factor)
        if tuple(split) != x.shape:
            c = c.reshape(split)
        c = weighted(Moments(c.dims, 0.0, c.centre(dims).v), factor)
        return c if tuple(split) == x.shape else c.reshape(x.shape)

    return act


def _pooled(record: Record, out: Sequence[int]) -> Map | None:
    """An average pooling that keeps the shape, and likewise its adjoint: a window along each axis."""
    x, n = record.handles[0], _POOLS[record.name]
    if x.shape != tuple(out):
        return None
    windows, factor = average_windows(x.shape[-n:], out[-n:], *record.args[1:], **record.kwargs)

    def act(c: Moments) -> Moments:
        for i, window in enumerate(windows):
            c = window.against(c, len(c.dims) - n + i)
        return weighted(c, factor)

    return act


_RUNNING = ("input", "running_mean", "running_var", "weight", "bias")
_ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "batch_norm": (*_RUNNING, "training", "momentum", "eps"),
    "instance_norm": (*_RUNNING, "use_input_stats", "momentum", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "unit_norm": ("input", "p", "dim", "eps"),
}


def _reduced(ledger: Ledger, node: fx.Node) -> tuple[fx.Node, list[int], float] | None:
    """(tensor, axes, factor) if the node is a mean or a sum with its axes kept, perhaps by a view that puts them back."""
    record = ledger.records[node]
    if record.name in ("reshape", "getitem"):
        source = record.node(record.handles[0])
        inner = None if source is None else ledger.records.get(source)
        if inner is None or inner.name not in ("sum", "mean"):
            return None
        record = inner
    if record.name not in ("sum", "mean") or (source := record.node(record.handles[0])) is None:
        return None
    if step(node).shape != _kept(record):
        return None
    dims = _reduced_dims(record)
    count = math.prod(record.handles[0].shape[d] for d in dims)
    return source, dims, float(count if record.name == "sum" else 1)


def _reduced_dims(record: Record) -> list[int]:
    rank = len(record.handles[0].dims)
    dim = record.args[1] if len(record.args) > 1 else record.kwargs.get("dim")
    if dim is None:
        return list(range(rank))
    return [d % rank for d in ([dim] if isinstance(dim, int) else dim)]


def _kept(record: Record) -> tuple[int, ...]:
    """Shape of a sum or mean with its axes kept."""
    dims = _reduced_dims(record)
    return tuple(1 if d in dims else n for d, n in enumerate(record.handles[0].shape))


def _pads(first: fx.Node, second: fx.Node) -> bool:
    """The shapes differ by leading axes of size 1 only: they broadcast alike."""
    a, b = sorted((step(n).shape or () for n in (first, second)), key=len)
    lead = len(b) - len(a)
    return b[lead:] == a and all(n == 1 for n in b[:lead])
