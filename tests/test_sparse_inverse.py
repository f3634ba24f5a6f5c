"""Sparse approximate inverses: against their definitions, written densely, and inside the solvers."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve.gallery import finite_elements
from nsolve.kernels import adaptive_pattern
from nsolve.preconditioners import Jacobi, SparseApproximateInverse, sparse_inverse
from tests.helpers import assert_refresh_is_set_up
from tests.test_incomplete import (
    DTYPES,
    PSD,
    assert_is,
    general,
    hermitian,
    relative_error,
    sparse,
    tolerance,
)

KEY = jax.random.key(0)
HERMITIAN = ns.hermitian_tag


def dense_factor(a, power=1):
    """`G`: each row solves the system of its places, scaled."""
    kept = np.tril(np.linalg.matrix_power((a != 0).astype(int), power)) != 0
    factor = np.zeros_like(a)
    for i, row in enumerate(kept):
        (places,) = np.nonzero(row)
        g = np.linalg.solve(a[np.ix_(places, places)], np.eye(len(places))[:, -1])
        factor[i, places] = g.conj() / np.sqrt(np.real(g[-1]))
    return factor


def dense_spai(a, power=1):
    """Each column by least squares."""
    kept = np.linalg.matrix_power((a != 0).astype(int), power) != 0
    inverse = np.zeros_like(a)
    for j in range(len(a)):
        (places,) = np.nonzero(kept[:, j])
        inverse[places, j] = np.linalg.lstsq(a[:, places], np.eye(len(a), dtype=a.dtype)[:, j])[0]
    return inverse


def poisson(size):
    one = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(size, size))
    return ns.SparseLinearOperator.from_scipy(sp.kronsum(one, one, format="csr"), PSD)


def steps(matrix, constructor, solver=ns.CG):
    b = jnp.asarray(np.random.default_rng(0).standard_normal(matrix.in_size()), matrix.dtype)
    solution = lx.linear_solve(matrix, b, solver(rtol=1e-8, preconditioner=constructor))
    assert jnp.linalg.norm(b - matrix.mv(solution.value)) <= 1e-8 * jnp.linalg.norm(b)
    return int(solution.stats["num_steps"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [1, 2])
def test_rows_solve_their_small_systems(dtype, power):
    dense = hermitian(30, 0.08, dtype)
    inverse = SparseApproximateInverse(power)(sparse(dense, HERMITIAN))
    exact = dense.astype(np.result_type(dtype, np.float64))
    factor = dense_factor(exact, power)
    assert lx.is_positive_semidefinite(inverse)
    assert_is(inverse, factor.conj().T @ factor, dtype)
    lower = np.asarray(inverse.factors[1].as_matrix())
    assert relative_error(lower, factor) < tolerance(dtype)
    assert relative_error(np.diag(lower @ exact @ lower.conj().T), np.ones(30)) < tolerance(dtype)
    assert repr(inverse).startswith("SparseApproximateInverse preconditioner (FSAI, 30 unknowns; 2 sparse p")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [1, 2])
def test_columns_solve_least_squares(dtype, power):
    dense = general(30, 0.08, dtype)
    inverse = SparseApproximateInverse(power)(sparse(dense))
    assert not inverse.tags
    assert_is(inverse, dense_spai(dense.astype(np.result_type(dtype, np.float64)), power), dtype)
    assert "(SPAI, 30 unknowns; 1 sparse product with" in repr(inverse)


@pytest.mark.parametrize("size", [5, sparse_inverse._NARROW + 6])  # by loops, and by LAPACK
def test_full_patterns_give_the_inverse(size):
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))
    definite = dense @ dense.conj().T + np.eye(size)
    inverse = SparseApproximateInverse()(sparse(definite, HERMITIAN))
    np.testing.assert_allclose(inverse.as_matrix() @ definite, np.eye(size), atol=1e-9)
    dense = dense + 2 * size * np.eye(size)
    np.testing.assert_allclose(
        SparseApproximateInverse()(sparse(dense)).as_matrix() @ dense, np.eye(size), atol=1e-9
    )


def test_chunks_and_uneven_rows_change_nothing(monkeypatch):
    monkeypatch.setattr(sparse_inverse, "_AT_A_TIME", 40)
    monkeypatch.setattr(sparse_inverse, "_NARROW", 6)
    dense = hermitian(41, 0.05, seed=3)
    dense[-1, :] = dense[:, -1] = 0.1  # a row with all columns
    dense[-1, -1] = 41.0
    matrix = sparse(dense, PSD)
    rows = sparse_inverse._rows_of_power(matrix.pattern, 1, True)
    assert len(sparse_inverse._plan(rows).blocks) > 1
    factor = dense_factor(dense)
    assert_is(SparseApproximateInverse()(matrix), factor.T @ factor, "float64")


@pytest.mark.compiles("solves of several matrices and preconditioners")
@pytest.mark.parametrize(
    "problem",
    [
        lambda: poisson(64),
        lambda: finite_elements.poisson(KEY, 48).operator,
        lambda: finite_elements.elasticity(KEY, 24).operator,
    ],
)
def test_fewer_steps_than_jacobi(problem):
    matrix = problem()
    one, two = (steps(matrix, SparseApproximateInverse(power)) for power in (1, 2))
    assert one <= 0.6 * steps(matrix, Jacobi()) and two <= 0.7 * one


def test_unsymmetric_systems():
    flow = poisson(40)
    wind: Any = np.where(flow.pattern.indices == flow.pattern.rows + 1, 0.9, 0.0)
    wind -= np.where(flow.pattern.indices == flow.pattern.rows - 1, 0.9, 0.0)
    matrix = ns.SparseLinearOperator(flow.values + wind, flow.pattern)
    one, two = (steps(matrix, SparseApproximateInverse(power), ns.BiCGStab) for power in (1, 2))
    assert two < one <= 0.75 * steps(matrix, None, ns.BiCGStab)


@pytest.mark.parametrize("tags", [(PSD,), ()])
@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_it_scales_with_the_matrix(tags, scale):
    dense = hermitian(20)
    inverse = SparseApproximateInverse()(sparse(dense, *tags)).as_matrix()
    scaled = SparseApproximateInverse()(sparse(scale * dense, *tags)).as_matrix()
    np.testing.assert_allclose(scaled * scale, inverse, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tags", [(PSD,), ()])
def test_refresh_traced_and_batched_equals_set_up(tags):
    matrix = sparse(hermitian(20), *tags)
    diagonal = jnp.where(matrix.pattern.rows == matrix.pattern.indices, 1.5, 1.0)
    assert_refresh_is_set_up(SparseApproximateInverse(), matrix, diagonal)


@pytest.mark.parametrize("tags", [(PSD,), ()])
def test_accelerators_run_it_without_the_host(tags):
    matrix = sparse(hermitian(40), *tags)
    both = jax.jit(lambda values, x: SparseApproximateInverse(2)(matrix.with_values(values)).mv(x))
    text = both.trace(matrix.values, jnp.ones(40)).lower(lowering_platforms=("cuda",)).as_text()
    assert "callback" not in text and "nsolve" not in text


def test_operators_on_grids():
    stencil = ns.StencilLinearOperator.poisson((5, 6), 1.0)
    x = jnp.arange(30.0).reshape(5, 6)
    expected = SparseApproximateInverse()(ns.as_sparse(stencil)).mv(x.reshape(-1))
    np.testing.assert_allclose(SparseApproximateInverse()(stencil).mv(x).reshape(-1), expected, rtol=1e-13)


def test_derivatives_of_a_solve_are_exact():
    dense = hermitian(15)
    matrix, solver = sparse(dense, PSD), ns.CG(rtol=1e-13, preconditioner=SparseApproximateInverse())

    def entry(values, b):
        return lx.linear_solve(matrix.with_values(values), b, solver).value[7]

    b = jnp.arange(15.0)
    by_value, by_b = jax.jit(jax.grad(entry, argnums=(0, 1)))(matrix.values, b)
    adjoint, x = np.linalg.inv(dense)[7], np.linalg.solve(dense, b)
    np.testing.assert_allclose(by_b, adjoint, atol=1e-10)
    expected = -adjoint[matrix.pattern.rows] * x[matrix.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-9)


def test_traced_bad_entries_fail_closed():
    matrix = sparse(hermitian(20), PSD)
    solver = ns.CG(rtol=1e-8, preconditioner=SparseApproximateInverse())
    solve = jax.jit(
        lambda v: lx.linear_solve(matrix.with_values(v), jnp.ones(20), solver, throw=False).result
    )
    for bad in (jnp.nan, 0.0, -1.0):
        values = matrix.values.at[matrix.pattern.diagonal_positions[4]].set(bad)
        assert solve(values) != lx.RESULTS.successful
    assert solve(matrix.values) == lx.RESULTS.successful


def test_bad_input_is_named(monkeypatch):
    dense, make = hermitian(20), SparseApproximateInverse()
    for power in (0, 3, 1.5, True, "1"):
        with pytest.raises(ValueError, match=r"power=...\)` must be 1 or 2"):
            SparseApproximateInverse(power)  # pyright: ignore
    for value in (0.0, -1.0):
        bad = sparse(dense, PSD)
        bad = bad.with_values(bad.values.at[bad.pattern.diagonal_positions[4]].set(value))
        with pytest.raises(ValueError, match=f"entry 4 of the diagonal is {value}"):
            make(bad)
    hole = dense.copy()
    hole[3, 3] = 0
    for tags in ((PSD,), ()):
        with pytest.raises(ValueError, match="row 3 of the pattern has none"):
            make(sparse(hole, *tags))
    indefinite = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match="the small system of row 2 is not positive definite"):
        make(sparse(indefinite, lx.symmetric_tag))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((20,), float), PSD)
    with pytest.raises(ValueError, match="`SparseApproximateInverse` needs the entries"):
        make(function)
    with pytest.raises(ValueError, match="`refresh`"):
        make(sparse(dense, PSD)).refresh(sparse(hermitian(20, seed=1), PSD))
    with pytest.raises(ValueError, match="20 x 21"):
        make(sparse(np.ones((20, 21))))
    monkeypatch.setattr("nsolve.direct.memory.physical_memory", lambda: 1e3)
    for power in (1, 2):
        with pytest.raises(ValueError, match=r"would take up to .* GB .* \(2.5e-07 GB\)"):
            SparseApproximateInverse(power)(sparse(dense, PSD))
    with pytest.raises(ValueError, match=r"would take up to"):
        make(sparse(dense))


def dense_growth(a, entries):
    """Row after row: the place that reduces `g A g^H` most when it alone is moved, then all of them anew."""
    rows = []
    for i in range(len(a)):
        places: list[int] = []
        for _ in range(min(entries, i)):
            g = np.zeros(len(a), a.dtype)
            g[i] = 1
            if places:
                g[places] = -np.linalg.solve(a[np.ix_(places, places)].T, a[i, places])
            worth = abs(g @ a)[:i] ** 2 / np.real(np.diag(a))[:i]
            worth[places] = 0
            if worth.max() < 1e-20:
                break
            places.append(int(np.argmax(worth)))
        rows.append(sorted([*places, i]))
    return rows


def factor_on(a, rows):
    factor = np.zeros_like(a)
    for i, places in enumerate(rows):
        g = np.linalg.solve(a[np.ix_(places, places)], np.eye(len(places))[:, -1])
        factor[i, places] = g.conj() / np.sqrt(np.real(g[-1]))
    return factor


def kaporin(a, factor):
    product = factor @ a @ factor.conj().T
    return np.trace(product).real / len(a) / np.exp(np.linalg.slogdet(product)[1] / len(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_patterns_grow_by_the_gradient(dtype):
    """On both paths; and every further entry lowers the Kaporin number."""
    units = 10.0 ** np.random.default_rng(1).uniform(-2, 2, 40)  # the choice does not depend on them
    dense = hermitian(40, 0.08, "complex128" if "complex" in dtype else "float64", seed=2)
    dense, scaled = dense.astype(dtype), (units[:, None] * dense * units).astype(dtype)
    numbers = []
    for entries in (1, 3, 6):
        rows = dense_growth(dense.astype(np.result_type(dtype, np.float64)), entries)
        matrix = sparse(scaled, HERMITIAN)
        inverse = SparseApproximateInverse(entries=entries)(matrix)
        pattern = inverse.factors[1].pattern
        arrays = np.asarray(matrix.values), np.asarray(matrix.diagonal())
        parts = matrix.pattern.indptr, matrix.pattern.indices, *arrays, entries
        columns, counts = adaptive_pattern._grow_by_scipy(*parts)
        for i, places in enumerate(rows):
            assert pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]].tolist() == places
            assert [*columns[i, : counts[i]].tolist(), i] == places
        factor = factor_on(scaled.astype(np.result_type(dtype, np.float64)), rows)
        lower = np.asarray(inverse.factors[1].as_matrix())
        assert abs((lower - factor) / units).max() < 100 * tolerance(dtype) * abs(factor / units).max()
        np.testing.assert_allclose(np.diag(lower @ scaled @ lower.conj().T), 1, rtol=100 * tolerance(dtype))
        numbers.append(kaporin(scaled, factor))
    assert numbers[0] > numbers[1] > numbers[2] >= 1


@pytest.mark.compiles("solves of several matrices and preconditioners")
@pytest.mark.parametrize(
    "problem, entries, share",
    [
        (lambda: finite_elements.poisson(KEY, 48).operator, 12, 1.15),
        (lambda: ns.as_sparse(ns.gallery.anisotropic(KEY, (48, 48)).operator), 5, 0.7),
    ],
)
def test_adaptive_patterns_follow_the_coupling(problem, entries, share):
    """With no more entries than the pattern of the square: about as good on a mesh, better along lines."""
    matrix = problem()
    square, grown = SparseApproximateInverse(2)(matrix), SparseApproximateInverse(entries=entries)(matrix)
    assert grown.factors[1].nnz <= square.factors[1].nnz

    def taken(inverse):
        b = jnp.asarray(np.random.default_rng(0).standard_normal(matrix.in_size()))
        solution = lx.linear_solve(matrix, b, ns.CG(rtol=1e-8), options={"preconditioner": inverse})
        return int(solution.stats["num_steps"])

    assert taken(grown) <= share * taken(square)


def test_adaptive_patterns_are_frozen_and_concrete():
    matrix = sparse(hermitian(30, 0.15, seed=4), PSD)
    inverse = SparseApproximateInverse(entries=3)(matrix)
    lower = inverse.factors[1]
    changed = matrix.with_values(
        jnp.where(matrix.pattern.rows == matrix.pattern.indices, 1.5, 0.1) * matrix.values
    )
    dense, pattern = np.asarray(changed.as_matrix()), lower.pattern
    rows = [pattern.indices[a:b].tolist() for a, b in zip(pattern.indptr, pattern.indptr[1:], strict=False)]
    factor = factor_on(dense, rows)
    refreshed = jax.jit(lambda values: inverse.refresh(matrix.with_values(values)).mv(jnp.arange(30.0)))
    np.testing.assert_allclose(refreshed(changed.values), factor.T @ factor @ np.arange(30.0), rtol=1e-9)
    with pytest.raises(ValueError, match=r"entries=3\)` finds its pattern by .* traced.* `M.refresh`"):
        jax.jit(
            lambda values: SparseApproximateInverse(entries=3)(matrix.with_values(values)).mv(jnp.ones(30))
        )(matrix.values)
    with pytest.raises(ValueError, match=r"entries=3\)` is for operators that are Hermitian by their tags"):
        SparseApproximateInverse(entries=3)(sparse(general(20)))
    for entries in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"entries=...\)` must be None or an integer >= 1"):
            SparseApproximateInverse(entries=entries)  # pyright: ignore
    with pytest.raises(ValueError, match="`power` or finds it with `entries`; give one"):
        SparseApproximateInverse(2, entries=3)
    everything = SparseApproximateInverse(entries=10**6)(matrix)
    np.testing.assert_allclose(
        everything.as_matrix(), np.linalg.inv(matrix.as_matrix()), rtol=1e-9, atol=1e-12
    )
