"""Cases of reductions and order statistics."""

from __future__ import annotations

import torch
from cases import Case, image, law, x34

rows = law(64, 20, mean=0.3, along0=0.3)
alike = law(32, 20, mean=0.3, along0=0.3, along1=1.0)  # the rows are correlated

CASES: list[Case] = [
    Case(torch.sum, (x34, 1)),
    Case("sum", (x34,), {"dim": (0, 2), "keepdim": True}),
    Case(torch.mean, (x34, (1, 2)), {"keepdim": True}),
    Case("mean", (x34,), {"dim": -1}),
    Case(torch.var, (x34, -1)),
    Case("var", (image,), {"dim": (2, 3), "unbiased": False, "keepdim": True}),
    Case(torch.var, (rows, False)),
    Case(torch.var, (x34,), {"dim": 1, "correction": 0}, 0.1),
    Case(torch.std, (x34, -1)),
    Case("std", (rows, 0), {"keepdim": True}),
    Case(torch.std, (x34, 1), {}, 0.1),
    Case(torch.var_mean, (x34, -1), {"keepdim": True}),
    Case(torch.std_mean, (x34, -1)),
    Case(torch.norm, (x34,)),
    Case("norm", (x34,), {"dim": -1, "keepdim": True}),
    Case("norm", (x34, 1, -1)),
    Case(torch.linalg.vector_norm, (x34,), {"dim": -1}),
    Case(torch.linalg.vector_norm, (x34, 3), {"dim": -1}, 0.1),
    Case(torch.linalg.norm, (x34,), {"dim": (1, 2)}),
    Case(torch.linalg.matrix_norm, (x34,)),
    Case(torch.prod, (law(64, 4, 8, mean=1.0, var=0.3), 1)),
    Case("prod", (law(256, 3),), {"dim": -1, "keepdim": True}, 0.1),
    Case(torch.cumsum, (x34, 1)),
    Case("cumsum", (rows,), {"dim": -1}),
    Case(torch.diff, (rows,)),
    Case(torch.diff, (x34,), {"n": 2, "dim": 1}),
    # order
    Case(torch.max, (rows, 1)),
    Case(torch.max, (rows,), {}, 0.1),
    Case("max", (alike,), {"dim": -1, "keepdim": True}, 0.1),
    Case(torch.min, (rows, 0)),
    Case(torch.max, (rows, law(64, 20, var=0.5))),
    Case(torch.amax, (image, (2, 3))),
    Case("amin", (image,), {"dim": (-2, -1), "keepdim": True}),
    Case(torch.topk, (rows, 3)),
    Case("topk", (alike, 2), {"dim": 0, "largest": False}, 0.1),
    Case(torch.sort, (rows,)),
    Case(torch.sort, (alike,), {"dim": 1, "descending": True}, 0.1),
    Case(torch.kthvalue, (rows, 4)),
    Case(torch.median, (rows,), {"dim": -1}),
    Case(torch.maximum, (rows, law(20, mean=0.5))),
    Case(torch.minimum, (x34, law(8, 1, 32, mean=0.2, var=0.4))),
]
