"""One case or more per transfer function: the call, on which laws, and how close the formula must come.

Written as ``case(target, args, kwargs)``; a tensor argument is its :class:`Moments`. The test runs the real function on
tensors drawn from these laws, differentiates it, and compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gradlint.moments import Moments


@dataclass(frozen=True)
class Case:
    """One call.

    Args:
        tolerance: in bits of rms.
        reference: computes what ``target`` does, where that does not run in float64.
        cotangent: by default white.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 0.06
    label: str = ""
    reference: Any = None
    cotangent: Moments | None = None


def law(*shape: int, mean: float = 0.0, var: float = 1.0, **shared: float) -> Moments:
    """Iid entries plus components ``along01=0.5``: variance 0.5 that varies along axes 0 and 1 only."""
    x = Moments.iid(shape, mean, var)
    v = x.v.copy()
    for key, variance in shared.items():
        varying = {int(c) for c in key.removeprefix("along")}
        v[tuple(int(d in varying) for d, n in enumerate(shape) if n > 1)] = variance
    return Moments(x.dims, mean, v)


def known(values: Any) -> Moments:
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        zero = Moments.zeros(array.shape)
        return Moments(zero.dims, 0.0, zero.v, array)
    return Moments.of_array(array)


x34 = law(8, 6, 32, mean=0.3, along0=0.2, along1=0.1, along2=0.15)
image = law(4, 12, 8, 8, mean=0.4, along1=0.2, along01=0.3)
bias = law(24, var=0.1)
ids = known(np.random.default_rng(0).integers(0, 20, (8, 6)))


def experts(x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """``grouped_mm`` as a loop."""
    ends = [0, *offs.tolist()]
    return torch.cat([x[a:b] @ w for a, b, w in zip(ends, ends[1:], weight, strict=False)])


causal = known(np.tril(np.ones((16, 16), dtype=bool)))
heads = law(4, 3, 16, 32)
mask3 = known(np.random.default_rng(7).random((8, 6, 32)) < 0.4)

CASES: list[Case] = [
    # linear
    Case(F.linear, (x34, law(24, 32, var=1 / 32), bias)),
    Case(F.linear, (x34, law(24, 32, mean=0.1, var=1 / 32))),
    Case(torch.matmul, (law(4, 6, 32, along0=0.3), law(4, 32, 20, along1=0.3))),
    Case(torch.matmul, (law(4, 6, 32), law(32, 20))),
    Case(torch.matmul, (law(1, 6, 32), law(4, 32, 20))),
    Case("matmul", (law(6, 32), law(32))),
    Case(torch.addmm, (bias, law(8, 32), law(32, 24, var=1 / 32))),
    Case(torch.baddbmm, (law(4, 6, 24), law(4, 6, 32), law(4, 32, 24)), {"beta": 0.5, "alpha": 0.2}),
    Case(torch.einsum, ("bqd,bkd->bqk", law(4, 6, 32), law(4, 9, 32))),
    Case(torch.einsum, ("...d,de->...e", law(4, 6, 32), law(32, 9))),
    Case(torch.einsum, ("bii,bio->bo", law(4, 12, 12, mean=0.3), law(4, 12, 9))),
    Case(torch.einsum, ("bijij->bi", law(4, 6, 8, 6, 8, mean=0.3))),
    Case(torch.tensordot, (law(4, 6, 32), law(6, 32, 9)), {"dims": 2}),
    Case(torch.tensordot, (law(4, 6, 32), law(9, 32, 5)), {"dims": ([-1], [1])}),
    Case(torch.outer, (law(24, mean=0.5), law(32))),
    Case(torch.inner, (law(8, 32), law(6, 32, mean=0.2))),
    Case(torch.kron, (law(4, 6, mean=0.5), law(5, mean=0.3))),
    Case(torch.linalg.multi_dot, ([law(8, 24), law(24, 32, var=1 / 24), law(32, 6)],)),
    Case(torch.linalg.cross, (law(64, 3, along0=0.5), law(64, 3, along0=0.3))),
    Case(torch.trace, (law(48, 48, mean=1.0),)),
    Case(F.bilinear, (law(8, 16), law(8, 12), law(10, 16, 12, var=0.02), law(10))),
    Case(F.grouped_mm, (law(64, 32, along1=0.5), law(4, 32, 24, var=1 / 32), known([10, 30, 34, 64])), reference=experts),
    # combinations
    Case(torch.add, (x34, law(32, mean=1.0))),
    Case(torch.add, (x34, law(8, 6, 32)), {"alpha": 0.5}),
    Case(torch.sub, (x34, law(8, 6, 32, mean=2.0))),
    Case(torch.rsub, (x34, 1.0)),
    Case(torch.neg, (x34,)),
    Case(torch.mul, (x34, law(8, 1, 32, mean=0.5, var=0.3))),
    Case(torch.mul, (x34, 0.3)),
    Case(torch.div, (x34, law(8, 6, 1, mean=4.0, var=0.1))),
    Case(torch.div, (x34, 3.0)),
    Case(torch.lerp, (x34, law(8, 6, 32, mean=1.0), 0.3)),
    Case(torch.lerp, (x34, law(8, 6, 32, mean=1.0), law(8, 6, 32, mean=0.4, var=0.05, along0=0.02))),
    Case(torch.addcmul, (x34, law(32, mean=0.5), law(8, 6, 32)), {"value": 0.7}),
    Case(torch.addcdiv, (x34, law(32, mean=0.5), law(8, 6, 32, mean=4.0, var=0.1)), {"value": 0.7}),
    Case(torch.where, (causal, law(4, 3, 16, 16), 0.5)),
    Case(torch.where, (mask3, x34, law(32, mean=-1.0, along0=0.5))),
    Case(torch.where, (known(np.arange(6)[:, None] < 2), x34, law(8, 6, 32, mean=-1.0))),
    Case("where", (x34, mask3, law(32, mean=-1.0, along0=0.5))),
    Case("masked_fill", (x34, mask3, 2.0)),
    Case(torch.masked_fill, (law(4, 16, 16, mean=0.2), causal, 0.0)),
    # shapes
    Case(torch.reshape, (x34, (48, 32))),
    Case("view", (x34, 8, 6, 4, 8)),
    Case(torch.permute, (x34, (2, 0, 1))),
    Case(torch.transpose, (x34, 0, 2)),
    Case(torch.t, (law(6, 32, along0=0.5),)),
    Case(torch.movedim, (x34, 0, -1)),
    Case("expand", (law(8, 1, 32, along0=0.4), 8, 5, 32)),
    Case("repeat", (law(8, 6, along0=0.4), 2, 3)),
    Case(torch.narrow, (x34, 1, 0, 2)),
    Case(torch.select, (x34, 1, -1)),
    Case(torch.chunk, (x34, 2), {"dim": -1}),
    Case(torch.split, (x34, [8, 24]), {"dim": -1}),
    Case(torch.unbind, (x34, 1)),
    Case(torch.cat, ([x34, law(8, 2, 32, mean=1.0)], 1)),
    Case(torch.stack, ([law(8, 32), law(8, 32, mean=1.0)],), {"dim": 1}),
    Case(torch.flip, (x34, (1,))),
    Case(F.pixel_shuffle, (image, 2)),
    Case(F.pixel_unshuffle, (image, 2)),
    Case(F.channel_shuffle, (image, 3)),
    # convolutions
    Case(F.conv1d, (law(4, 12, 20, mean=0.4, along1=0.2), law(24, 12, 5, var=1 / 60), bias), {"padding": 2}),
    Case(F.conv2d, (image, law(24, 12, 3, 3, var=1 / 108), bias), {"padding": 1}),
    Case(F.conv2d, (image, law(24, 12, 3, 3, var=1 / 108)), {"padding": 1, "stride": 2}),
    Case(F.conv2d, (image, law(24, 3, 3, 3, var=1 / 27)), {"padding": 4, "dilation": 4, "groups": 4}),
    Case(F.conv2d, (image, law(12, 1, 3, 3, var=1 / 9)), {"padding": 1, "groups": 12}),
    Case(F.conv2d, (image, law(24, 12, 1, 1, var=1 / 12)), {"stride": 2}),
    Case(F.conv2d, (image, law(24, 12, 8, 8, var=1 / 768))),
    Case(F.conv2d, (law(4, 12, 8, 8), law(24, 12, 3, 3, mean=0.2, var=0.01)), {"padding": 1}, 0.12),
    Case(F.conv2d, (law(12, 8, 8, mean=0.3), law(24, 12, 3, 3, var=1 / 108), bias), {"padding": "same"}),
    Case(F.conv1d, (law(4, 12, 20, mean=0.4), law(24, 12, 4, var=1 / 48)), {"padding": "same", "dilation": 2}),
    Case(F.conv_transpose1d, (law(12, 20, mean=0.4), law(12, 24, 4, var=1 / 24), bias), {"stride": 2}),
    Case(F.conv3d, (law(2, 6, 6, 6, 6, mean=0.3), law(12, 6, 3, 3, 3, var=1 / 162)), {"padding": 1}),
    Case(F.conv_transpose1d, (law(4, 12, 20, mean=0.4), law(12, 24, 4, var=1 / 24), bias), {"stride": 2, "padding": 1}),
    Case(F.conv_transpose2d, (image, law(12, 24, 4, 4, var=1 / 48), bias), {"stride": 2, "padding": 1}),
    Case(F.conv_transpose2d, (law(4, 64, 1, 1), law(64, 24, 4, 4, var=1 / 64))),
    Case(F.conv_transpose3d, (law(2, 6, 4, 4, 4), law(6, 8, 2, 2, 2, var=1 / 6)), {"stride": 2}),
    # norms
    Case(F.layer_norm, (x34, (32,), law(32, mean=1.0, var=0.1), law(32, var=0.1))),
    Case(F.rms_norm, (law(8, 6, 32, along0=0.2, along1=0.1), (32,), law(32, mean=1.0, var=0.1)), {}, 0.1),
    Case(F.batch_norm, (image, None, None, law(12, mean=1.0, var=0.1), law(12, var=0.1), True)),
    Case(F.batch_norm, (law(32, 40, mean=0.5, along1=0.3), None, None, None, None, True)),
    Case(
        F.batch_norm,
        (law(4, 64, 2, 2, mean=0.5, along1=0.3), None, None, None, None, True),
        cotangent=law(4, 64, 2, 2, var=0.1, along01=1.0),
    ),
    Case(F.layer_norm, (law(64, 4, 8, along0=0.4, along01=0.5), (4, 8)), cotangent=law(64, 4, 8, var=0.1, along01=1.0)),
    Case(F.group_norm, (image, 3, law(12, mean=1.0, var=0.1), law(12, var=0.1)), {}, 0.1),
    Case(F.instance_norm, (law(4, 12, 8, 8, mean=0.4, along1=0.2, along01=0.3),)),
    Case(F.normalize, (law(8, 6, 32),), {"dim": -1}),
    Case(torch._weight_norm, (law(24, 12, 3, var=0.1), law(24, 1, 1, mean=2.0, var=0.1))),
    Case(torch._weight_norm, (law(24, 12, 3, var=0.1), law(1, 12, 1, mean=2.0, var=0.1), 1)),
    Case(F.cosine_similarity, (law(64, 24, mean=0.3), law(64, 24, mean=0.2))),
    Case(F.cosine_similarity, (law(8, 1, 24), law(1, 6, 24, mean=0.2)), {"dim": -1}),
    Case(F.local_response_norm, (image, 5), {"k": 2.0}),
    Case(F.local_response_norm, (image, 3), {"alpha": 0.1}),
    # distances
    Case(F.pairwise_distance, (law(64, 24, mean=0.3), law(64, 24))),
    Case(F.pairwise_distance, (law(8, 1, 24, mean=0.3), law(8, 6, 24), 1.0)),
    Case(torch.cdist, (law(4, 9, 24), law(4, 7, 24, mean=0.3)), {}, 0.08),
    # attention
    Case(F.softmax, (law(4, 16, 32, var=1.0),), {"dim": -1}),
    Case(F.softmax, (law(4, 16, 32, var=4.0, along01=1.0),), {"dim": -1}),
    Case(F.softmin, (law(4, 16, 32),), {"dim": 1}),
    Case(F.gumbel_softmax, (law(64, 12, var=0.5),), {"tau": 1.5}, 0.2),  # the noise is not Gaussian
    Case(F.gumbel_softmax, (law(64, 12, var=0.5),), {"tau": 1.5, "hard": True}, 0.2),
    Case(F.log_softmax, (law(64, 20, var=2.0),), {"dim": -1}),
    Case(torch.logsumexp, (law(64, 20, mean=0.3, along0=0.5), 1)),
    Case("logsumexp", (law(64, 8, var=4.0),), {"dim": -1, "keepdim": True}),
    Case(F.scaled_dot_product_attention, (heads, heads, heads)),
    Case(F.scaled_dot_product_attention, (law(4, 3, 16, 32, along013=0.5, var=0.5), heads, heads), {"is_causal": True}),
    Case(F.scaled_dot_product_attention, (heads, heads, heads, causal)),
    Case(F.scaled_dot_product_attention, (law(2, 4, 16, 32), law(2, 2, 16, 32), law(2, 2, 16, 32)), {"enable_gqa": True}),
    Case(
        F.multi_head_attention_forward,
        (law(16, 4, 48), law(16, 4, 48), law(16, 4, 48), 48, 3, law(144, 48, var=1 / 96), law(144, var=0.0), None, None,
         False, 0.0, law(48, 48, var=1 / 144), law(48, var=0.0)),
    ),
    # cells
    # regularisers, embeddings, parametric activations
    Case(F.dropout, (x34, 0.3)),
    Case(F.dropout1d, (law(24, 40, mean=0.5), 0.3)),
    Case(F.dropout2d, (image, 0.3)),
    Case(F.dropout3d, (law(8, 6, 4, 4, 4, mean=0.5), 0.3)),
    Case(F.alpha_dropout, (x34, 0.3, True)),
    Case(F.feature_alpha_dropout, (image, 0.3, True), {}, 0.1),
    Case(F.embedding, (ids, law(20, 32, along1=0.2))),
    Case(F.embedding, (ids, law(20, 32)), {"padding_idx": 3}),
    Case(F.embedding_bag, (ids, law(20, 32, mean=0.2))),
    Case(F.embedding_bag, (ids, law(20, 32, mean=0.2)), {"mode": "sum", "per_sample_weights": law(8, 6, mean=1.0, var=0.2)}, 0.1),
    Case(F.embedding_bag, (known(np.arange(48) % 19), law(20, 32, mean=0.2), known([0, 3, 11, 12, 30])), {"padding_idx": 2}),
    Case(F.prelu, (image, law(1, mean=0.25, var=0.0)), {}, 0.4),  # one number: 60 draws leave it 0.13 bit of noise
    Case(F.rrelu, (x34, 0.1, 0.6, True)),
    Case(F.glu, (law(8, 6, 32, mean=0.3),), {"dim": -1}),
]  # fmt: skip
