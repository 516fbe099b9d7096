"""Cases of losses."""

from __future__ import annotations

import numpy as np
from cases import Case, known, law
from torch.nn import functional as F

draw = np.random.default_rng(3)
logits = law(64, 20, mean=0.2)
labels = known(draw.integers(0, 20, 64))
some = known(np.where(draw.random(64) < 0.3, -100, draw.integers(0, 20, 64)))
pixels = known(draw.integers(0, 5, (8, 6, 6)))
coins = known(draw.integers(0, 2, (64, 20)).astype(float))
signs = known(draw.choice([-1.0, 1.0], (64, 20)))
shares = known(draw.dirichlet(np.ones(20), 64))
weights = known(np.linspace(0.2, 2.0, 20))
other = law(64, 20, mean=-0.5, var=0.5)
counts = known(draw.poisson(2.0, (64, 20)).astype(float))

CASES: list[Case] = [
    Case(F.l1_loss, (logits, other)),
    Case(F.l1_loss, (law(64, 20), counts), {"reduction": "sum"}),
    Case(F.mse_loss, (law(64, 20, mean=1.0), law(64, 20))),
    Case(F.mse_loss, (logits, other), {"reduction": "none"}),
    Case(F.mse_loss, (logits, counts)),
    Case(F.smooth_l1_loss, (logits, other), {"beta": 0.7}),
    Case(F.huber_loss, (logits, other), {"delta": 0.5, "reduction": "none"}),
    Case(F.gaussian_nll_loss, (logits, counts, law(64, 20, mean=2.0, var=0.05)), {}, 0.25),  # fourth moments of a skewed target
    Case(F.margin_ranking_loss, (logits, other, signs), {"margin": 0.3}),
    Case(F.binary_cross_entropy_with_logits, (logits, coins)),
    Case(F.binary_cross_entropy_with_logits, (logits, coins), {"pos_weight": known(np.array(3.0))}),
    Case(F.binary_cross_entropy_with_logits, (logits, coins), {"reduction": "none"}),
    Case(F.binary_cross_entropy, (law(64, 20, mean=0.5, var=0.01), coins)),
    Case(F.kl_div, (law(64, 20, mean=-3.0), shares), {"reduction": "batchmean"}),
    Case(F.kl_div, (law(64, 20, mean=-3.0), law(64, 20, mean=-3.0, var=0.2)), {"log_target": True, "reduction": "sum"}),
    Case(F.kl_div, (law(64, 20, mean=-2.0), law(64, 20, mean=0.05, var=1e-5)), {"reduction": "batchmean"}),
    Case(F.poisson_nll_loss, (logits, counts)),
    Case(F.soft_margin_loss, (logits, signs)),
    Case(F.hinge_embedding_loss, (logits, signs), {"margin": 0.5}),
    Case(F.multilabel_soft_margin_loss, (logits, coins)),
    Case(F.cross_entropy, (logits, labels)),
    Case(F.cross_entropy, (logits, some)),
    Case(F.cross_entropy, (logits, labels), {"label_smoothing": 0.3}),
    Case(F.cross_entropy, (logits, labels), {"weight": weights}),
    Case(F.cross_entropy, (logits, labels), {"reduction": "none"}),
    Case(F.cross_entropy, (law(64, 20, var=4.0), shares), {"reduction": "sum"}),
    Case(F.cross_entropy, (law(8, 5, 6, 6), pixels)),
    Case(F.linear_cross_entropy, (law(64, 32), law(20, 32, var=1 / 32), labels), {}, 0.15),
    Case(F.nll_loss, (law(64, 20, mean=-3.0), labels)),
    Case(F.nll_loss, (law(64, 20, mean=-3.0), labels, weights), {"reduction": "sum"}),
]
