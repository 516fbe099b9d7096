"""The algebra of pairs of time steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlint.twotime import Even, Known, Masked, Mirrored, Mixed, Rows, Settled, Table
from gradlint.twotime.cells import scanned
from gradlint.twotime.curves import RELU, SIGMOID, TANH, Curve, paired, powers
from gradlint.twotime.gradients import extrapolated


def matrix(table: Table) -> np.ndarray:
    n = table.steps
    out = np.zeros((2, n, n))
    for t in range(n):
        numbers, unit = table.ahead(t, n - t)
        out[:, t, t:] = out[:, t:, t] = numbers * 4.0**unit
    return out


def tables(seed: int, n: int) -> list[Table]:
    rng = np.random.default_rng(seed)
    known = rng.standard_normal((2, n, n))
    known += known.swapaxes(1, 2)
    known[:, range(n), range(n)] = np.abs(known[:, range(n), range(n)])
    settled = Settled(known[:, : n // 2, : n // 2], n)
    even = Even(np.array([[1.0, 2.0], [0.3, 0.1]]), rng.random((2, 2, 2)), (n - 2, 2))
    even.differ[:, 0, 1] = even.differ[:, 1, 0]
    rows = Rows([known[:, t, t : t + 1 + t % 3] for t in range(n)], [t % 4 - 2 for t in range(n)])
    rows = Rows([row[:, : n - t] for t, row in enumerate(rows.rows)], rows.units)
    return [Known(known), settled, even, rows, Mirrored(rows), Mixed([(0.5, rows), (2.0, Mirrored(settled))]), Masked(even, 1.5)]


@given(st.integers(0, 10_000), st.integers(6, 14))
def test_a_table_reads_alike_in_both_directions_and_averages_over_all_pairs(seed: int, n: int) -> None:
    for table in tables(seed, n):
        whole = matrix(table)
        for t in range(n):
            numbers, unit = table.behind(t, t + 1)
            assert np.allclose(numbers[:, ::-1] * 4.0**unit, whole[:, t, : t + 1]), table
            assert not whole[:, t, t + table.reach(t) :].any()
        found = table.pooled().at(0)
        own = whole[:, range(n), range(n)]
        assert np.allclose(found.same, own.mean(1))
        assert np.allclose(found.differ, (whole.sum((1, 2)) - own.sum(1)) / (n * (n - 1)))
        assert np.allclose(4.0**table.log2, own[0])


def test_a_scan_is_the_recursion() -> None:
    rng = np.random.default_rng(0)
    x, keeps = rng.standard_normal((2, 3, 13)), rng.random((3, 13))
    expected, last = [], np.zeros((2, 3))
    for t in range(13):
        last = x[..., t] + keeps[:, t] * last
        expected.append(last)
    assert np.allclose(scanned(x, keeps), np.stack(expected, -1))


@pytest.mark.parametrize(
    ("curve", "function", "slope"),
    [
        (RELU, lambda u: np.maximum(u, 0), lambda u: (u > 0) * 1.0),
        (TANH, np.tanh, lambda u: 1 - np.tanh(u) ** 2),
        (SIGMOID, lambda u: 1 / (1 + np.exp(-u)), lambda u: np.exp(-u) / (1 + np.exp(-u)) ** 2),
    ],
)
@pytest.mark.parametrize(("mean", "std", "rho"), [(0.0, 1.0, 0.6), (0.7, 0.5, -0.3), (-1.0, 2.0, 0.95)])
def test_products_of_functions_of_two_gaussians(curve: Curve, function, slope, mean: float, std: float, rho: float) -> None:
    z = np.random.default_rng(0).standard_normal((2, 1_000_000))
    u, v = mean + std * z[0], mean + std * (rho * z[0] + np.sqrt(1 - rho**2) * z[1])
    for coefficients, f in zip(curve.expand(np.array([mean]), np.array([std])), (function, slope), strict=True):
        found = paired(coefficients.T, coefficients.T[:, :, None], powers(np.full((1, 1, 1), rho))).item()
        assert found == pytest.approx((f(u) * f(v)).mean(), rel=0.02)


def test_growth_is_extrapolated_to_its_limit() -> None:
    """``E‖(aI + gG)^k u‖² = Σ_j C(k, j)² a^{2(k−j)} g^{2j}``, which grows by a + g per step, less half a power of k."""
    from math import comb, log2

    a, g = 0.5, 0.2
    levels = [log2(sum(comb(k, j) ** 2 * a ** (2 * (k - j)) * g ** (2 * j) for j in range(k + 1))) for k in range(1, 200)]
    found = extrapolated(np.array(levels[20:48]), 47, 150)
    assert found is not None
    assert levels[47] + found.sum() == pytest.approx(levels[47 + 150], abs=0.15)
    assert extrapolated(np.array([0.0, 1.0, 0.5, 3.0, 2.0, 7.0, 1.0, 0.0, 4.0]), 30, 100) is None
