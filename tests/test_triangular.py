"""Sparse triangular solves: compiled and level-scheduled, their derivatives and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from nsolve import SparseLinearOperator
from nsolve.kernels._schedule import levels
from nsolve.kernels.triangular_solves import schedule, solve_by_levels
from nsolve.operators.pattern import SparsityPattern
from nsolve.preconditioners.triangular import UnitTriangular, triangle, triangular_solve

DTYPES = ("float32", "float64", "complex64", "complex128")


def random_factor(n, density, lower, dtype="float64", seed=0):
    """A well-conditioned unit triangular matrix and its dense form."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, n)) < density, rng.uniform(-1, 1, (n, n)), 0)
    if np.issubdtype(dtype, np.complexfloating):
        dense = dense * np.exp(2j * np.pi * rng.random((n, n)))
    dense = (np.tril(dense, -1) if lower else np.triu(dense, 1)) / max(1, density * n)
    matrix = sp.csr_array(dense.astype(dtype))
    pattern = SparsityPattern(matrix.indptr, matrix.indices, matrix.shape)
    factor = UnitTriangular(jnp.asarray(matrix.data), pattern, lower)
    return factor, dense.astype(dtype) + np.eye(n, dtype=dtype)


def vector(n, dtype="float64", seed=1):
    rng = np.random.default_rng(seed)
    b = rng.standard_normal(n)
    if np.issubdtype(dtype, np.complexfloating):
        b = b + 1j * rng.standard_normal(n)
    return jnp.asarray(b.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
def test_solves_in_every_dtype_on_both_paths(dtype, lower):
    factor, dense = random_factor(60, 0.2, lower, dtype)
    b = vector(60, dtype)
    expected = np.linalg.solve(dense.astype(np.complex128), np.asarray(b))
    tolerance = 2e-5 if dtype in ("float32", "complex64") else 1e-13
    for x in (factor.solve(b), solve_by_levels(factor.pattern, factor.values, b)):
        assert x.dtype == dtype
        np.testing.assert_allclose(x, expected, rtol=0, atol=tolerance * abs(expected).max())


@given(
    n=st.sampled_from([1, 2, 3, 7, 20]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    lower=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_both_paths_on_random_patterns(n, density, lower, seed):
    factor, dense = random_factor(n, density, lower, seed=seed)
    b = vector(n, seed=seed)
    expected = np.linalg.solve(dense, b)
    np.testing.assert_allclose(factor.solve(b), expected, atol=1e-12)
    np.testing.assert_allclose(solve_by_levels(factor.pattern, factor.values, b), expected, atol=1e-12)


def test_agrees_with_scipy_at_the_size_of_a_grid():
    side = 60
    line = sp.diags_array([np.ones(side - 1), np.ones(side - 1)], offsets=[-1, 1])
    grid = sp.csr_array(sp.kron(line, sp.eye_array(side)) + sp.kron(sp.eye_array(side), line))
    lower = sp.csr_array(sp.tril(grid, -1)) * -0.3
    pattern = SparsityPattern(lower.indptr, lower.indices, lower.shape)
    factor = UnitTriangular(jnp.asarray(lower.data), pattern, True)
    b = vector(side**2)
    unit = sp.csr_array(lower + sp.eye_array(side**2))
    expected = sp.linalg.spsolve_triangular(unit, np.asarray(b), lower=True)
    np.testing.assert_allclose(factor.solve(b), expected, rtol=1e-12)
    np.testing.assert_allclose(solve_by_levels(pattern, factor.values, b), expected, rtol=1e-12)
    assert levels(pattern).max() == 2 * (side - 1)  # the diagonals of the grid


def test_level_is_the_longest_chain():
    # 0 <- 1 <- 3, 2 alone, 4 needs 2 and 3
    rows, columns = [1, 3, 4, 4], [0, 1, 2, 3]
    matrix = sp.csr_array((np.ones(4), (rows, columns)), shape=(5, 5))
    pattern = SparsityPattern(matrix.indptr, matrix.indices, matrix.shape)
    np.testing.assert_array_equal(levels(pattern), [0, 1, 0, 2, 3])


@pytest.mark.parametrize("kind", ["chain", "dense row", "random"])
def test_schedule_holds_every_entry_once_and_pads_little(kind):
    n = 200
    if kind == "chain":
        dense = np.eye(n, k=-1)
    elif kind == "dense row":
        dense = np.zeros((n, n))
        dense[-1, :-1] = 1
    else:
        dense = np.tril(np.random.default_rng(0).random((n, n)) < 0.05, -1)
    matrix = sp.csr_array(dense)
    pattern = SparsityPattern(matrix.indptr, matrix.indices, matrix.shape)
    rows, columns, positions = (array.reshape(-1) for array in schedule(pattern))
    stored = positions < pattern.nnz
    np.testing.assert_array_equal(np.sort(positions[stored]), np.arange(pattern.nnz))
    np.testing.assert_array_equal(rows[stored], pattern.rows[positions[stored]])
    np.testing.assert_array_equal(columns[stored], pattern.indices[positions[stored]])
    assert (rows[~stored] == n).all()
    assert len(rows) <= 4 * pattern.nnz


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("lower", [True, False])
def test_derivatives_against_dense_algebra(dtype, lower):
    n = 25
    factor, dense = random_factor(n, 0.2, lower, dtype)
    pattern = factor.pattern
    b, w = vector(n, dtype), vector(n, dtype, seed=2)
    values_dot, b_dot = vector(pattern.nnz, dtype, seed=3), vector(n, dtype, seed=4)

    def sparse(values, b):
        return UnitTriangular(values, pattern, lower).solve(b)

    def reference(values, b):
        full = jnp.eye(n, dtype=dtype).at[pattern.rows, pattern.indices].set(values)
        return jnp.linalg.solve(full, b)

    primals, tangents = (factor.values, b), (values_dot, b_dot)
    for mine, theirs in zip(
        jax.jvp(sparse, primals, tangents), jax.jvp(reference, primals, tangents), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)
    pull, pull_reference = jax.vjp(sparse, *primals)[1], jax.vjp(reference, *primals)[1]
    for mine, theirs in zip(pull(w), pull_reference(w), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_second_derivatives():
    factor, _ = random_factor(12, 0.3, True)
    b = vector(12)

    def loss(values):
        return jnp.sum(UnitTriangular(values, factor.pattern, True).solve(b) ** 3)

    def reference(values):
        full = jnp.eye(12).at[factor.pattern.rows, factor.pattern.indices].set(values)
        return jnp.sum(jnp.linalg.solve(full, b) ** 3)

    hessian, expected = (jax.jit(jax.hessian(f))(factor.values) for f in (loss, reference))
    np.testing.assert_allclose(hessian, expected, rtol=1e-9, atol=1e-9)


def test_batches_over_vectors_values_and_both():
    factor, dense = random_factor(15, 0.3, True)
    values = jnp.stack([factor.values, 2 * factor.values, -factor.values])
    bs = jnp.stack([vector(15, seed=k) for k in range(3)])

    def solve(values, b):
        return UnitTriangular(values, factor.pattern, True).solve(b)

    np.testing.assert_allclose(jax.vmap(factor.solve)(bs).T, np.linalg.solve(dense, bs.T))
    for axes in ((0, None), (0, 0)):
        b = bs if axes[1] == 0 else bs[0]
        batched = jax.jit(jax.vmap(solve, in_axes=axes))(values, b)
        loop = jnp.stack([solve(values[k], bs[k] if axes[1] == 0 else b) for k in range(3)])
        np.testing.assert_array_equal(batched, loop)
    nested = jax.vmap(lambda v: jax.vmap(lambda b: solve(v, b))(bs))(values)
    np.testing.assert_array_equal(nested[1, 2], solve(values[1], bs[2]))


def test_inside_loops_and_real_factor_of_complex_vector():
    factor, dense = random_factor(15, 0.3, False)
    b = vector(15, "complex128")
    repeated = jax.jit(lambda b: jax.lax.fori_loop(0, 3, lambda _, x: factor.solve(x), b))(b)
    expected = np.linalg.solve(dense, np.linalg.solve(dense, np.linalg.solve(dense, b)))
    np.testing.assert_allclose(repeated, expected, atol=1e-12)


def test_transpose_and_product():
    factor, dense = random_factor(20, 0.2, True, "complex128")
    b = vector(20, "complex128")
    np.testing.assert_allclose(factor.mv(b), dense @ b, atol=1e-13)
    np.testing.assert_allclose(factor.transpose().mv(b), dense.T @ b, atol=1e-13)
    np.testing.assert_allclose(
        factor.transpose().conj().solve(b), np.linalg.solve(dense.conj().T, b), atol=1e-12
    )


def test_nan_spreads():
    factor, _ = random_factor(20, 0.5, True)
    assert jnp.isnan(factor.solve(vector(20).at[0].set(jnp.nan))).any()


def test_triangle_splits_a_pattern():
    dense = np.random.default_rng(0).random((9, 9)) * (np.random.default_rng(1).random((9, 9)) < 0.4)
    operator = SparseLinearOperator.from_scipy(sp.csr_array(dense))
    for lower, cut in ((True, np.tril(dense, -1)), (False, np.triu(dense, 1))):
        pattern, positions = triangle(operator.pattern, lower)
        part = SparseLinearOperator(operator.values[positions], pattern)
        np.testing.assert_array_equal(part.as_matrix(), cut)
    assert triangle(operator.pattern, True)[0] is triangle(operator.pattern, True)[0]


def test_bad_input_is_named():
    factor, _ = random_factor(6, 0.5, True)
    with pytest.raises(ValueError, match="`pattern`.*strictly upper"):
        UnitTriangular(factor.values, factor.pattern, False)
    with pytest.raises(ValueError, match="`values`"):
        UnitTriangular(factor.values[:-1], factor.pattern, True)
    with pytest.raises(ValueError, match="`b` must have shape"):
        triangular_solve(factor, jnp.ones(7))
