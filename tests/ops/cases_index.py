"""Cases of the reads and writes by index."""

from __future__ import annotations

import operator

import numpy as np
import torch
from cases import Case, image, known, law, mask3, x34
from torch.nn import functional as F

from gradlint.trace import mutation

draw = np.random.default_rng(7)
rows = known(draw.integers(0, 6, 4))
distinct = known(draw.permutation(6)[:4])
sentence = known(draw.integers(0, 6, (8, 3, 1)).repeat(32, 2))
cells = known(draw.permuted(np.tile(np.arange(6)[:, None], (8, 1, 32)), axis=1)[:, :3])
mask2 = known(draw.random((8, 6)) < 0.4)
count = int(np.asarray(mask2.value).sum())
square = law(6, 16, 16, mean=0.5, along0=0.3, along1=0.4)

CASES: list[Case] = [
    # reads
    Case(operator.getitem, (x34, (slice(None), slice(1, 4), None, 0))),
    Case(operator.getitem, (x34, (..., slice(0, 8)))),
    Case(operator.getitem, (x34, (slice(None), known([0, 2, 4])))),
    Case(operator.getitem, (x34, (known(draw.integers(0, 8, 5)), slice(None), known(draw.integers(0, 32, 5))))),
    Case(operator.getitem, (x34, (known(np.arange(8)[:, None]), known(draw.integers(0, 6, (8, 2)))))),
    Case(operator.getitem, (law(8, 6, 32, mean=0.3, along0=0.2), (0, [1, 1, 3], None, slice(0, 16)))),
    Case(operator.getitem, (x34, mask2)),
    Case(operator.getitem, (x34, (slice(None), known([True, False, True, True, False, False])))),
    Case(torch.index_select, (x34, 1, known([0, 2, 4, 4]))),
    Case(torch.gather, (x34, 1, sentence)),
    Case(torch.gather, (law(8, 20, mean=0.3, along1=0.3), 1, known(draw.integers(0, 20, (8, 5))))),
    Case(torch.take_along_dim, (x34, known(draw.integers(0, 6, (8, 3, 1))), 1)),
    Case(torch.take, (x34, known(draw.integers(0, 1536, (9, 9))))),
    Case(torch.masked_select, (x34, mask3)),
    Case(torch.diagonal, (square, 1, 1, 2)),
    Case(torch.linalg.diagonal, (square,)),
    Case(torch.diag, (law(24, mean=0.5),)),
    Case(torch.diag_embed, (law(4, 12, mean=0.5, along1=0.2),)),
    Case(torch.tril, (square,)),
    Case(torch.triu, (square, 1)),
    Case(torch.as_strided, (law(8, 32, mean=0.3), (8, 15, 4), (32, 2, 1))),
    Case("unfold", (x34, 2, 6, 3)),
    Case(torch.rot90, (law(6, 32, mean=0.4, along0=0.3),)),
    Case(torch.repeat_interleave, (law(8, 6, along0=0.4), 3), {"dim": 1}),
    Case(torch.repeat_interleave, (law(8, 6, along0=0.4), known([1, 2, 0, 1, 3, 1])), {"dim": 1}),
    Case(torch.repeat_interleave, (law(8, 6, along0=0.4), 3)),
    Case(F.unfold, (image, 3), {"padding": 1, "stride": 2}),
    Case(F.unfold, (image, (2, 3)), {"dilation": (1, 2)}),
    Case(F.fold, (law(4, 108, 64, mean=0.2, along0=0.2), (8, 8), 3), {"padding": 1}),
    Case(F.pad, (image, (1, 1, 2, 2))),
    Case(F.pad, (image, (1, 2, 0, 3)), {"value": 0.7}),
    Case(F.pad, (image, (2, 2, 1, 1)), {"mode": "reflect"}),
    Case(F.pad, (image, (2, 2, 1, 1)), {"mode": "replicate"}),
    Case(F.pad, (image, (2, 2, -1, 1)), {"mode": "circular"}),
    Case(F.pad, (image, (-1, 2, 0, -2))),
    # packed sequences
    Case(torch._pack_padded_sequence, (x34, known([6, 6, 5, 4, 4, 3, 2, 1]), True)),
    Case(torch._pack_padded_sequence, (x34, known([8, 7, 7, 5, 3, 3]), False)),
    Case(torch._pad_packed_sequence, (law(31, 32, mean=0.4, along1=0.2), known([8, 7, 6, 5, 3, 2]), True, 0.0, 9)),
    Case(torch._pad_packed_sequence, (law(31, 32), known([8, 7, 6, 5, 3, 2]), False, 0.0, 0)),
    # writes
    Case(mutation.setitem, (x34, (slice(None), distinct), law(8, 4, 32, mean=1.0))),
    Case(mutation.setitem, (x34, mask2, law(count, 32, mean=1.0))),
    Case(mutation.setitem, (x34, mask2, law(32, mean=1.0))),
    Case(mutation.setitem, (x34, (..., 0), 2.0)),
    Case(torch.index_put, (x34, (known([1, 0, 3]), known([2, 2, 0])), law(3, 32, mean=1.0))),
    Case(torch.index_put, (x34, (known([1, 1, 3]), known([2, 2, 0])), law(3, 32, mean=1.0)), {"accumulate": True}),
    Case(torch.index_copy, (x34, 1, distinct, law(8, 4, 32, mean=1.0))),
    Case(torch.index_fill, (x34, 1, distinct, 0.5)),
    Case(torch.index_add, (x34, 1, rows, law(8, 4, 32, mean=0.5)), {"alpha": 2.0}),
    Case(torch.slice_scatter, (x34, law(8, 2, 32, mean=1.0), 1, 1, 3)),
    Case(torch.select_scatter, (x34, law(8, 32, mean=1.0), 1, 0)),
    Case(torch.masked_scatter, (x34, known(np.asarray(mask2.value)[..., None]), law(40, 32, mean=1.0))),
    Case(torch.scatter, (x34, 1, cells, law(8, 3, 32, mean=1.0))),
    Case(torch.scatter, (x34, 1, cells, 0.5)),
    Case(torch.scatter_add, (x34, 1, sentence, law(8, 3, 32, mean=0.5))),
    Case(torch.scatter_reduce, (x34, 1, sentence, law(8, 3, 32, mean=0.5), "sum")),
    Case(mutation.view_scatter, (law(8, 32, mean=0.3), law(8, 4, 4, mean=1.0), (8, 4, 4), (32, 8, 1), 0)),
    Case(torch.diagonal_scatter, (law(12, 12, mean=0.3), law(12, mean=1.0))),
]
