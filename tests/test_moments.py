"""The algebra of moments: what each operation keeps, counts and averages; against arithmetic, brute force and Monte Carlo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradlint.moments import GRID, MAX_ATOMS, Moments, concat, einsum, from_pairs, meet, product, total

quick = settings(deadline=None, derandomize=True, max_examples=40)

SIZES = st.integers(1, 6)
SHAPES = st.lists(SIZES, min_size=1, max_size=3).map(tuple)
VARIANCES = st.floats(0, 4).map(lambda v: round(v, 3))


@st.composite
def laws(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Moments:
    """An array with a component of its own for every set of axes."""
    shape = draw(SHAPES) if shape is None else shape
    dims = tuple((n,) if n > 1 else () for n in shape)
    atoms = sum(map(len, dims))
    v = draw(st.lists(VARIANCES, min_size=2**atoms, max_size=2**atoms))
    return Moments(dims, draw(st.integers(-2, 2)) / 2, np.array(v, dtype=np.float64).reshape((2,) * atoms))


@st.composite
def twins(draw: st.DrawFn) -> tuple[Moments, Moments]:
    """Two independent arrays of one shape."""
    shape = draw(SHAPES)
    return draw(laws(shape)), draw(laws(shape))


def same(x: Moments, y: Moments) -> bool:
    return x.dims == y.dims and x.mean == pytest.approx(y.mean) and bool(np.allclose(x.v, y.v))


def energy(x: Moments, y: Moments) -> float:
    """``E⟨x, y⟩²`` of independent x and y: the contraction of everything to one number."""
    letters = "abcdef"[: len(x.dims)]
    return einsum([letters, letters], "", x, y).q


def everything(x: Moments) -> float:
    """Mean square of the sum of all entries."""
    return x.sum(range(len(x.dims))).q


# ---- the object itself ------------------------------------------------------------------------------------------------


def test_iid_entries() -> None:
    x = Moments.iid((3, 1, 4), mean=2.0, var=5.0)
    assert x.shape == (3, 1, 4)
    assert (x.mean, x.var, x.q) == (2.0, 5.0, 9.0)
    assert x.rms == 3.0
    assert x.v.shape == (2, 2)  # the axis of size 1 carries nothing
    assert x.pairs().tolist() == [[4, 4], [4, 9]]  # two different entries: mean² = 4


def test_a_scalar_has_no_axes() -> None:
    assert Moments.iid((), 3.0, 0.0).q == 9.0
    assert Moments.zeros((2, 3)).rms == 0.0


@quick
@given(laws())
def test_components_and_pair_moments_say_the_same(x: Moments) -> None:
    assert same(from_pairs(x.dims, x.mean, x.pairs()), x)


@quick
@given(laws())
def test_the_last_pair_moment_is_the_mean_square(x: Moments) -> None:
    assert x.shared([]) == pytest.approx(x.q)
    assert x.shared(range(len(x.dims))) == pytest.approx(x.mean**2 + x.v.flat[0])


# ---- reindex ----------------------------------------------------------------------------------------------------------


@quick
@given(laws(), st.randoms(use_true_random=False))
def test_permute_there_and_back(x: Moments, random: Any) -> None:
    order = list(range(len(x.dims)))
    random.shuffle(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    assert x.permute(order).shape == tuple(x.shape[d] for d in order)
    assert same(x.permute(order).permute(back), x)


@quick
@given(laws())
def test_transpose_is_its_own_inverse(x: Moments) -> None:
    assert same(x.transpose(0, -1).transpose(0, -1), x)


@quick
@given(laws())
def test_flattening_forgets_nothing(x: Moments) -> None:
    flat = x.reshape([math.prod(x.shape)])
    assert flat.dims == (tuple(n for n in x.shape if n > 1),)
    assert same(flat.reshape(x.shape), x)


@quick
@given(laws((2, 3, 4)))
def test_batch_and_time_folded_together_and_apart(x: Moments) -> None:
    folded = x.reshape([6, 4])
    assert folded.shape == (6, 4)
    assert same(folded.reshape([2, 3, 4]), x)


@quick
@given(laws((2, 3, 8)))
def test_heads_split_off_and_joined(x: Moments) -> None:
    heads = x.reshape([2, 3, 2, 4]).permute([0, 2, 1, 3])
    assert heads.shape == (2, 2, 3, 4)
    joined = heads.permute([0, 2, 1, 3]).reshape([2, 3, 8])
    assert joined.shape == x.shape
    # two entries of different heads are two different entries of the axis; nothing else changes
    assert same(joined.whole(2), x)


@quick
@given(laws((4, 9)))
def test_a_boundary_through_an_atom_averages(x: Moments) -> None:
    cut = x.reshape([6, 6])
    assert cut.shape == (6, 6)
    assert (cut.mean, cut.q) == pytest.approx((x.mean, x.q))
    assert everything(cut) == pytest.approx(everything(x))  # a sum does not care how its entries are arranged


@quick
@given(laws(), st.data())
def test_any_reshape_keeps_mean_square_and_sum(x: Moments, data: st.DataObject) -> None:
    n = math.prod(x.shape)
    first = data.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
    rest = n // first
    second = data.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
    y = x.reshape([first, second, rest // second])
    assert y.shape == (first, second, rest // second)
    assert y.v.ndim == sum(map(len, y.dims))
    assert (y.mean, y.q) == pytest.approx((x.mean, x.q), abs=1e-9)
    assert everything(y) == pytest.approx(everything(x), abs=1e-9)


def test_an_impossible_reshape_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot reshape"):
        Moments.iid((2, 3)).reshape([4, 3])


def test_too_many_atoms_are_averaged() -> None:
    x = Moments.iid((2,) * (MAX_ATOMS + 2)).reshape([2] * (MAX_ATOMS - 1) + [8])
    assert x.v.ndim <= MAX_ATOMS
    assert x.q == 1.0


@quick
@given(laws((3, 4)))
def test_merged_atoms_average_pairs_by_their_counts(x: Moments) -> None:
    k = x.pairs()
    # of the 11 partners of an entry 3 share its row, 2 its column, 6 neither
    differ = (3 * k[1, 0] + 2 * k[0, 1] + 6 * k[0, 0]) / 11
    assert x.reshape([12]).whole(0).pairs() == pytest.approx([differ, k[1, 1]])


@quick
@given(laws((1, 3)))
def test_copies_are_fully_correlated(x: Moments) -> None:
    k = x.expand([5, 3]).pairs()
    assert k[0] == pytest.approx(k[1])  # a pair from two copies has the moment of a pair from one


# ---- sums and linear combinations -------------------------------------------------------------------------------------


def test_what_varies_adds_up_like_noise_and_what_is_constant_like_a_number() -> None:
    x = Moments(((10,),), 3.0, np.array([2.0, 5.0]))
    y = x.sum([0])
    # n·mean = 30; variance n·5 + n²·2 = 50 + 200
    assert (y.mean, y.var) == (30.0, 250.0)
    assert x.average([0]).var == pytest.approx(2.0 + 5.0 / 10)


@quick
@given(laws())
def test_summing_axis_by_axis_is_summing_at_once(x: Moments) -> None:
    assert same(x.sum([0], keepdim=True).sum(range(len(x.dims))), x.sum(range(len(x.dims))))


@quick
@given(laws(), st.floats(-3, 3))
def test_scaling_multiplies_second_moments_by_the_square(x: Moments, c: float) -> None:
    assert x.scale(c).pairs() == pytest.approx(c**2 * x.pairs())
    assert x.scale(c).mean == pytest.approx(c * x.mean)
    assert x.scale(c).rms == pytest.approx(abs(c) * x.rms)


@quick
@given(laws(), st.floats(-3, 3))
def test_shifting_moves_the_mean_alone(x: Moments, c: float) -> None:
    assert x.shift(c).mean == x.mean + c
    assert x.shift(c).var == x.var


@quick
@given(twins())
def test_adding_then_anything_linear_is_anything_linear_then_adding(both: tuple[Moments, Moments]) -> None:
    x, y = both
    linear: list[Callable[[Moments], Moments]] = [
        lambda m: m.sum([0]),
        lambda m: m.average([-1], keepdim=True),
        lambda m: m.scale(-2.0),
        lambda m: m.permute(range(len(m.dims))[::-1]),
        lambda m: m.reshape([math.prod(m.shape)]),
        lambda m: m.resize(0, 2),
        lambda m: m.expand((3, *m.shape)),
    ]
    for f in linear:
        assert same(f(x + y), f(x) + f(y))
    # two paddings lie in the same place: arrays that are both off zero are no longer independent there
    x = x.shift(-x.mean)
    assert same((x + y).pad(0, 8), x.pad(0, 8) + y.pad(0, 8))


@quick
@given(twins())
def test_cotangents_of_several_consumers_add(both: tuple[Moments, Moments]) -> None:
    x, y = both
    assert same(total([x, y, x]), x + y + x)
    assert same(meet(x, y), x + y)
    assert same(x + y, y + x)


@quick
@given(laws())
def test_centring_removes_the_mean_over_an_axis(x: Moments) -> None:
    c = x.centre([0])
    assert c.sum([0]).q == pytest.approx(0, abs=1e-9)
    assert same(c.centre([0]), c)
    # x = centred + average, uncorrelated: mean squares add
    assert c.q + x.average([0]).q == pytest.approx(x.q, abs=1e-9)


# ---- products and contractions ----------------------------------------------------------------------------------------


@quick
@given(twins())
def test_pair_tables_of_a_product_multiply(both: tuple[Moments, Moments]) -> None:
    x, y = both
    assert product(x, y).pairs() == pytest.approx(x.pairs() * y.pairs())
    assert product(x, y).mean == x.mean * y.mean


@quick
@given(laws((4, 3)), laws((3,)))
def test_a_product_broadcasts(x: Moments, y: Moments) -> None:
    z = product(x, y)
    assert z.shape == (4, 3)
    assert z.q == pytest.approx(x.q * y.q)
    assert z.pairs()[0, 1] == pytest.approx(x.pairs()[0, 1] * y.q)  # two rows meet the same factor


@quick
@given(laws((2, 3)), laws((4, 3)))
def test_a_contraction_is_a_product_and_a_sum(x: Moments, w: Moments) -> None:
    direct = einsum(["bi", "oi"], "bo", x, w)
    by_hand = product(x.reshape([2, 1, 3]), w).sum([2])
    assert direct.shape == (2, 4)
    assert same(direct, by_hand)


@quick
@given(laws((2, 3, 4)), laws((2, 4, 5)))
def test_a_batched_matrix_product(a: Moments, b: Moments) -> None:
    by_hand = product(a.reshape([2, 3, 4, 1]), b.reshape([2, 1, 4, 5])).sum([2])
    assert same(einsum(["bij", "bjk"], "bik", a, b), by_hand)


@quick
@given(laws((2, 3, 4)), laws((5, 4)))
def test_a_contraction_does_not_see_how_rows_are_folded(x: Moments, w: Moments) -> None:
    apart = einsum(["bti", "oi"], "bto", x, w)
    folded = einsum(["ni", "oi"], "no", x.reshape([6, 4]), w).reshape([2, 3, 5])
    assert same(apart, folded)


def test_a_linear_layer() -> None:
    x, w = Moments.iid((8, 64)), Moments.iid((32, 64), var=0.5)
    y = einsum(["bi", "oi"], "bo", x, w)
    assert y.q == 32.0  # fan_in · var = 64 · 0.5
    assert y.pairs()[0, 1] == 0.0  # two samples of white noise stay uncorrelated


def test_a_linear_layer_keeps_the_correlation_of_samples() -> None:
    x = Moments(((8,), (64,)), 0.0, np.array([[0.0, 0.75], [0.0, 0.25]]))  # ρ = 0.75 between samples
    y = einsum(["bi", "oi"], "bo", x, Moments.iid((32, 64), var=1 / 64))
    assert y.pairs()[0, 1] / y.q == pytest.approx(0.75)


# ---- adjoints: ⟨Ax, y⟩ and ⟨x, Aᵀy⟩ are one number ---------------------------------------------------------------------

ADJOINTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[[Moments], Moments], Callable[[Moments], Moments]]] = {
    "sum": ((4, 3), (3,), lambda x: x.sum([0]), lambda y: y.expand((4, 3))),
    "sum, keepdim": ((4, 3), (4, 1), lambda x: x.sum([1], keepdim=True), lambda y: y.expand((4, 3))),
    "average": ((4, 3), (3,), lambda x: x.average([0]), lambda y: y.expand((4, 3)).scale(1 / 4)),
    "expand": ((1, 3), (2, 4, 3), lambda x: x.expand((2, 4, 3)), lambda y: y.fold((1, 3))),
    "slice": ((5, 3), (2, 3), lambda x: x.resize(0, 2), lambda y: y.pad(0, 5)),
    "one index": ((5, 3), (1, 3), lambda x: x.resize(0, 1), lambda y: y.pad(0, 5)),
    "pad": ((2, 3), (2, 7), lambda x: x.pad(1, 7), lambda y: y.resize(1, 3)),
    "permute": ((2, 3, 4), (4, 2, 3), lambda x: x.permute([2, 0, 1]), lambda y: y.permute([1, 2, 0])),
    "flatten": ((2, 3, 4), (6, 4), lambda x: x.reshape([6, 4]), lambda y: y.reshape([2, 3, 4])),
    "cut through": ((4, 9), (6, 6), lambda x: x.reshape([6, 6]), lambda y: y.reshape([36]).whole(0).reshape([4, 9])),
    "centre": ((4, 3), (4, 3), lambda x: x.centre([0]), lambda y: y.centre([0])),
    "centre both": ((4, 3), (4, 3), lambda x: x.centre([0, 1]), lambda y: y.centre([0, 1])),
    "scale": ((4, 3), (4, 3), lambda x: x.scale(-3.0), lambda y: y.scale(-3.0)),
    "zeros beside": ((2, 3), (6, 3), lambda x: concat([x, Moments.zeros((4, 3))], 0), lambda y: y.resize(0, 2)),
}


@pytest.mark.parametrize("name", [name for name in ADJOINTS if name != "cut through"])
@settings(deadline=None, derandomize=True, max_examples=15)
@given(data=st.data())
def test_adjoints_are_adjoint(name: str, data: st.DataObject) -> None:
    source, target, forward, backward = ADJOINTS[name]
    x, y = data.draw(laws(source)), data.draw(laws(target))
    assert forward(x).shape == target
    assert backward(y).shape == source
    assert energy(forward(x), y) == pytest.approx(energy(x, backward(y)), abs=1e-9)


@pytest.mark.parametrize("name", ADJOINTS)
def test_adjoints_of_a_white_cotangent(name: str) -> None:
    source, target, forward, backward = ADJOINTS[name]
    y = Moments.iid(target)
    for index in np.ndindex(*(2,) * sum(n > 1 for n in source)):
        x = Moments.zeros(source)
        x.v[index] = 1.0
        # against white noise the energy is the sum of squares: n_out·E(Ax)²
        assert energy(forward(x), y) == pytest.approx(math.prod(target) * forward(x).q)
        assert energy(x, backward(y)) == pytest.approx(energy(forward(x), y))


@quick
@given(laws((2, 3)), laws((4, 3)), laws((2, 4)))
def test_a_linear_layer_balances_its_energy(x: Moments, w: Moments, g: Moments) -> None:
    forward = energy(einsum(["bi", "oi"], "bo", x, w), g)
    assert energy(x, einsum(["bo", "oi"], "bi", g, w)) == pytest.approx(forward)
    assert energy(w, einsum(["bo", "bi"], "oi", g, x)) == pytest.approx(forward)


@quick
@given(laws((4, 3)), laws((1, 3)), laws((4, 3)))
def test_a_product_balances_its_energy(x: Moments, y: Moments, g: Moments) -> None:
    forward = energy(product(x, y), g)
    assert energy(x, product(g, y)) == pytest.approx(forward)
    assert energy(y, product(g, x).fold((1, 3))) == pytest.approx(forward)


@quick
@given(laws((2, 3)), laws((4, 3)))
def test_parts_share_out_a_white_cotangent(x: Moments, y: Moments) -> None:
    white = Moments.iid((6, 3))
    parts = energy(x, white.resize(0, 2)) + energy(y, white.resize(0, 4))
    assert energy(concat([x, y], 0), white) == pytest.approx(parts)


# ---- real arrays ------------------------------------------------------------------------------------------------------


def brute_force(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean product over all pairs of entries, by the axes they share."""
    sums, counts = np.zeros((2,) * x.ndim), np.zeros((2,) * x.ndim)
    for i, j in itertools.product(np.ndindex(*x.shape), repeat=2):
        shares = tuple(int(a == b) for a, b in zip(i, j, strict=True))
        sums[shares] += x[i] * x[j]
        counts[shares] += 1
    return np.asarray(sums / counts)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_a_real_array_is_the_average_over_its_pairs(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(0.5, 1.0, shape) + np.arange(shape[-1])
    x = Moments.of_array(values)
    assert x.pairs() == pytest.approx(brute_force(values))
    assert x.mean == pytest.approx(values.mean())
    assert x.value is not None


def test_axes_of_one_entry_do_not_count() -> None:
    values = np.arange(6.0).reshape(1, 3, 1, 2)
    x = Moments.of_array(values)
    assert x.dims == ((), (3,), (), (2,))
    assert x.pairs() == pytest.approx(brute_force(values.reshape(3, 2)))
    assert Moments.of_array(np.float64(3.0)).q == 9.0


def test_the_sum_of_a_real_array_is_known() -> None:
    values = np.random.default_rng(1).normal(size=(4, 5))
    x = Moments.of_array(values)
    assert everything(x) == pytest.approx(values.sum() ** 2)
    assert x.sum([0]).q == pytest.approx((values.sum(0) ** 2).mean())


def test_values_follow_a_view() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    x = Moments.of_array(values)
    np.testing.assert_array_equal(x.permute([2, 0, 1]).value, values.transpose(2, 0, 1))
    np.testing.assert_array_equal(x.reshape([6, 4]).value, values.reshape(6, 4))
    np.testing.assert_array_equal(x.scale(2.0).shift(1.0).value, 2 * values + 1)
    np.testing.assert_array_equal(x.expand([5, 2, 3, 4]).value, np.broadcast_to(values, (5, 2, 3, 4)))


@pytest.mark.parametrize("shape", [(40, 50), (12, 10, 16)])
def test_a_sample_of_white_noise_is_white_noise(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(2).normal(size=shape)
    x = Moments.of_sample(values)
    assert x.mean == 0.0
    assert np.count_nonzero(x.v) == 1
    assert x.v[(-1,) * len(shape)] == pytest.approx((values**2).mean())  # the mean square is the sample's own


def test_a_sample_keeps_what_is_above_its_noise() -> None:
    rng = np.random.default_rng(3)
    values = 2.0 + rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, 50))  # the rows differ, the columns do not
    x = Moments.of_sample(values)
    assert x.mean == pytest.approx(values.mean())
    assert x.v[1, 0] == pytest.approx(1.0, rel=0.3)
    assert x.v[0, 1] == 0.0
    assert x.q == pytest.approx((values**2).mean())


# ---- maps by a scalar function ----------------------------------------------------------------------------------------

RHO = (0.0, 0.3, 0.9)


def correlated(rho: float, var: float = 1.0, mean: float = 0.0) -> Moments:
    return Moments(((7,),), mean, np.array([rho * var, (1 - rho) * var]))


@pytest.mark.parametrize("rho", [-0.5, *RHO, 0.99])
def test_relu_has_the_arc_cosine_kernel(rho: float) -> None:
    x = correlated(rho)
    differ, same_ = x.map(np.maximum(x.on_grid(), 0)).pairs()
    angle = math.acos(rho)
    assert differ == pytest.approx((math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi), abs=2e-4)
    assert same_ == pytest.approx(0.5, abs=1e-4)
    assert x.map(np.maximum(x.on_grid(), 0)).mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-4)


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("var", [0.25, 1.0, 3.0])
def test_erf_has_the_arc_sine_kernel(rho: float, var: float) -> None:
    x = correlated(rho, var)
    erf = np.array([math.erf(u) for u in x.on_grid()])
    differ, same_ = x.map(erf).pairs()
    # E erf(u)erf(u') = 2/π·asin(2ρσ²/(1 + 2σ²))
    assert differ == pytest.approx(2 / math.pi * math.asin(2 * rho * var / (1 + 2 * var)), abs=1e-6)
    assert same_ == pytest.approx(2 / math.pi * math.asin(2 * var / (1 + 2 * var)), abs=1e-6)


@pytest.mark.parametrize("rho", RHO)
def test_exp_is_log_normal(rho: float) -> None:
    mean, var = 0.5, 0.4
    x = correlated(rho, var, mean)
    y = x.map(np.exp(x.on_grid()))
    assert y.mean == pytest.approx(math.exp(mean + var / 2))
    assert y.pairs() == pytest.approx([math.exp(2 * mean + var * (1 + rho)), math.exp(2 * mean + 2 * var)])


@pytest.mark.parametrize("rho", RHO)
def test_the_identity_changes_nothing(rho: float) -> None:
    x = correlated(rho, 2.0, -1.5)
    assert same(x.map(x.on_grid()), x)


@pytest.mark.parametrize("rho", RHO)
def test_a_square(rho: float) -> None:
    x = correlated(rho)
    assert x.map(x.on_grid() ** 2).pairs() == pytest.approx([1 + 2 * rho**2, 3.0])


def test_a_map_of_a_constant_is_a_constant() -> None:
    y = Moments.iid((4,), 2.0, 0.0).map(np.full(GRID.z.shape, 8.0))
    assert (y.mean, y.var) == (8.0, 0.0)


@quick
@given(laws())
def test_a_map_never_correlates_more_than_fully(x: Moments) -> None:
    assume(x.var > 0)
    y = x.map(np.tanh(x.on_grid()))
    assert y.q <= 1.0
    assert np.all(y.pairs() <= y.q * (1 + 1e-9))


# ---- concatenation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (1, 4, 2), (3,)])
def test_concatenation_counts_pairs(sizes: tuple[int, ...]) -> None:
    """A part that repeats one row of real values has a law known entry by entry; so has the whole."""
    rows = [Moments(((3,),), 0.5 * i - 0.3, np.array([0.2 * i, 1.0 + i])) for i in range(len(sizes))]
    parts = [row.reshape([1, 3]).expand([n, 3]) for row, n in zip(rows, sizes, strict=True)]
    whole = concat(parts, 0)
    owner = [i for i, n in enumerate(sizes) for _ in range(n)]
    n = len(owner)
    expected, counts = np.zeros((2, 2)), np.zeros((2, 2))
    for a, b in itertools.product(range(n), repeat=2):
        for column in (0, 1):
            one = rows[owner[a]].pairs()[column]
            across = rows[owner[a]].mean * rows[owner[b]].mean
            expected[int(a == b), column] += one if owner[a] == owner[b] else across
            counts[int(a == b), column] += 1
    assert whole.shape == (n, 3)
    assert whole.mean == pytest.approx(sum(rows[i].mean for i in owner) / n)
    assert whole.pairs() == pytest.approx(expected / counts)


@quick
@given(laws((2, 3)), laws((4, 3)), laws((1, 3)))
def test_the_sum_of_a_concatenation_is_the_sum_of_its_parts(x: Moments, y: Moments, z: Moments) -> None:
    assert everything(concat([x, y, z], 0)) == pytest.approx(everything(total([p.sum([0]) for p in (x, y, z)])))


@quick
@given(laws((2, 3)))
def test_zeros_beside_are_padding(x: Moments) -> None:
    assert same(concat([x, Moments.zeros((3, 3))], 0), x.pad(0, 5))


# ---- small programs against Monte Carlo -------------------------------------------------------------------------------

DRAWS = 300
BATCH, WIDTH = 6, 40

Pair = tuple[Moments, np.ndarray[Any, Any]]  # a law, and draws from it


def normal(rng: np.random.Generator, shape: tuple[int, ...], mean: float, std: float) -> Pair:
    return Moments.iid(shape, mean, std**2), rng.normal(mean, std, (DRAWS, *shape))


def linear(rng: np.random.Generator, x: Pair) -> Pair:
    w, samples = normal(rng, (WIDTH, x[0].shape[-1]), 0.0, x[0].shape[-1] ** -0.5)
    return einsum(["bi", "oi"], "bo", x[0], w), np.einsum("rbi,roi->rbo", x[1], samples)


def add(rng: np.random.Generator, x: Pair) -> Pair:
    bias, samples = normal(rng, (x[0].shape[-1],), 0.2, 0.5)
    return x[0] + bias, x[1] + samples[:, None]


def mul(rng: np.random.Generator, x: Pair) -> Pair:
    gain, samples = normal(rng, (x[0].shape[-1],), 1.0, 0.4)
    return product(x[0], gain), x[1] * samples[:, None]


def mean(rng: np.random.Generator, x: Pair) -> Pair:
    other, samples = normal(rng, (BATCH, x[0].shape[-1]), 0.0, 0.5)
    return x[0].average([0], keepdim=True) + other, x[1].mean(1, keepdims=True) + samples


def cat(rng: np.random.Generator, x: Pair) -> Pair:
    other, samples = normal(rng, (BATCH, 10), -0.5, 1.5)
    return concat([x[0], other], 1), np.concatenate([x[1], samples], 2)


def relu(rng: np.random.Generator, x: Pair) -> Pair:
    law, samples = linear(rng, x)  # sums of many terms are Gaussian, as a map wants them
    return law.map(np.maximum(law.on_grid(), 0)), np.maximum(samples, 0)


STEPS = (linear, add, mul, mean, cat, relu)


@pytest.mark.parametrize("seed", range(12))
def test_small_programs_agree_with_monte_carlo(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, (BATCH, WIDTH), 0.3, 1.0)
    for choice in rng.integers(len(STEPS), size=5):
        x = STEPS[choice](rng, x)
    law, samples = x
    measured = np.mean([Moments.of_array(s).pairs() for s in samples], 0)
    assert law.whole(1).pairs() == pytest.approx(measured, abs=0.06 * measured[-1, -1])
    assert law.mean == pytest.approx(samples.mean(), abs=0.06 * law.rms)
