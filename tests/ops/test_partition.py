import math

import numpy as np
import pytest

from gradlint.ops.partition import log_partition, participation


def simulated(length, variance):
    """Means over real draws of `Σp²`, of `Σp² − 2Σp³ + (Σp²)²` and of the loss, with standard errors; the loss's variance."""
    rng = np.random.default_rng(5)
    scores = math.sqrt(variance) * rng.standard_normal((2_000_000 // length, length))
    top = scores.max(1, keepdims=True)
    p = np.exp(scores - top)
    total = p.sum(1, keepdims=True)
    loss = (np.log(total) + top)[:, 0] - scores[:, 0]
    p /= total
    p2, p3 = (p**2).sum(1), (p**3).sum(1)
    samples = (p2, p2 - 2 * p3 + p2**2, loss, (loss - loss.mean()) ** 2)
    return [(x.mean(), x.std() / math.sqrt(len(x))) for x in samples]


@pytest.mark.parametrize("length", [2, 5, 32, 512])
@pytest.mark.parametrize("variance", [1e-3, 0.1, 0.24, 0.26, 1.0, 3.0, 20.0, 100.0])
def test_sums_of_softmax_weights_agree_with_draws(length, variance):
    squares, spread = participation(length, variance)
    _, loss, loss_variance = log_partition(length, variance)
    for mine, (mean, error) in zip((squares, spread, loss, loss_variance), simulated(length, variance), strict=True):
        assert abs(mine - mean) < 5 * error + 1e-9


def test_of_equal_scores_is_exact():
    squares, spread = participation([1, 4], 0.0)
    assert squares.tolist() == [1.0, 0.25]
    assert spread.tolist() == [0.0, 0.1875]
    assert log_partition(7, 0.0) == (1 / 7, math.log(7), 0.0)


def test_one_score_has_all_the_weight():
    squares, spread = participation(1, 2.0)
    assert squares == pytest.approx(1.0, abs=1e-12)
    assert spread == pytest.approx(0.0, abs=1e-11)
    assert log_partition(1, 2.0)[1:] == pytest.approx((0.0, 0.0), abs=1e-11)


@pytest.mark.parametrize("length", [2, 100, 50_257])
def test_small_variances_are_continuous(length):
    """To first order in the variance v, `E Σp² = (1 + v(1 − 1/n))/n` and `E logsumexp = log n + v(1 − 1/n)/2`."""
    v = 1e-6
    rest = 1 - 1 / length
    assert participation(length, v)[0] == pytest.approx((1 + v * rest) / length, rel=1e-10)
    assert log_partition(length, v)[1] == pytest.approx(math.log(length) + v * rest / 2, rel=1e-10)


def test_large_variances_go_on_smoothly():
    below, above = participation(32, 1023.9), participation(32, 1024.1)
    assert above[0] == pytest.approx(below[0], rel=1e-4)
    assert above[1] == pytest.approx(below[1], rel=1e-3)
    assert log_partition(32, 1024.1)[1:] == pytest.approx(log_partition(32, 1023.9)[1:], rel=1e-3)
    assert participation(32, math.inf)[0] == 1.0
    assert math.isnan(participation(32, math.nan)[0])
