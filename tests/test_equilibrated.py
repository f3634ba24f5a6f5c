"""`ns.Equilibrated`: what it makes solvable; its answers, derivatives and failures are the system's own."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

from .helpers import real_matrices

REAL = {path.stem: path for path in real_matrices()}
ILU = ns.preconditioners.IncompleteLU()


def in_many_units(dtype: type = np.float64, n=24, decades=6, seed=0):
    """Well conditioned but for its units, with two zeros on the diagonal."""
    rng = np.random.default_rng(seed)
    dense = 4 * np.eye(n) + rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.15)
    if np.issubdtype(dtype, np.complexfloating):
        dense = dense * np.exp(2j * np.pi * rng.random((n, n)))
    dense[[3, 4]] = dense[[4, 3]]
    dense[3, 3] = dense[4, 4] = 0
    units = [10.0 ** rng.uniform(-decades, decades, n) for _ in range(2)]
    return sp.csr_array((units[0][:, None] * dense * units[1]).astype(dtype))


def solve(matrix, solver, b, state=None, throw=False):
    given = {} if state is None else {"state": state}
    return lx.linear_solve(
        ns.SparseLinearOperator.from_scipy(matrix), jnp.asarray(b), solver, throw=throw, **given
    )


def relative_residual(matrix, x, b):
    return np.linalg.norm(b - matrix.astype(complex) @ np.asarray(x)) / np.linalg.norm(b)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_solves_systems_in_many_units(dtype):
    single = np.finfo(dtype).bits == 32
    matrix = in_many_units(dtype, decades=3 if single else 6)
    b = matrix @ np.random.default_rng(1).standard_normal(24).astype(dtype)
    rtol = 1e-4 if single else 1e-9
    solver = ns.Equilibrated(ns.GMRES(rtol=rtol, preconditioner=ILU))
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    for state in (None, solver.init(operator, {})):
        solution = solve(matrix, solver, b, state)
        assert solution.result == lx.RESULTS.successful
        residual = relative_residual(matrix, solution.value, b)
        assert residual <= 1.01 * rtol
        reported = float(solution.stats["residual_norm"]) / np.linalg.norm(b)
        assert abs(reported - residual) <= 0.05 * rtol
        assert solution.value.dtype == dtype


def test_derivatives_transposes_and_batches():
    matrix = in_many_units(decades=2)
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    dense = matrix.toarray()
    solver = ns.Equilibrated(ns.GMRES(rtol=1e-12, preconditioner=ILU))
    b, w = np.random.default_rng(2).standard_normal((2, 24))
    state = solver.init(operator, {})
    assert state.left_order is not None

    @jax.jit
    def program(values, b, w):
        def loss(values, b):
            return w @ lx.linear_solve(operator.with_values(values), b, solver, state=state).value

        many = jax.vmap(lambda b: lx.linear_solve(operator.with_values(values), b, solver).value)
        return jax.grad(loss, argnums=(0, 1))(values, b), many(jnp.stack([b, w]))

    (of_values, of_b), many = program(operator.values, jnp.asarray(b), jnp.asarray(w))
    x, adjoint = np.linalg.solve(dense, b), np.linalg.solve(dense.T, w)
    np.testing.assert_allclose(of_b, adjoint, rtol=1e-7, atol=1e-9 * np.abs(adjoint).max())
    expected = -adjoint[operator.pattern.rows] * x[operator.pattern.indices]
    np.testing.assert_allclose(of_values, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(many, np.linalg.solve(dense, np.stack([b, w]).T).T, rtol=1e-6)
    twice = state.transpose(state.inner).transpose(state.inner)
    for name in ("left", "right", "left_order", "right_order"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(state, name))


def test_symmetric_systems_stay_so():
    rng = np.random.default_rng(0)
    units = 10.0 ** rng.uniform(-5, 5, 40)
    line = sp.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(40, 40)).toarray()
    matrix = sp.csr_array(units[:, None] * line * units)
    operator = ns.SparseLinearOperator.from_scipy(matrix, lx.positive_semidefinite_tag)
    b = matrix @ rng.standard_normal(40)
    solution = lx.linear_solve(operator, jnp.asarray(b), ns.Equilibrated(ns.CG(rtol=1e-10)))
    assert relative_residual(matrix, solution.value, b) <= 1.01e-10


def test_failures_are_the_systems_own():
    matrix = in_many_units()
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    b = np.ones(24)
    short = ns.Equilibrated(ns.GMRES(rtol=1e-10, restart=2, max_steps=2))
    solution = solve(matrix, short, b)
    assert solution.result == lx.RESULTS.max_steps_reached
    assert float(solution.stats["residual_norm"]) <= np.linalg.norm(b)
    solver = ns.Equilibrated(ns.GMRES(rtol=1e-10))
    for bad in (np.nan, np.inf):
        assert (
            solve(matrix, solver, np.where(np.arange(24) == 3, bad, b)).result == lx.RESULTS.nonfinite_input
        )
    zero = solve(matrix, solver, np.zeros(24))
    assert zero.result == lx.RESULTS.successful and not np.any(zero.value)
    singular = sp.csr_array([[1e8, 1e8, 0], [1.0, 1.0, 0], [0, 0, 1.0]])
    assert solve(singular, solver, np.array([1.0, 1.0, 1.0])).result != lx.RESULTS.successful
    with pytest.raises(Exception, match="Equilibrated GMRES"):
        solve(singular, solver, np.array([1.0, 1.0, 1.0]), throw=True)
    with pytest.raises(ValueError, match="state = solver.init"):
        solve(matrix, ns.Equilibrated(ns.GMRES(rtol=1e-10), matching=True), b)
    with pytest.raises(ValueError, match="row 1 is empty"):
        solver.init(ns.SparseLinearOperator.from_scipy(sp.csr_array([[1.0, 1.0], [0.0, 0.0]])), {})
    with pytest.raises(ValueError, match="preconditioner"):
        lx.linear_solve(operator, jnp.asarray(b), solver, options={"preconditioner": operator})
    with pytest.raises(TypeError, match="SparseLU"):
        ns.Equilibrated(lx.LU())
    with pytest.raises(ValueError, match="history"):
        ns.Equilibrated(ns.GMRES(rtol=1e-10, history=True))


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("west0479", ns.GMRES(rtol=1e-8, restart=60, preconditioner=ILU, max_steps=600)),
        ("rajat19", ns.SparseLU(rtol=1e-8)),  # pyright: ignore
    ],
)
def test_real_systems(name, inner):
    if name not in REAL:
        pytest.skip("real matrices are not here")
    matrix, _ = ns.read_matrix_market(REAL[name])
    matrix.eliminate_zeros()
    b = matrix @ np.random.default_rng(0).standard_normal(matrix.shape[1])
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    solver = ns.Equilibrated(inner)
    solution = solve(matrix, solver, b, solver.init(operator, {}))
    assert solution.result == lx.RESULTS.successful
    assert relative_residual(matrix, solution.value, b) <= 1.01e-8
