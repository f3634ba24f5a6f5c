"""Incomplete factors and triangular solves by sweeps, the form that devices other than CPUs take."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve import _ffi
from nsolve.kernels import _sweeps, incomplete_cholesky, incomplete_lu, triangular_solves
from nsolve.preconditioners import IncompleteCholesky, IncompleteLU
from nsolve.preconditioners.triangular import triangle
from tests.test_incomplete import (
    DTYPES,
    PSD,
    dense_ic,
    dense_ilu,
    general,
    hermitian,
    kershaw,
    sparse,
    tolerance,
)
from tests.test_sparse_inverse import KEY, steps


@pytest.fixture
def elsewhere(monkeypatch):
    """What is lowered for a CPU takes the form of other platforms.  For sizes that no other test has, since
    caches know nothing of it."""
    monkeypatch.setattr(_ffi, "_registered", lambda kernel, dtype: False)
    monkeypatch.setattr(_ffi, "_portable", _ffi._elsewhere)


@pytest.fixture
def to_the_end(monkeypatch):
    """Factors sweep until nothing moves at all."""
    monkeypatch.setattr(_sweeps, "_SETTLED", 0.0)


def truncated(factor, sweeps):
    """`I - N + N^2 - …` up to that power, densely."""
    matrix = np.zeros(factor.pattern.shape, factor.values.dtype)
    matrix[factor.pattern.rows, factor.pattern.indices] = factor.values
    total = power = np.eye(len(matrix))
    for _ in range(sweeps):
        power = -matrix @ power
        total = total + power
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.1, 0.4])
def test_sweeps_settle_at_the_incomplete_factors(dtype, density, to_the_end):
    n = 30
    a = hermitian(n, density, dtype)
    matrix = sparse(a)
    strict, positions = triangle(matrix.pattern, True)
    factor, inverse = incomplete_cholesky.factorise(strict, matrix.values[positions], matrix.diagonal(), True)
    low = dense_ic(a)
    np.testing.assert_allclose(factor, (low / np.diag(low))[np.tril(a, -1) != 0], atol=tolerance(dtype))
    np.testing.assert_allclose(1 / inverse, np.diag(low) ** 2, rtol=10 * tolerance(dtype))
    assert factor.dtype == inverse.dtype == dtype

    a = general(n, density, dtype)
    matrix = sparse(a)
    factor, inverse = incomplete_lu.factorise(matrix.pattern, matrix.values, True)
    low, up = dense_ilu(a)
    np.testing.assert_allclose(factor, (low - np.eye(n) + up)[a != 0], atol=10 * tolerance(dtype))
    np.testing.assert_allclose(1 / inverse, np.diag(up), rtol=10 * tolerance(dtype))
    assert factor.dtype == inverse.dtype == dtype


@pytest.mark.parametrize("make, tags", [(IncompleteCholesky, (PSD,)), (IncompleteLU, ())])
def test_settled_factors_are_near_the_exact_ones(make, tags):
    """In several digits, on a chain of as many levels as unknowns, and whatever the units."""
    n = 200
    line = np.diag(np.full(n, 2.05)) - np.eye(n, k=1) - np.eye(n, k=-1)
    units = 10.0 ** np.random.default_rng(0).uniform(-6, 6, n)
    for a in (line, units[:, None] * line * units):
        exact, swept = make()(sparse(a, *tags)), make(sweeps=3)(sparse(a, *tags))
        np.testing.assert_allclose(swept.scale, exact.scale, rtol=1e-3)
        size = np.sqrt(np.asarray(exact.scale))
        weight = size[exact.lower.pattern.rows] / size[exact.lower.pattern.indices]
        np.testing.assert_allclose(weight * swept.lower.values, weight * exact.lower.values, atol=1e-3)


def test_sweeps_that_have_not_settled_go_on_to_the_last_level():
    """A chain along which every entry moves by a lot until those before it are final."""
    n = 60
    low = np.eye(n) - 0.999 * np.eye(n, k=-1)
    a = low @ low.T
    exact, swept = (IncompleteCholesky(sweeps=k)(sparse(a, PSD)) for k in (None, 1))
    np.testing.assert_allclose(swept.scale, exact.scale, rtol=1e-2)


@pytest.mark.parametrize("sweeps", [0, 1, 4])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_solves_are_truncated_series_and_stay_positive_definite(sweeps, dtype, to_the_end):
    a = hermitian(30, 0.2, dtype, dominance=0.9)
    exact = IncompleteCholesky()(sparse(a, PSD))
    inverse = IncompleteCholesky(sweeps=sweeps)(sparse(a, PSD))
    half = truncated(exact.lower, sweeps)
    expected = half.conj().T @ (np.asarray(exact.scale)[:, None] * half)
    np.testing.assert_allclose(inverse.as_matrix(), expected, atol=1e-12)
    np.testing.assert_allclose(inverse.transpose().as_matrix(), expected.T, atol=1e-12)
    np.testing.assert_allclose(lx.conj(inverse).as_matrix(), expected.conj(), atol=1e-12)
    assert lx.is_positive_semidefinite(inverse) and np.linalg.eigvalsh(expected).min() > 0
    assert f"each by {sweeps} sweep{'s' * (sweeps != 1)}; shift 0" in repr(inverse)

    a = general(30, 0.2, dtype)
    exact, inverse = (IncompleteLU(sweeps=k)(sparse(a)) for k in (None, sweeps))
    below, above = truncated(exact.lower, sweeps), truncated(exact.upper, sweeps)
    expected = above @ (np.asarray(exact.scale)[:, None] * below)
    np.testing.assert_allclose(inverse.as_matrix(), expected, atol=1e-12)
    np.testing.assert_allclose(inverse.transpose().as_matrix(), expected.T, atol=1e-12)


def test_breakdown_is_found_by_sweeps_as_well():
    a = sparse(kershaw(), PSD)
    exact, swept = IncompleteCholesky()(a), IncompleteCholesky(sweeps=9)(a)
    assert swept.shift == exact.shift > 0
    np.testing.assert_allclose(swept.as_matrix(), exact.as_matrix(), atol=1e-3)
    zero_pivot = sparse(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]))
    with pytest.raises(ValueError, match="zero pivot .* row 1"):
        IncompleteLU(sweeps=3)(zero_pivot)
    scale = jax.jit(lambda v: IncompleteLU(sweeps=3)(zero_pivot.with_values(v)).scale)(zero_pivot.values)
    assert jnp.isnan(scale[1:]).all() and scale[0] == 1
    for make, tags in ((IncompleteCholesky, (PSD,)), (IncompleteLU, ())):
        bad = sparse(hermitian(10), *tags)
        bad = bad.with_values(bad.values.at[bad.pattern.diagonal_positions[4]].set(jnp.nan))
        assert jnp.isnan(make(sweeps=3)(bad).mv(jnp.ones(10))).any()


def test_refresh_batches_and_derivatives_of_sweeps():
    dense = hermitian(25)
    a, x = sparse(dense, PSD), jnp.arange(25.0)
    inverse = IncompleteCholesky(sweeps=3)(a)
    other = a.with_values(1.5 * a.values)
    expected = IncompleteCholesky(sweeps=3)(other).mv(x)
    np.testing.assert_allclose(eqx.filter_jit(lambda m, o: m.refresh(o).mv(x))(inverse, other), expected)
    both = jnp.stack([a.values, other.values])
    batched = jax.vmap(lambda values: inverse.refresh(a.with_values(values)).mv(x))(both)
    np.testing.assert_allclose(batched, jnp.stack([inverse.mv(x), expected]), rtol=1e-12)
    gradient = jax.grad(lambda x: inverse.mv(x)[7])(x)
    np.testing.assert_allclose(gradient, inverse.as_matrix()[7], rtol=1e-12)


SYSTEMS = {
    "poisson": lambda: ns.as_sparse(ns.gallery.poisson(KEY, (48, 48)).operator),
    "triangles": lambda: ns.gallery.finite_elements.poisson(KEY, 32).operator,
    "anisotropic": lambda: ns.as_sparse(ns.gallery.anisotropic(KEY, (32, 32), epsilon=0.05).operator),
}


@pytest.mark.compiles("solves of several matrices and preconditioners")
@pytest.mark.parametrize("name", SYSTEMS)
def test_more_sweeps_take_fewer_steps(name):
    matrix = SYSTEMS[name]()
    exact = steps(matrix, IncompleteCholesky())
    few, more = (steps(matrix, IncompleteCholesky(sweeps=k)) for k in (1, 8))
    assert exact <= more + 1 < few
    enough = int(device_count(IncompleteCholesky()(matrix)))
    assert steps(matrix, IncompleteCholesky(sweeps=enough)) <= 1.15 * exact + 1


def device_count(inverse):
    """What set-up finds elsewhere."""
    patterns = inverse.lower.pattern, inverse.upper.pattern
    (count,) = triangular_solves._counted(patterns, inverse.lower.values, inverse.scale, inverse.upper.values)
    return count


@pytest.mark.compiles("solves with two preconditioners, their derivatives and batches")
@pytest.mark.parametrize(
    "make, solver, tags", [(IncompleteCholesky(), ns.CG, (PSD,)), (IncompleteLU(), ns.GMRES, ())]
)
def test_what_other_platforms_run(make, solver, tags, elsewhere):
    n = 83
    dense = hermitian(n, 0.1, dominance=1.02) if tags else general(n, 0.1)
    a, b = sparse(dense, *tags), jnp.asarray(np.random.default_rng(1).standard_normal(n))
    inverse = eqx.filter_jit(make)(a)
    count = int(inverse.enough)
    assert 1 <= count < 30 and f", each by {count} sweep" in repr(inverse)
    matrix = np.asarray(inverse.as_matrix())
    halves = truncated(inverse.upper, count), truncated(inverse.lower, count)
    np.testing.assert_allclose(matrix, halves[0] @ (inverse.scale[:, None] * halves[1]), atol=1e-12)
    np.testing.assert_allclose(inverse.transpose().as_matrix(), matrix.T, atol=1e-12)
    low, up = dense_ilu(dense)  # of a Hermitian matrix the Cholesky factors, scaled
    kept = np.linalg.inv(low @ up).real
    size = np.sqrt(np.diag(dense))
    assert abs(size[:, None] * (matrix - kept) * size).max() < 0.2  # each solve leaves a tenth
    if tags:
        assert np.linalg.eigvalsh(matrix).min() > 0

    # Made for a CPU and taken elsewhere, it is exact.
    exact = eqx.tree_at(lambda inverse: inverse.enough, inverse, jnp.asarray(-1, jnp.int32))
    halves = truncated(inverse.upper, n), truncated(inverse.lower, n)
    np.testing.assert_allclose(
        exact.as_matrix(), halves[0] @ (inverse.scale[:, None] * halves[1]), atol=1e-12
    )

    forward, gradient = jax.jvp(inverse.mv, (b,), (b + 1,))[1], jax.grad(lambda x: inverse.mv(x)[7])(b)
    np.testing.assert_allclose(forward, matrix @ (b + 1), rtol=1e-9)
    np.testing.assert_allclose(gradient, matrix[7], atol=1e-12)

    both = jnp.stack([a.values, 2 * a.values])
    batched = jax.vmap(lambda values: inverse.refresh(a.with_values(values)).mv(b))(both)
    np.testing.assert_allclose(batched, jnp.stack([matrix @ b, matrix @ b / 2]), rtol=1e-9)

    def entry(values, b):
        solution = lx.linear_solve(a.with_values(values), b, solver(rtol=1e-11, preconditioner=make))
        return solution.value[7], solution.stats["num_steps"]

    (by_value, by_b), steps = jax.jit(jax.grad(entry, argnums=(0, 1), has_aux=True))(a.values, b)
    adjoint, x = np.linalg.inv(dense)[7], np.linalg.solve(dense, b)
    np.testing.assert_allclose(by_b, adjoint, atol=1e-8)
    expected = -adjoint[a.pattern.rows] * x[a.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-8)
    assert steps < 20


def test_few_levels_are_solved_exactly(elsewhere):
    """Red before black: two levels."""
    n = 84
    line = np.diag(np.full(n, 2.0)) - np.eye(n, k=1) - np.eye(n, k=-1)
    order = np.argsort(np.arange(n) % 2, kind="stable")
    inverse = IncompleteCholesky()(sparse(line[np.ix_(order, order)], PSD))
    assert inverse.enough == -1 and "sweep" not in repr(inverse)
    low = dense_ic(line[np.ix_(order, order)]).real
    np.testing.assert_allclose(inverse.as_matrix(), np.linalg.inv(low @ low.T), rtol=1e-3)


def test_numbers_of_sweeps_are_checked():
    for make in (IncompleteCholesky, IncompleteLU):
        for sweeps in (-1, 1.5, True, "4"):
            with pytest.raises(
                ValueError, match=r"`Incomplete\w+\(sweeps=...\)` must be None or an integer >= 0"
            ):
                make(sweeps=sweeps)  # pyright: ignore
