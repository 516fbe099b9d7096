"""Spectra from laws beside those of draws, and from values beside full decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from gradlint.moments import Moments
from gradlint.spectra import radius, sigma_max
from gradlint.trace.law import Law


def law(kind: str, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> Law:
    return Law(kind, mean, std, Moments.iid(shape, mean, std**2))


def largest(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


@pytest.mark.parametrize(
    ("shape", "draws", "within"),
    [
        ((1, 5), 2000, 0.02),
        ((2, 2), 2000, 0.03),
        ((8, 8), 1000, 0.02),
        ((8, 128), 500, 0.01),
        ((64, 9), 400, 0.01),
        ((64, 64), 200, 0.01),
        ((256, 64), 40, 0.01),
    ],
)
@pytest.mark.parametrize("uniform", [False, True])
def test_the_largest_singular_value_of_a_law_is_the_mean_over_draws(shape, draws, within, uniform) -> None:
    random = np.random.default_rng(1)
    sample = (lambda: random.uniform(-1, 1, shape)) if uniform else (lambda: random.standard_normal(shape))
    real = np.mean([np.linalg.norm(sample(), 2) for _ in range(draws)])
    # Below 16 rows the fourth moment still counts: the formula is for Gaussian entries.
    slack = 0.09 if uniform and min(shape) < 8 else 0.03 if uniform and min(shape) < 16 else 0.0
    assert sigma_max(law("uniform" if uniform else "normal", shape, std=3**-0.5 if uniform else 1.0)) == pytest.approx(
        real, rel=within + slack
    )


@pytest.mark.parametrize(("n", "draws"), [(1, 4000), (2, 4000), (3, 3000), (8, 1500), (32, 400), (128, 60)])
def test_the_spectral_radius_of_a_law_is_the_mean_over_draws(n, draws) -> None:
    random = np.random.default_rng(2)
    real = [largest(random.standard_normal((n, n))) for _ in range(draws)]
    error = 3 * np.std(real) / draws**0.5 / np.mean(real)
    assert radius(law("normal", (n, n))) == pytest.approx(np.mean(real), rel=error + (0.015 if n == 2 else 0.008))


@pytest.mark.parametrize(("mean", "std"), [(0.01, 1.0), (0.3, 1.0), (0.1, 0.1), (-0.5, 0.2)])
def test_a_mean_adds_an_outlier_only_beyond_the_bulk(mean, std) -> None:
    random = np.random.default_rng(3)
    draws = [mean + std * random.standard_normal((96, 96)) for _ in range(20)]
    assert sigma_max(law("normal", (96, 96), mean, std)) == pytest.approx(
        np.mean([np.linalg.norm(w, 2) for w in draws]), rel=0.02
    )
    assert radius(law("normal", (96, 96), mean, std)) == pytest.approx(np.mean([largest(w) for w in draws]), rel=0.03)


def test_orthogonal_and_identity_matrices_are_exact() -> None:
    assert sigma_max(law("orthogonal", (64, 64), std=1.5 / 8)) == pytest.approx(1.5)
    assert radius(law("orthogonal", (64, 64), std=1.5 / 8)) == pytest.approx(1.5)
    assert sigma_max(law("orthogonal", (128, 32), std=128**-0.5)) == pytest.approx(1.0)
    eye = Law("identity", 1 / 32, 0.0, Moments.of_array(2 * np.eye(32)))
    assert sigma_max(eye) == radius(eye) == pytest.approx(2.0)


def test_one_gate_of_a_stacked_weight() -> None:
    assert radius(law("uniform", (256, 64)), (64, 64)) == radius(law("uniform", (64, 64)))
    with pytest.raises(ValueError, match="256 × 64"):
        radius(law("uniform", (256, 64)))


@pytest.mark.parametrize("n", [40, 300, 700, 1100])
def test_values_are_decomposed(n) -> None:
    random = np.random.default_rng(4)
    w = random.standard_normal((n, n)) / n**0.5 + 0.3 * np.eye(n)
    assert sigma_max(w) == pytest.approx(np.linalg.norm(w, 2), rel=1e-3)
    assert radius(w) == pytest.approx(largest(w), rel=0.01)
    assert radius(np.zeros((n, n))) == 0.0
    assert sigma_max(w[: n // 2]) == pytest.approx(np.linalg.norm(w[: n // 2], 2), rel=1e-3)
