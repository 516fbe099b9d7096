"""Two calls of one function, with equal weights, are one call on a pair.

A multilinear op acts on the table of its inputs as on a law of their own (weights enter with the table of a weight with its
copy: their own law); its backward on the table of the two gradients likewise, and what that gives a weight is the table of
its two gradients. Any other op sees the pair as two samples of one batch: weights are shared by samples, so that what two
samples have in common behind the op is what two calls have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from gradlint.covary.ledger import Ledger, Record
from gradlint.covary.maps import folded
from gradlint.moments import Moments, joint, of_joint, of_paired, paired
from gradlint.ops import Flow

__all__ = ["Pair", "is_multilinear", "sample_axis"]

Tables = tuple[Moments | None, ...]

_MULTILINEAR = frozenset(
    """
    linear matmul addmm baddbmm einsum_call bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    mul neg sum mean cumsum diff where masked_fill avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d interpolate fold unfold
    reshape permute transpose matrix_transpose movedim expand repeat repeat_interleave narrow select getitem index_select chunk
    split unbind cat stack reorder rot90 pad pixel_shuffle pixel_unshuffle channel_shuffle select_scatter slice_scatter setitem
    gather take tril triu diag diagonal
    """.split()  # noqa: SIM905 (a list of names reads better as a text)
)
_SAMPLES_FIRST = frozenset(
    """
    layer_norm rms_norm group_norm instance_norm unit_norm softmax log_softmax scaled_dot_product_attention max_pool1d max_pool2d
    max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d glu prelu
    """.split()  # noqa: SIM905
)


def is_multilinear(name: str) -> bool:
    """The op is linear in each of its tensors."""
    return name in _MULTILINEAR


def sample_axis(record: Record) -> int | None:
    """The axis along which the op treats every sample alike; None where there is none."""
    if record.name == "multi_head_attention_forward":
        return 1
    if record.name not in _SAMPLES_FIRST or not record.handles[0].dims:
        return None
    rank = len(record.handles[0].dims)
    if record.name in ("softmax", "log_softmax", "unit_norm", "glu"):
        at = 2 if record.name == "unit_norm" else 1
        dim = record.args[at] if len(record.args) > at else record.kwargs.get("dim", 1 if record.name == "unit_norm" else -1)
        return None if dim is None or not isinstance(dim, int) or dim % rank == 0 else 0
    if record.name in ("layer_norm", "rms_norm"):
        given = record.args[1] if len(record.args) > 1 else record.kwargs["normalized_shape"]
        return None if len(given) == rank else 0
    return 0 if rank > 1 else None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two calls of one function, evaluated together.

    Args:
        records: of the two.
        flow: of the call on the pair.
        new: every handle of the first call with the law of the pair that the flow saw.
        axis: where the two are two samples; None where the flow acts on tables.
        out: table of the two outputs (of each member, where there are several).
    """

    records: tuple[Record, Record]
    flow: Flow
    new: Mapping[Moments, Moments]
    axis: int | None
    out: Tables

    @staticmethod
    def of(ledger: Ledger, nodes: tuple[fx.Node, fx.Node], tables: Tables) -> Pair:
        """Evaluate.

        Args:
            ledger: where the calls are recorded.
            nodes: the two calls, of equal signature.
            tables: of their inputs, slot by slot.

        Raises:
            NotImplementedError: there is no rule for this op.
        """
        first, second = (ledger.records[n] for n in nodes)
        op = first.op
        if op is None:
            raise NotImplementedError
        axis = None if is_multilinear(op.name) else sample_axis(first)
        if axis is None and not is_multilinear(op.name):
            raise NotImplementedError
        new = {}
        for x, y, table in zip(first.handles, second.handles, tables, strict=True):
            node = first.node(x)
            if x.value is not None or node is None or (axis is not None and node in ledger.weights):
                new[x] = _constant(x, y, first, axis)
            elif axis is None:
                new[x] = joint(x, y, table)
            else:
                new[x] = paired(x, y, table, axis)
        new = {x: replace(law) for x, law in new.items()}  # identities of their own
        call = first.call
        if axis is not None and call.shape is not None:
            call = replace(call, shape=tuple(2 * n if d == axis else n for d, n in enumerate(call.shape)))
        args, kwargs = first.rebuilt(new)
        flow = op.function(call, *args, **kwargs)
        outs = [_members(ledger.values[n]) for n in nodes]
        made = zip(_members(flow.out), *outs, strict=True)
        return Pair((first, second), flow, new, axis, tuple(_table(z, axis, a, b) for z, a, b in made))

    def back(self, tables: Tables, grads: tuple[Any, Any]) -> Returned:
        """What the two calls send back.

        Args:
            tables: of the gradients at the two outputs (at each member).
            grads: those gradients.
        """
        alone = tuple(None for _ in tables)
        return Returned(self, self.flow.back(self._arriving(tables, grads)), lambda: self.flow.back(self._arriving(alone, grads)))

    def _arriving(self, tables: Tables, grads: tuple[Any, Any]) -> Any:
        members = []
        for table, x, y in zip(tables, *(_members(g) for g in grads), strict=True):
            if self.axis is None:
                members.append(table)
            elif x is None and y is None:
                members.append(None)
            else:
                a, b = x or Moments.zeros(y.shape), y or Moments.zeros(x.shape)
                members.append(paired(a, b, table, self.axis))
        return tuple(members) if isinstance(self.flow.out, tuple) else members[0]


@dataclass(frozen=True, eq=False)
class Returned:
    """Gradients that a pair of calls sends back.

    Args:
        found: those of the call on the pair.
        alone: makes those that it sends back where the arriving gradients have nothing in common.
    """

    pair: Pair
    found: Mapping[Moments, Moments]
    alone: Callable[[], Mapping[Moments, Moments]]

    def table(self, slot: int, first: Moments, second: Moments) -> Moments | None:
        """The table of the two gradients sent back from a slot, given their own laws."""
        handle = self.pair.records[0].handles[slot]
        law = self.pair.new[handle]
        if law not in self.found:
            return None
        g = self.found[law]
        if self.pair.axis is None:
            return folded(g)
        if g.shape != handle.shape:
            return of_paired(g, self.pair.axis, first, second)
        # a weight: its gradient is the sum over both samples, twice the table more than without what they have in common
        return Moments(g.dims, 0.0, 0.5 * (folded(g).v - folded(self.alone()[law]).v))


def _members(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def _table(z: Any, axis: int | None, a: Any, b: Any) -> Moments | None:
    if not isinstance(z, Moments) or not isinstance(a, Moments) or not isinstance(b, Moments):
        return None
    return of_joint(z, a, b) if axis is None else of_paired(z, axis, a, b)


def _constant(x: Moments, y: Moments, record: Record, axis: int | None) -> Moments:
    """A constant, or a weight that the pair shares; one entry per sample is repeated for both."""
    if x.value is None:
        return x
    if axis is None or not x.dims:
        return x if y.value is not None and np.array_equal(x.value, y.value) else joint(x, y, None)
    source = record.handles[0]
    batched = x.shape[0] == source.shape[axis] > 1 and (axis == 1 or len(x.dims) == len(source.dims))
    return Moments.of_array(np.concatenate([x.value, x.value])) if batched else x
