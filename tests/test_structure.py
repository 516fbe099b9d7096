"""Structure along an axis: positions that are not exchangeable, against draws of real tensors and real seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.moments import Moments, Rows, einsum, moments_along, product
from gradlint.ops.softmax import rows_under
from gradlint.trace import parse_input
from gradlint.verification import compare, measure

Array = npt.NDArray[np.float64]

POSITIONS, WIDTH = 24, 64


def sinusoids(positions: int = POSITIONS, width: int = WIDTH) -> torch.Tensor:
    """The table of Vaswani et al. (2017)."""
    angles = torch.arange(positions)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], 1)


def gram_of(x: torch.Tensor) -> Array:
    """Moments of every two positions of draws (…, positions, features)."""
    return np.asarray((x.mT.flatten(0, -2).mT if x.ndim == 2 else torch.einsum("...pf,...qf->pq", x, x)).numpy()) / (
        x.numel() / x.shape[-2]
    )


# ---- one tensor -------------------------------------------------------------------------------------------------------


def test_a_table_of_sinusoids_keeps_its_structure() -> None:
    table = sinusoids().double().numpy()
    assert moments_along(Moments.of_table(table), 0) == pytest.approx(table @ table.T / WIDTH)


def test_a_random_table_is_exchangeable() -> None:
    rng = np.random.default_rng(0)
    assert not Moments.of_table(rng.normal(size=(POSITIONS, WIDTH))).grams
    assert not Moments.of_table(rng.normal(size=(8, POSITIONS, WIDTH))).grams


def test_two_structures_meet_where_they_are_contracted() -> None:
    x, y = Moments.of_table(sinusoids().numpy()), Moments.of_table(np.cos(sinusoids().numpy() * 2))
    met = einsum(["pf", "pg"], "fg", product(x, Moments.iid(x.shape)).scale(1.0), y)
    apart = moments_along(x, 0) * np.eye(POSITIONS)  # the noise leaves only the diagonal
    assert met.q == pytest.approx(float((apart * moments_along(y, 0)).sum()))
    linear = [einsum(["pf", "of"], "po", m, Moments.iid((WIDTH, WIDTH))) for m in (x, y)]
    both = einsum(["po", "pr"], "or", *linear)
    assert both.q == pytest.approx(float((moments_along(linear[0], 0) * moments_along(linear[1], 0)).sum()))


# ---- attention, by its moments ----------------------------------------------------------------------------------------


def masks() -> dict[str, npt.NDArray[np.bool_]]:
    at = np.arange(POSITIONS)
    causal = at[:, None] >= at
    return {"none": np.ones_like(causal), "causal": causal, "window": causal & (at[:, None] - at < 6)}


def rows_of(kind: str, variance: float, keys: Array, between: Array | float = 0.3) -> Rows:
    scores = replace(Moments.iid((POSITIONS, POSITIONS)), alive=masks()[kind])
    return rows_under(scores, variance, between, keys)


@pytest.mark.parametrize("kind", masks())
def test_the_gradient_of_values_is_the_adjoint_of_the_average(kind: str) -> None:
    rng = np.random.default_rng(1)
    v, g, k = (np.cov(rng.normal(size=(POSITIONS, 2 * POSITIONS))) for _ in range(3))
    rows = rows_of(kind, 1.5, k)
    assert float((rows.outputs(v) * g).sum()) == pytest.approx(float((rows.values(g) * v).sum()))


@pytest.mark.parametrize("kind", masks())
def test_keys_share_nothing_that_a_row_would_feel(kind: str) -> None:
    rng = np.random.default_rng(2)
    g, q, v = (np.cov(rng.normal(size=(POSITIONS, 2 * POSITIONS))) for _ in range(3))
    heard = rows_of(kind, 0.7, q).keys(g, q, v)
    assert abs(heard.sum()) < 1e-9 * np.trace(heard)  # the gradient of what all keys have in common
    assert np.abs(heard.sum(1)).max() < 1e-9 * np.trace(heard)


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize(("variance", "bits"), [(0.01, 0.08), (0.3, 0.12), (1.0, 0.25)])
def test_rows_agree_with_draws(kind: str, variance: float, bits: float) -> None:
    generator = torch.Generator().manual_seed(3)
    draws, width = 400, 48
    mask = torch.as_tensor(masks()[kind])
    root = sinusoids(POSITIONS, 32).double() / 4
    of_x = (root @ root.T).numpy()

    def positions() -> torch.Tensor:
        """Features independent of one another, positions with the moments ``of_x``."""
        return root @ torch.randn(draws, 32, width, generator=generator, dtype=torch.float64)

    q, k, v = (positions().requires_grad_() for _ in range(3))
    same = float(np.trace(of_x)) / POSITIONS
    differ = (float(of_x.sum()) - POSITIONS * same) / (POSITIONS * (POSITIONS - 1))
    scale = math.sqrt(variance / (width * same * (same - differ)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    g = positions()
    out.backward(g)
    rows = rows_of(kind, variance, of_x, variance / same * of_x)

    def error(found: torch.Tensor | None, predicted: Array) -> float:
        assert found is not None
        return abs(math.log2(np.trace(predicted) / np.trace(gram_of(found.detach())))) / 2

    power = width * scale**2
    found = [
        error(out, rows.outputs(of_x)),
        error(v.grad, rows.values(of_x)),
        error(q.grad, power * rows.queries(of_x, of_x)),
        error(k.grad, power * rows.keys(of_x, of_x, of_x)),
    ]
    assert max(found) < bits


# ---- attention, by models ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One head over positions that a frozen table of sinusoids tells apart."""

    def __init__(self, attend: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding(POSITIONS, WIDTH)
        self.table.weight.data.copy_(sinusoids())
        self.table.weight.requires_grad_(False)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attend = attend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 0.3 * x + self.table(torch.arange(x.shape[1]))
        return self.attend(self.q(x), self.k(x), self.v(x))


def fused(**given: Any) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **given)


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention in eager mode, as nanoGPT has it."""
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(WIDTH)
    later = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool).triu(1)
    return F.dropout(scores.masked_fill(later, -math.inf).softmax(-1), 0.1) @ v


def equation(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same by Einstein sums, with a finite mask that is added."""
    later = torch.full((POSITIONS, POSITIONS), -1e9).triu(1)
    scores = torch.einsum("bqd,bkd->bqk", q, k) / math.sqrt(WIDTH) + later
    return torch.einsum("bqk,bkd->bqd", scores.softmax(-1), v)


DISTANCE = (torch.arange(POSITIONS)[:, None] - torch.arange(POSITIONS)).abs()


def alibi(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Two heads with a bias by distance of their own (Press et al. 2022), by hand."""
    q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v))
    bias = -torch.tensor([0.05, 1.0])[:, None, None] * DISTANCE
    later = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH / 2) + bias).masked_fill(later, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def windows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Samples of two kinds, one of which sees only near positions, as Swin's shifted windows."""
    bias = torch.stack([torch.zeros(POSITIONS, POSITIONS), torch.where(DISTANCE > 2, -100.0, 0.0)])
    scores = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH)).view(-1, 2, POSITIONS, POSITIONS) + bias
    return scores.view(-1, POSITIONS, POSITIONS).softmax(-1) @ v


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    kept = torch.arange(POSITIONS) < torch.tensor([24, 20, 12, 7])[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=kept[:, None, :])


def errors(build: Callable[[], nn.Module]) -> tuple[float, float]:
    """Largest error of a gradient and of an output, in bits."""
    measured = measure(build, [parse_input(f"4,{POSITIONS},{WIDTH}")], 24)
    found = compare(gradlint.analyze(build, list(measured.inputs)), measured)
    assert not found.zeros
    return max(abs(e.bits) for e in found.gradient.entries), max(abs(e.bits) for e in found.forward.entries)


KINDS = {
    "all": fused(),
    "causal": fused(is_causal=True),
    "by hand": by_hand,
    "equation": equation,
    "alibi": alibi,
    "windows": windows,
    "padding": padded,
}
kinds = pytest.mark.parametrize("attend", KINDS.values(), ids=KINDS)


@kinds
def test_attention_over_structured_positions(attend: Callable[..., torch.Tensor]) -> None:
    gradient, forward = errors(lambda: Attention(attend))
    assert gradient < 0.35
    assert forward < 0.05


@kinds
def test_a_bias_of_the_keys_is_dead_under_any_mask(attend: Callable[..., torch.Tensor]) -> None:
    analysis = gradlint.analyze(lambda: Attention(attend), (torch.randn(4, POSITIONS, WIDTH),))
    gradients = {name: p.grad_rms for name, p in analysis.parameters.items()}
    assert gradients["k.bias"] < 1e-6 * gradients["k.weight"]
    assert gradients["q.bias"] > 0
