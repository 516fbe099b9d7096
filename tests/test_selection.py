"""Known positions and known matrices: pair tables against counting every pair of entries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlint.moments import Moments, Selection, Window
from gradlint.moments.selection import Positions
from gradlint.moments.tables import Array


def random_law(shape: Sequence[int], seed: int) -> Moments:
    """A mean and a variance for every component."""
    draw = np.random.default_rng(seed)
    x = Moments.iid(shape)
    return Moments(x.dims, float(draw.normal()), draw.uniform(0.1, 1.0, x.v.shape))


def second_moments(x: Moments) -> Array:
    """``E[x_i x_j]`` of every two entries, shape (numel, numel)."""
    cells = list(np.ndindex(*x.shape))
    table = x.pairs()
    real = [d for d, n in enumerate(x.shape) if n > 1]
    return np.array([[table[tuple(int(i[d] == j[d]) for d in real)] for j in cells] for i in cells])


def averaged(matrix: Array, shape: Sequence[int]) -> Array:
    """The pair table of an array of ``shape`` with these second moments of its entries."""
    cells, real = list(np.ndindex(*shape)), [d for d, n in enumerate(shape) if n > 1]
    total, count = np.zeros((2,) * len(real)), np.zeros((2,) * len(real))
    for (a, i), (b, j) in itertools.product(enumerate(cells), repeat=2):
        kind = tuple(int(i[d] == j[d]) for d in real)
        total[kind] += matrix[a, b]
        count[kind] += 1
    return total / count


def as_matrix(source: Positions, numel: int) -> Array:
    """The selection as a matrix of zeros and ones, shape (results, sources)."""
    flat = source.reshape(-1)
    matrix = np.zeros((flat.size, numel))
    matrix[np.flatnonzero(flat >= 0), flat[flat >= 0]] = 1.0
    return matrix


def check(found: Selection, source: Positions, shape: Sequence[int]) -> None:
    matrix = as_matrix(source, math.prod(shape))
    x, g = random_law(shape, 1), random_law(source.shape, 2)
    y, back = found.gather(x), found.spread(g)
    assert (y.shape, back.shape) == (source.shape, tuple(shape))
    assert y.mean == pytest.approx(x.mean * matrix.sum() / len(matrix))
    assert back.mean == pytest.approx(g.mean * matrix.sum() / matrix.shape[1])
    np.testing.assert_allclose(y.pairs(), averaged(matrix @ second_moments(x) @ matrix.T, source.shape), atol=1e-9)
    np.testing.assert_allclose(back.pairs(), averaged(matrix.T @ second_moments(g) @ matrix, shape), atol=1e-9)


VIEWS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "diagonal": ((2, 4, 4), lambda t: t.diagonal(0, 1, 2)),
    "matrix of a diagonal": ((4,), torch.diag),
    "upper triangle": ((2, 4, 4), torch.triu),
    "windows": ((2, 7), lambda t: t.unfold(1, 3, 2)),
    "windows of equal entries": ((1, 6, 1), lambda t: t.unfold(1, 3, 1)),
    "rows with repetitions": ((3, 4), lambda t: t[:, [0, 2, 2, 1, 0]]),
    "one entry": ((3, 4), lambda t: t[1, 2]),
    "one column": ((3, 4), lambda t: t[:, 1]),
    "pairs of indices": ((3, 4), lambda t: t[[0, 1, 1], [3, 0, 0]]),
    "indices per row": ((3, 4), lambda t: t.gather(1, torch.tensor([[0, 0], [1, 3], [2, 2]]))),
    "padding": ((2, 3), lambda t: torch.nn.functional.pad(t, (1, 2, 0, 1))),
    "turned": ((2, 3), torch.rot90),
    "broadcast": ((3, 1), lambda t: t.expand(3, 4)),
    "a mask": ((3, 4), lambda t: t[torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()]),
    "reordered axes": ((2, 3, 4), lambda t: t.permute(2, 0, 1).flip(0)),
    "overlapping strides": ((8,), lambda t: t.as_strided((3, 4), (2, 1))),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_counted_exactly(name: str) -> None:
    shape, view = VIEWS[name]
    marks = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)
    source = view(marks).numpy().astype(np.int64) - 1
    check(Selection(source, shape), source, shape)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    result=st.lists(st.integers(1, 4), min_size=0, max_size=2).map(tuple),
    seed=st.integers(0, 2**16),
)
def test_any_map_of_entries_is_counted_exactly(shape: tuple[int, ...], result: tuple[int, ...], seed: int) -> None:
    source = np.random.default_rng(seed).integers(-1, math.prod(shape), result)
    check(Selection(source, shape), source, shape)


def test_a_selection_within_some_axes() -> None:
    shape, inner = (3, 4, 2), np.array([[0, 5], [5, 7]])  # of the axes 1 and 2 together, to the places 0 and 2
    found = Selection.within(shape, [1, 2], inner, [0, 2])
    marks = np.arange(24).reshape(3, 8)
    source = np.moveaxis(marks[:, inner], 0, 1)
    check(found, source, shape)


@settings(deadline=None, max_examples=40)
@given(inputs=st.integers(1, 5), outputs=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_a_matrix_along_an_axis(inputs: int, outputs: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(outputs, inputs))
    x, g = random_law((2, inputs), 3), random_law((2, outputs), 4)
    whole = np.kron(np.eye(2), matrix)
    y, back = Window.of(matrix)(x, 1), Window.of(matrix).adjoint(g, -1)
    np.testing.assert_allclose(y.pairs(), averaged(whole @ second_moments(x) @ whole.T, (2, outputs)), atol=1e-9)
    np.testing.assert_allclose(back.pairs(), averaged(whole.T @ second_moments(g) @ whole, (2, inputs)), atol=1e-9)
    assert y.mean == pytest.approx(x.mean * matrix.sum() / outputs)


def test_a_square_matrix_on_one_of_two_tensors() -> None:
    """``E[(Mx)_i b_j]`` from ``E[x_i b_j]``; the adjoint gives the same."""
    matrix = np.random.default_rng(3).normal(size=(4, 4))
    whole, c = np.kron(np.eye(2), matrix), replace(random_law((2, 4), 5), mean=0.0)
    for m, act in ((whole, Window.of(matrix)), (whole.T, Window.of(matrix).adjoint)):
        np.testing.assert_allclose(act.against(c, 1).pairs(), averaged(m @ second_moments(c), (2, 4)), atol=1e-9)


def test_taps_outside_the_axis_count_nothing() -> None:
    places = np.array([[-1, 0], [1, 2], [3, 4]])
    weights = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    dense = np.array([[2.0, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 5]])
    assert Window.of_taps(4, places, weights) == Window.of(dense)


def test_entries_of_a_sparse_matrix_add_up() -> None:
    rows, columns, weights = np.array([0, 0, 2, 0]), np.array([1, 3, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    assert Window.of_entries((3, 4), rows, columns, weights) == Window.of([[0, 5, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]])
