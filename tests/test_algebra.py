"""The algebra of moments: what must hold whatever the law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlint.moments import GRID, Moments, concat, einsum, product

SHAPE = (4, 6, 8)
few = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def laws(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> Moments:
    """Any law over the axes: a mean and a variance for every set of them."""
    x = Moments.iid(shape, draw(st.floats(-2, 2)), 0.0)
    variances = draw(st.lists(st.floats(0, 4), min_size=x.v.size, max_size=x.v.size))
    return Moments(x.dims, x.mean, np.array(variances).reshape(x.v.shape))


def same(x: Moments, y: Moments) -> bool:
    return x.dims == y.dims and math.isclose(x.mean, y.mean, abs_tol=1e-9) and np.allclose(x.v, y.v)


def energy(x: Moments, y: Moments) -> float:
    """``E (Σ x·y)²`` of independent arrays: the square of their inner product."""
    return product(x, y).sum(range(len(x.dims))).q


@few
@given(laws())
def test_a_view_and_back_forgets_nothing(x: Moments) -> None:
    assert same(x.reshape((24, 8)).reshape(SHAPE), x)
    assert same(x.reshape((192,)).reshape(SHAPE), x)
    assert same(x.permute((2, 0, 1)).permute((1, 2, 0)), x)


@few
@given(laws())
def test_a_cut_through_an_axis_keeps_mean_and_mean_square(x: Moments) -> None:
    y = x.reshape((3, 64))  # 3 divides neither 4 nor 6·8 in the given order
    assert y.mean == pytest.approx(x.mean)
    assert y.q == pytest.approx(x.q)


@few
@given(laws(), st.floats(-3, 3))
def test_scaling_multiplies_second_moments_by_the_square(x: Moments, c: float) -> None:
    assert np.allclose(x.scale(c).pairs(), c**2 * x.pairs())


@few
@given(laws(), laws())
def test_a_contraction_is_a_product_and_a_sum(x: Moments, y: Moments) -> None:
    assert same(einsum(["abc", "abc"], "ac", x, y), product(x, y).sum([1]))


@few
@given(laws(), laws((4, 1, 8)))
def test_adjoints_balance_the_energy(x: Moments, y: Moments) -> None:
    # <A x, y> = <x, Aᵀ y> for the sum over an axis, whose adjoint copies
    assert energy(x.sum([1], keepdim=True), y) == pytest.approx(energy(x, y.expand(SHAPE)), rel=1e-9)
    # and for broadcasting, whose adjoint sums
    assert energy(y.expand(SHAPE), x) == pytest.approx(energy(y, x.fold((4, 1, 8))), rel=1e-9)


@few
@given(laws(), laws((4, 2, 8)))
def test_a_slice_and_its_embedding_balance_the_energy(x: Moments, y: Moments) -> None:
    assert energy(x.resize(1, 2), y) == pytest.approx(energy(x, y.pad(1, 6)), rel=1e-9)


@few
@given(laws())
def test_centring_leaves_no_mean_over_the_axis(x: Moments) -> None:
    assert x.centre([1]).sum([1]).q == pytest.approx(0.0, abs=1e-9)


def test_of_array_agrees_with_brute_force_over_all_pairs() -> None:
    a = np.random.default_rng(0).normal(size=(3, 4)) + np.arange(4)
    table = Moments.of_array(a).pairs()
    pairs = [(i, j, k, m) for i in range(3) for j in range(4) for k in range(3) for m in range(4)]
    for row in (0, 1):
        for column in (0, 1):
            mine = [a[i, j] * a[k, m] for i, j, k, m in pairs if (i == k) == bool(row) and (j == m) == bool(column)]
            assert table[row, column] == pytest.approx(np.mean(mine))


def test_of_sample_drops_the_noise_of_the_draw() -> None:
    draw = 0.1 * np.random.default_rng(0).normal(size=(200, 300))
    law = Moments.of_sample(draw)
    assert law.mean == 0.0
    assert np.count_nonzero(law.v) == 1
    assert law.rms == pytest.approx(0.1, rel=0.01)


def test_concatenation_counts_pairs_within_and_across() -> None:
    # parts of 2 and 4 entries, means 1 and 3, no variance: differing pairs are 2·1·1 + 4·3·9 + 2·2·4·3 of 6·5
    x = concat([Moments.iid((2,), 1.0, 0.0), Moments.iid((4,), 3.0, 0.0)], 0)
    assert x.mean == pytest.approx((2 * 1 + 4 * 3) / 6)
    assert x.pairs()[0] == pytest.approx((2 * 1 + 4 * 3 * 9 + 2 * 2 * 4 * 3) / 30)
    assert x.q == pytest.approx((2 * 1 + 4 * 9) / 6)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 1.0])
def test_dual_activations_have_their_closed_forms(rho: float) -> None:
    mean, relu = GRID.dual(np.maximum(GRID.z, 0), np.array(rho))
    assert mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-4)
    # Cho & Saul 2009: (√(1−ρ²) + ρ(π − arccos ρ)) / 2π
    assert relu == pytest.approx((math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi), abs=1e-3)
    assert GRID.dual(np.exp(GRID.z / 2), np.array(rho))[1] == pytest.approx(math.exp(0.25 * (1 + rho)), rel=1e-6)
