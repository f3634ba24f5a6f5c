"""Iterative refinement: low precision inside, the user's outside, and honest words where that fails."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.linear import REASONS
from nsolve.linear.refinement import InnerSolve
from nsolve.operators.precision import cast

precond = ns.preconditioners
RNG = np.random.default_rng(0)
POISSON = ns.StencilLinearOperator.poisson((9, 8), 0.1)
N = 24


def noise(*shape):
    return RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)


SPARSE = ns.SparseLinearOperator.from_scipy(6 * np.eye(N) + noise(N, N) * (RNG.random((N, N)) < 0.2))
DENSE = lx.MatrixLinearOperator(jnp.asarray(4 * np.eye(N) + RNG.standard_normal((N, N)) / 3))
FUNCTION = lx.FunctionLinearOperator(DENSE.mv, DENSE.in_structure())


@eqx.filter_jit
def solve(operator, b, solver):
    solution = lx.linear_solve(operator, b, solver, throw=False)
    return solution.value, solution.result, solution.stats


def residual(operator, x, b):
    """The relative one, computed on the host."""
    matrix = np.asarray(operator.as_matrix())
    return np.linalg.norm(matrix @ np.ravel(x) - np.ravel(b)) / np.linalg.norm(b)


def vector(operator):
    structure = operator.in_structure()
    x = noise(*structure.shape)
    return x if structure.dtype == complex else x.real


def inner_state(system):
    assert isinstance(system.preconditioner, InnerSolve)
    return system.preconditioner.state


@pytest.mark.parametrize(
    "operator, inner, restart",
    [
        (POISSON, ns.CG(rtol=1e-3, preconditioner=precond.Jacobi()), None),
        (SPARSE, ns.GMRES(rtol=1e-3, preconditioner=precond.Jacobi()), None),
        (SPARSE, precond.Jacobi(), 10),
        (DENSE, lx.LU(), None),
        (FUNCTION, ns.BiCGStab(rtol=1e-2), 5),
    ],
    ids=["cg-stencil", "gmres-sparse", "jacobi-gmresir", "lu-dense", "bicgstab-function"],
)
def test_low_precision_reaches_the_accuracy_of_the_users(operator, inner, restart):
    b = vector(operator)
    solver = ns.IterativeRefinement(inner, rtol=1e-13, restart=restart, history=True)
    made = eqx.filter_eval_shape(lambda A: inner_state(solver.init(A, {})), operator)
    seen = {leaf.dtype for leaf in jax.tree.leaves(made) if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    x, result, stats = solve(operator, b, solver)
    assert result == lx.RESULTS.successful
    true = residual(operator, x, b)
    assert true <= 1.01e-13
    if operator is not FUNCTION:
        assert np.dtype(np.complex64 if np.iscomplexobj(b) else np.float32) in seen
        assert seen <= {np.dtype(np.complex64), np.dtype(np.float32)}
    assert abs(stats["residual_norm"] / np.linalg.norm(b) - true) <= 1e-15
    assert stats["num_steps"] >= 2
    assert stats["num_preconditioner_applications"] == stats["num_steps"] <= stats["num_inner_steps"]
    norms = np.asarray(stats["residual_norms"])[: int(stats["num_steps"]) + 1]
    assert (norms[1:] < norms[:-1]).all()


@pytest.mark.parametrize("scale, size", [(2.0**500, 2.0**-400), (2.0**-500, 2.0**300)])
def test_what_lies_beyond_the_range_of_single_precision_is_scaled(scale, size):
    solver = ns.IterativeRefinement(lx.LU(), rtol=1e-13)
    b = vector(DENSE)
    x, _, stats = solve(DENSE, b, solver)
    big, result, again = solve(lx.MatrixLinearOperator(scale * DENSE.matrix), size * b, solver)
    assert result == lx.RESULTS.successful
    assert again["num_steps"] == stats["num_steps"]
    np.testing.assert_allclose(big * (scale / size), x, rtol=1e-12)


def ill_conditioned(condition):
    q, p = (np.linalg.qr(RNG.standard_normal((N, N)))[0] for _ in range(2))
    return lx.MatrixLinearOperator(jnp.asarray(q * np.geomspace(1, 1 / condition, N) @ p))


def test_gmres_ir_solves_where_plain_refinement_says_that_it_cannot():
    operator = ill_conditioned(1e10)
    b = np.asarray(operator.matrix) @ RNG.standard_normal(N)
    plain = ns.IterativeRefinement(lx.LU(), rtol=1e-12)
    x, result, stats = solve(operator, b, plain)
    assert result in (lx.RESULTS.breakdown, lx.RESULTS.stagnation)
    true = residual(operator, x, b)
    assert 1e-12 < true <= 1
    assert abs(stats["residual_norm"] / np.linalg.norm(b) - true) <= 1e-14
    x, result, _ = solve(operator, b, ns.IterativeRefinement(lx.LU(), rtol=1e-12, restart=N))
    assert result == lx.RESULTS.successful
    assert residual(operator, x, b) <= 1.01e-12


@pytest.mark.parametrize("restart", [None, 5])
def test_failures_are_told_apart(restart):
    def reason(operator, b, inner, **fields):
        solver = ns.IterativeRefinement(inner, restart=restart, **{"rtol": 1e-12, **fields})
        x, result, stats = solve(operator, b, solver)
        assert result != lx.RESULTS.successful
        assert np.isfinite(x).all()
        if np.isfinite(b).all() and not np.isnan(operator.matrix).any():
            assert residual(operator, x, b) <= 1
        return stats["reason"]

    b, matrix = vector(DENSE), np.array(DENSE.matrix)
    assert reason(DENSE, b, lx.LU(), rtol=1e-19) == REASONS.precision
    assert reason(DENSE, b, lx.LU(), max_steps=1) == REASONS.max_steps
    bad = np.array(b)
    bad[3] = np.nan
    assert reason(DENSE, bad, lx.LU()) == REASONS.nonfinite_vector
    spoiled = matrix.copy()
    spoiled[2, 2] = np.nan
    assert reason(lx.MatrixLinearOperator(jnp.asarray(spoiled)), b, lx.LU()) == REASONS.nonfinite_operator
    zero_column = matrix * (np.arange(N) != 4)
    assert (
        reason(lx.MatrixLinearOperator(jnp.asarray(zero_column)), b, lx.LU()) == REASONS.preconditioner_failed
    )
    if restart is None:
        # Half of the correction too much and more: the residual grows.
        wrong = reason(DENSE, b, lambda A: lx.MatrixLinearOperator(-jnp.linalg.inv(A.as_matrix())))
        assert wrong == REASONS.diverged


def test_derivatives_are_those_of_the_dense_solve():
    solver = ns.IterativeRefinement(lx.LU(), rtol=1e-14)
    pattern, b, db = SPARSE, noise(N), noise(N)
    dvalues = jnp.asarray(noise(pattern.values.size))

    def objective(solve, values, b):
        return jnp.sum(jnp.abs(solve(pattern.with_values(values), b)) ** 4)

    def ours(operator, b):
        return lx.linear_solve(operator, b, solver).value

    def dense(operator, b):
        return jnp.linalg.solve(operator.as_matrix(), b)

    def derivatives(solve):
        gradient = jax.value_and_grad(lambda *args: objective(solve, *args), (0, 1))
        return jax.jit(lambda *a: jax.jvp(gradient, a, (dvalues, db)))(pattern.values, b)

    for actual, expected in zip(*map(jax.tree.leaves, map(derivatives, (ours, dense))), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


TRIDIAGONAL = lx.TridiagonalLinearOperator(*map(jnp.asarray, ([4.0, 5, 6], [1.0, 2], [3.0, 1e-60])))


@pytest.mark.parametrize("operator", [POISSON, SPARSE, DENSE, TRIDIAGONAL, FUNCTION, SPARSE * 1e60])
def test_cast_rounds_the_entries(operator):
    """After a division by a power of two; a product in the operator's own precision is rounded."""
    unit = 2.0**190
    low = cast(operator, jnp.float32, unit)
    exact = np.asarray(operator.as_matrix()) / unit
    kind = np.complex64 if np.iscomplexobj(exact) else np.float32
    assert low.in_structure() == jax.ShapeDtypeStruct(operator.in_structure().shape, kind)
    matrix = np.asarray(low.as_matrix())
    assert matrix.dtype == kind
    np.testing.assert_array_equal(matrix, exact.astype(kind))
    for tag in (lx.is_symmetric, lx.is_positive_semidefinite, lx.is_tridiagonal):
        assert tag(low) == tag(operator)


def test_single_precision_is_refined_in_its_own_and_bfloat16_will_do():
    low = cast(DENSE, jnp.float32)
    b = vector(DENSE).astype(np.float32)
    x, result, _ = solve(low, b, ns.IterativeRefinement(lx.LU(), rtol=1e-5))
    assert result == lx.RESULTS.successful
    assert x.dtype == jnp.float32
    half = ns.IterativeRefinement(precond.Jacobi(), rtol=1e-13, dtype=jnp.bfloat16, restart=20)
    stencil = POISSON.add_diagonal(300.0)
    b = vector(stencil)
    x, result, _ = solve(stencil, b, half)
    assert result == lx.RESULTS.successful
    assert residual(stencil, x, b) <= 1.01e-13


def test_what_cannot_be_is_refused():
    refine = ns.IterativeRefinement
    with pytest.raises(TypeError, match=r"`IterativeRefinement\(inner=...\)` must be a linear solver"):
        refine(ns.CG, rtol=1e-12)
    with pytest.raises(TypeError, match=r"`IterativeRefinement\(dtype=...\)` must be a real"):
        refine(lx.LU(), rtol=1e-12, dtype=jnp.complex64)
    with pytest.raises(ValueError, match=r"`IterativeRefinement\(restart=...\)` must be None or"):
        refine(lx.LU(), rtol=1e-12, restart=0)
    with pytest.raises(ValueError, match="no complex numbers of precision bfloat16"):
        lx.linear_solve(SPARSE, noise(N), refine(precond.Jacobi(), rtol=1e-12, dtype=jnp.bfloat16))
    with pytest.raises(ValueError, match=r"may have the keys \['y0'\]"):
        options = {"preconditioner": DENSE}
        lx.linear_solve(DENSE, vector(DENSE), refine(lx.LU(), rtol=1e-12), options=options)
