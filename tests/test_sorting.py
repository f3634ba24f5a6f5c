"""Orders of systems: permutations, short paths, and what each method promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nsolve.sequence import sort_systems
from nsolve.sequence.sorting import hilbert_index

METHODS = ("greedy", "grouped", "hilbert")
methods = pytest.mark.parametrize("method", METHODS)


def path_length(parameters, order):
    rows = np.reshape(parameters, (len(parameters), -1))[order]
    return np.linalg.norm(np.diff(rows, axis=0), axis=1).sum()


def fields(count, size, seed=0):
    """Smooth random fields, shape (count, size, size)."""
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(size, 1 / size)
    decay = (1 + k[:, None] ** 2 + k**2) ** -1.5
    return np.fft.ifft2(np.fft.fft2(rng.standard_normal((count, size, size))) * decay).real


arrays = st.sampled_from(["float64", "float32", "int32", "complex128", "bool"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=12),
        elements=None if dtype in ("int32", "bool") else {"allow_nan": False, "allow_infinity": False},
    )
)


@methods
@given(arrays)
def test_an_order_is_a_permutation(method, parameters):
    order = sort_systems(parameters, method)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(parameters)))


@methods
@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300])
def test_extreme_parameters_can_be_sorted(method, scale):
    parameters = scale * np.random.default_rng(0).standard_normal((50, 4, 4))
    assert sorted(sort_systems(parameters, method).tolist()) == list(range(50))


def test_greedy_goes_to_the_nearest_that_is_left():
    rng = np.random.default_rng(0)
    for shape in ((60,), (60, 3), (60, 4, 5)):
        parameters = rng.standard_normal(shape) + 100
        rows = parameters.reshape(60, -1)
        left, reference = set(range(1, 60)), [0]
        while left:
            here = rows[reference[-1]]
            reference.append(min(left, key=lambda j, here=here: np.linalg.norm(rows[j] - here)))
            left.remove(reference[-1])
        assert sort_systems(parameters).tolist() == reference


@methods
def test_sorted_paths_are_shorter(method):
    rng = np.random.default_rng(1)
    for parameters, ratio in ((rng.standard_normal((1500, 2)), 0.1), (fields(1500, 20), 0.7)):
        order = sort_systems(parameters, method)
        assert path_length(parameters, order) < ratio * path_length(parameters, np.arange(1500))


@methods
def test_a_shuffled_curve_is_found_again(method):
    t = np.random.default_rng(0).permutation(300)
    order = sort_systems(t / 300.0, method)
    if method == "greedy":  # starts in the middle: one jump
        assert path_length(t, order) <= 2 * 299
    else:
        assert path_length(t, order) < 4 * 299


@methods
def test_pytrees_are_concatenated(method):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((80, 3)), rng.standard_normal(80) + 1j * rng.standard_normal(80)
    joined = np.column_stack([a, b.real, b.imag])
    order = sort_systems({"a": a, "b": b}, method)
    np.testing.assert_array_equal(order, sort_systems(joined, method))


@methods
def test_the_unit_of_parameters_does_not_matter(method):
    parameters = fields(300, 8)
    np.testing.assert_array_equal(
        sort_systems(parameters, method), sort_systems(2.0**30 * parameters, method)
    )


def test_many_systems():
    rng = np.random.default_rng(0)
    parameters = rng.standard_normal((100_000, 2)).astype(np.float32)
    for method in ("grouped", "hilbert"):
        order = sort_systems(parameters, method)
        np.testing.assert_array_equal(np.sort(order), np.arange(100_000))
        assert path_length(parameters, order) < 0.02 * path_length(parameters, np.arange(100_000))


def test_low_frequencies_decide_on_cells():
    """Noise at high frequency does not change which cell a field is in."""
    rng = np.random.default_rng(0)
    coarse = np.array([-1.0, 1.0])[rng.integers(0, 2, 400)]
    x = np.arange(32)
    wave = np.cos(2 * np.pi * x / 32)[:, None] * np.ones(32)
    checkers = (-1.0) ** (x[:, None] + x)
    parameters = coarse[:, None, None] * wave + 5 * rng.standard_normal((400, 1, 1)) * checkers
    order = sort_systems(parameters, "hilbert")
    assert (np.diff(coarse[order]) != 0).sum() == 1
    assert (np.diff(coarse[sort_systems(parameters, "greedy")]) != 0).sum() > 1


@pytest.mark.parametrize("dimensions", [1, 2, 3, 7])
def test_the_hilbert_curve_visits_neighbours(dimensions):
    side = {1: 16, 2: 16, 3: 8, 7: 2}[dimensions]
    grid = np.array(list(itertools.product(range(side), repeat=dimensions)), np.uint64)
    index = hilbert_index(grid)
    assert sorted(index.tolist()) == list(range(len(grid)))
    steps = np.abs(np.diff(grid[np.argsort(index)].astype(int), axis=0)).sum(axis=1)
    assert (steps == 1).all()


@pytest.mark.parametrize(
    ("parameters", "method", "error", "message"),
    [
        (np.zeros((3, 2)), "best", ValueError, r"`method` must be one of \('greedy', .* not 'best'"),
        (np.zeros((0, 2)), "greedy", ValueError, "`parameters` is empty"),
        (np.zeros((3, 0)), "greedy", ValueError, "`parameters` is empty"),
        ({}, "greedy", ValueError, "`parameters` must be an array"),
        (3.0, "greedy", ValueError, "`parameters` must be an array"),
        ((np.zeros(3), np.zeros((4, 2))), "grouped", ValueError, r"shapes \[\(3,\), \(4, 2\)\]"),
        (np.array([1.0, np.nan, np.inf]), "hilbert", ValueError, r"NaN or Inf in system 1 \(2 systems"),
        (np.array(["a", "b"]), "greedy", TypeError, "`parameters` must hold numbers"),
    ],
)
def test_bad_parameters_are_named(parameters, method, error, message):
    with pytest.raises(error, match=message):
        sort_systems(parameters, method)
