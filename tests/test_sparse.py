"""Sparse operators against SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import sparse as jsparse

import nsolve as ns

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@st.composite
def matrices(draw):
    """Any shape, empty rows and columns included, even and very uneven rows, bands with holes, any dtype."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["scattered", "one full row", "banded"]))
    if kind == "banded":
        offsets = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4, unique=True))
        dense = sum(np.diag(rng.standard_normal(30 - abs(k)), k) for k in offsets)
        dense = dense * (rng.random((30, 30)) < 0.95)
    else:
        density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
        dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    if kind == "one full row":
        dense[rng.integers(rows)] = rng.standard_normal(columns)
    dense = dense.astype(dtype)
    if dtype.kind == "c":
        dense = dense * np.exp(1j * rng.uniform(0, 6, dense.shape)).astype(dtype)
    return sp.csr_array(dense)


def vector(size: int, dtype, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size)
    return (x + 1j * rng.standard_normal(size) if np.dtype(dtype).kind == "c" else x).astype(dtype)


@settings(max_examples=6)
@given(matrices())
def test_algebra_equals_scipy(matrix):
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    tol = 1e-5 if matrix.dtype.itemsize <= 8 and matrix.dtype != np.float64 else 1e-12
    x = vector(matrix.shape[1], matrix.dtype)

    @eqx.filter_jit
    def everything(operator, x):  # one program compiles faster than each operation by itself
        twice = operator.with_values(2 * operator.values)
        operators = operator, operator.T, lx.conj(operator), twice
        return operator.mv(x), [o.as_matrix() for o in operators], lx.diagonal(operator), operator.values

    product, (itself, transpose, conjugate, twice), diagonal, values = everything(operator, jnp.asarray(x))
    dense = matrix.toarray()
    np.testing.assert_allclose(product, matrix @ x, rtol=tol, atol=tol * 30)
    assert product.dtype == matrix.dtype
    np.testing.assert_array_equal(itself, dense)
    np.testing.assert_array_equal(transpose, dense.T)
    np.testing.assert_array_equal(conjugate, dense.conj())
    np.testing.assert_array_equal(twice, 2 * dense)
    np.testing.assert_array_equal(diagonal, matrix.diagonal())
    np.testing.assert_array_equal(values, matrix.data)
    np.testing.assert_array_equal(operator.as_scipy().toarray(), dense)


@settings(max_examples=4)
@given(matrices())
def test_derivatives_live_on_the_pattern(matrix):
    matrix = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    x, c = vector(matrix.shape[1], matrix.dtype), vector(matrix.shape[0], matrix.dtype, 1)

    full = vector(matrix.shape[1], matrix.dtype, 2)

    def objective(operator):
        return jnp.sum(jnp.asarray(c) * operator.mv(jnp.asarray(x))).real

    @eqx.filter_jit
    def differentiate(operator):
        gradient = jax.grad(lambda values: objective(operator.with_values(values)))(operator.values)
        stepped = eqx.apply_updates(operator, eqx.filter_grad(objective)(operator))
        return gradient, stepped, stepped.as_matrix(), stepped.mv(jnp.asarray(full))

    gradient, stepped, dense, product = differentiate(operator)
    expected = (c[operator.pattern.rows] * x[operator.pattern.indices]).real
    np.testing.assert_allclose(gradient.real, expected, atol=1e-12)
    # Differentiating the operator itself leaves padding alone: a step along it keeps the pattern.
    np.testing.assert_allclose(dense, stepped.as_scipy().toarray(), atol=1e-12)
    np.testing.assert_allclose(product, stepped.as_scipy() @ full, atol=1e-10)


def test_padding_is_bounded():
    lengths = np.concatenate([np.full(2000, 3), np.arange(1, 200), [2000]])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.concatenate([np.arange(n) for n in lengths])
    pattern = ns.operators.SparsityPattern(indptr, indices, (len(lengths), 2000))
    stored = sum(pattern.row_lengths[rows].max() * len(rows) for rows in pattern.buckets)
    assert stored <= 1.31 * pattern.nnz
    assert len(pattern.buckets) < 30


def test_grids_are_stored_by_diagonals():
    grid = ns.StencilLinearOperator.poisson((7, 9), 1.0).as_sparse()
    assert grid.pattern.diagonal_offsets == (-9, -1, 0, 1, 9)
    scattered = sp.random_array((40, 40), density=0.1, rng=np.random.default_rng(0))
    assert ns.SparseLinearOperator.from_scipy(scattered).pattern.diagonal_offsets is None


def test_coordinates_in_any_order_are_summed():
    rows, cols = [2, 0, 2, 0], [1, 1, 1, 0]
    operator = jax.jit(lambda v: ns.SparseLinearOperator.from_coo(v, rows, cols, (3, 2)))(
        jnp.array([1.0, 2.0, 3.0, 4.0])
    )
    np.testing.assert_array_equal(operator.as_matrix(), [[4, 2], [0, 0], [0, 4]])
    np.testing.assert_array_equal(operator.values, [4, 2, 4])


def test_bcoo_with_its_padding():
    dense = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    matrix = jsparse.BCOO.fromdense(dense, nse=6)
    np.testing.assert_array_equal(ns.SparseLinearOperator.from_bcoo(matrix).as_matrix(), dense)


def test_values_may_be_batched():
    operator = ns.SparseLinearOperator.from_scipy(sp.csr_array(np.array([[2.0, 1.0], [0.0, 3.0]])))
    values = jnp.stack([operator.values, 2 * operator.values])
    product = jax.vmap(lambda v, x: operator.with_values(v).mv(x), in_axes=(0, None))
    np.testing.assert_array_equal(product(values, jnp.array([1.0, 1.0])), [[3, 3], [6, 6]])


def test_structure_is_known_without_tags():
    def of(matrix):
        return ns.SparseLinearOperator.from_scipy(sp.csr_array(matrix))

    assert lx.is_diagonal(of(np.eye(3))) and lx.is_symmetric(of(np.eye(3)))
    assert lx.is_tridiagonal(of(np.eye(4) + np.eye(4, k=1)))
    assert lx.is_upper_triangular(of(np.triu(np.ones((3, 3)))))
    assert not lx.is_lower_triangular(of(np.triu(np.ones((3, 3)))))
    assert not lx.is_symmetric(of(np.ones((3, 3))))


def test_lineax_direct_solvers_take_it():
    matrix = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    operator = ns.SparseLinearOperator.from_scipy(matrix, lx.positive_semidefinite_tag)
    b = jnp.array([1.0, 2.0, 3.0])
    for solver in (lx.LU(), lx.Cholesky(), lx.AutoLinearSolver(well_posed=True)):
        np.testing.assert_allclose(
            lx.linear_solve(operator, b, solver).value, np.linalg.solve(matrix, b), rtol=1e-12
        )


@pytest.mark.parametrize("tag", [lx.symmetric_tag, lx.positive_semidefinite_tag, ns.hermitian_tag])
def test_a_tag_that_the_entries_contradict_is_refused(tag):
    with pytest.raises(ValueError, match="`tags` contain"):
        ns.SparseLinearOperator.from_scipy(np.array([[1.0, 2.0], [0.0, 1.0]]), tag)


def test_bad_input_is_named():
    operator = ns.SparseLinearOperator.from_scipy(np.eye(3))
    with pytest.raises(ValueError, match=r"`values` must have shape \(3,\)"):
        operator.with_values(jnp.ones(4))
    with pytest.raises(TypeError, match="`values` must be floating-point"):
        operator.with_values(jnp.ones(3, int))
    with pytest.raises(ValueError, match=r"`rows` must lie in \[0, 2\)"):
        ns.SparseLinearOperator.from_coo(jnp.ones(1), [2], [0], (2, 2))
    with pytest.raises(ValueError, match="of one length"):
        ns.SparseLinearOperator.from_coo(jnp.ones(2), [0], [0], (2, 2))
    with pytest.raises(TypeError, match="`rows` must be concrete"):
        jax.jit(
            lambda rows: ns.SparseLinearOperator.from_coo(jnp.ones(1), rows, [0], (2, 2)).mv(jnp.ones(2))
        )(jnp.array([0]))
    with pytest.raises(TypeError, match="`cols` must be integers"):
        ns.SparseLinearOperator.from_coo(jnp.ones(1), [0], [0.5], (2, 2))
    batched = jsparse.BCOO.fromdense(jnp.ones((2, 2, 2)), n_batch=1)
    with pytest.raises(ValueError, match="n_batch"):
        ns.SparseLinearOperator.from_bcoo(batched)


def test_gathers_of_closed_over_columns_are_not_evaluated_at_compile_time():
    """With a large pattern that takes XLA longer than everything else."""
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(np.where(rng.random((40, 40)) < 0.2, 1.0, 0.0))
    a, x = ns.SparseLinearOperator.from_scipy(matrix), jnp.asarray(rng.normal(size=40))
    text = jax.jit(lambda v: a.with_values(v).mv(x)).lower(a.values).as_text()
    assert "optimization_barrier" in text
