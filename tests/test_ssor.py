"""SSOR and SOR against their matrix definitions, in both orderings."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve.linear.sor import SOR
from nsolve.preconditioners import SSOR
from nsolve.preconditioners.multicolour import ColouredTriangular, colouring, sorted_by_colour
from tests.test_incomplete import assert_is, general, hermitian, sparse

DTYPES = ("float32", "float64", "complex64", "complex128")
ORDERINGS = ("lexicographic", "multicolour")
PSD = lx.positive_semidefinite_tag


def reorder(inverse, n):
    """The permutation matrix of the sweep's order."""
    return np.eye(n) if inverse.order is None else np.eye(n)[np.asarray(inverse.order[0])]


def dense_sweep(a, omega, sweep):
    """`M` of one sweep through the unknowns in their order, from the definition."""
    d, low, up = np.diag(np.diag(a)), np.tril(a, -1), np.triu(a, 1)
    forward, backward = np.linalg.inv(d + omega * low), np.linalg.inv(d + omega * up)
    return {
        "forward": omega * forward,
        "backward": omega * backward,
        "symmetric": omega * (2 - omega) * backward @ d @ forward,
    }[sweep]


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ssor_is_its_definition(dtype, ordering):
    n, omega = 16, 1.3
    dense = hermitian(n, dtype=dtype)
    inverse = SSOR(omega, ordering)(sparse(dense, PSD))
    p = reorder(inverse, n)
    expected = p.T @ dense_sweep(p @ dense @ p.T, omega, "symmetric") @ p
    assert lx.is_positive_semidefinite(inverse)
    assert_is(inverse, expected, dtype)


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_unsymmetric_transpose_and_refresh(ordering):
    n = 16
    dense = general(n, dtype="complex128")
    a = sparse(dense)
    inverse = SSOR(0.9, ordering)(a)
    assert not lx.is_positive_semidefinite(inverse)
    p = reorder(inverse, n)
    expected = p.T @ dense_sweep(p @ dense @ p.T, 0.9, "symmetric") @ p
    assert_is(inverse, expected, "complex128")
    refreshed = jax.jit(lambda v, x: inverse.refresh(a.with_values(v)).mv(x))
    x = jnp.ones(n, complex)
    np.testing.assert_allclose(refreshed(2 * a.values, x), expected @ x / 2, rtol=1e-12)
    with pytest.raises(ValueError, match="`refresh`"):
        inverse.refresh(sparse(general(n, seed=9)))


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_differentiable_in_omega_and_values(ordering):
    n = 12
    dense = hermitian(n, 0.4)
    a, x = sparse(dense), jnp.asarray(np.random.default_rng(0).standard_normal(n))
    p = jnp.asarray(reorder(SSOR(1.0, ordering)(a), n))

    def loss(omega, values):
        return jnp.sum(SSOR(omega, ordering).build(a.with_values(values)).mv(x) ** 2)

    def reference(omega, values):
        full = jnp.zeros((n, n)).at[a.pattern.rows, a.pattern.indices].set(values)
        full = p @ full @ p.T
        d = jnp.diag(jnp.diag(full))
        y = jnp.linalg.solve(d + omega * jnp.tril(full, -1), p @ x)
        z = jnp.linalg.solve(d + omega * jnp.triu(full, 1), d @ y)
        return jnp.sum((omega * (2 - omega) * z) ** 2)

    mine = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.2, a.values)
    theirs = jax.grad(reference, argnums=(0, 1))(1.2, a.values)
    for got, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_colours_separate_neighbours():
    for seed in range(5):
        a = sparse(general(40, 0.1, seed=seed))
        colours = colouring(a.pattern)
        off = a.pattern.rows != a.pattern.indices
        assert (colours[a.pattern.rows[off]] != colours[a.pattern.indices[off]]).all()
    grid = ns.StencilLinearOperator.poisson((6, 7), 1.0).as_sparse().pattern
    np.testing.assert_array_equal(colouring(grid), np.indices((6, 7)).sum(0).reshape(-1) % 2)
    reordered = sorted_by_colour(a.pattern)
    p = np.eye(40)[reordered.order]
    permuted = ns.SparseLinearOperator(a.values[reordered.positions], reordered.pattern)
    np.testing.assert_array_equal(permuted.as_matrix(), p @ a.as_matrix() @ p.T)


def test_coloured_solve_of_a_diagonal_matrix():
    pattern = ns.SparseLinearOperator.from_scipy(sp.csr_array((4, 4))).pattern
    factor = ColouredTriangular(jnp.zeros(0), pattern, True, (0, 4))
    np.testing.assert_array_equal(factor.transpose().solve(jnp.arange(4.0)), np.arange(4.0))


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("sweep", ["forward", "backward", "symmetric"])
def test_sor_takes_exactly_the_sweeps(sweep, ordering):
    """Five steps against the dense iteration, and the solution against the direct one."""
    n, omega = 16, 1.2
    dense = hermitian(n)
    a, b = sparse(dense), np.random.default_rng(2).standard_normal(n)
    p = reorder(SSOR(1.0, ordering)(a), n)
    m = p.T @ dense_sweep(p @ dense @ p.T, omega, sweep) @ p
    x = np.zeros(n)
    for _ in range(5):
        x = x + m @ (b - dense @ x)
    solver = SOR(rtol=1e-10, omega=omega, sweep=sweep, ordering=ordering)
    np.testing.assert_allclose(ns.unroll(solver, a, jnp.asarray(b), 5).value, x, rtol=1e-11)
    solution = lx.linear_solve(a, jnp.asarray(b), solver)
    np.testing.assert_allclose(solution.value, np.linalg.solve(dense, b), rtol=1e-7, atol=1e-9)


def test_gauss_seidel_updates_entry_after_entry():
    dense = general(15, seed=4)
    b = np.random.default_rng(3).standard_normal(15)
    x = np.zeros(15)
    for i in range(15):
        x[i] = (b[i] - dense[i] @ x + dense[i, i] * x[i]) / dense[i, i]
    once = ns.unroll(SOR(rtol=1e-8), sparse(dense), jnp.asarray(b), 1).value
    np.testing.assert_allclose(once, x, rtol=1e-12)


def test_sor_derivatives_and_traced_omega():
    dense = hermitian(20)
    a, b = sparse(dense, PSD), jnp.asarray(np.random.default_rng(2).standard_normal(20))

    def entry(values, b, omega):
        return lx.linear_solve(a.with_values(values), b, SOR(rtol=1e-12, omega=omega)).value[3]

    by_value, by_b = jax.jit(jax.grad(entry, argnums=(0, 1)))(a.values, b, 1.1)
    adjoint, solution = np.linalg.inv(dense)[3], np.linalg.solve(dense, b)
    np.testing.assert_allclose(by_b, adjoint, atol=1e-10)
    expected = -adjoint[a.pattern.rows] * solution[a.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-9)

    def steps(omega):
        return lx.linear_solve(a, b, SOR(rtol=1e-10, omega=omega)).stats["num_steps"]

    _, scanned = jax.lax.scan(lambda c, w: (c, steps(w)), None, jnp.array([0.5, 1.0]))
    assert scanned[0] > scanned[1]
    np.testing.assert_array_equal(scanned, [steps(0.5), steps(1.0)])

    def residual(omega):
        return ns.unroll(SOR(rtol=1e-10, omega=omega), a, b, 3).stats["residual_norm"]

    difference = (residual(1.1 + 1e-5) - residual(1.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(residual)(1.1), difference, rtol=1e-5)


def test_best_omega_on_a_grid():
    """Young's optimal parameter needs O(width) sweeps where Gauss-Seidel needs O(width^2)."""
    side = 24
    a = ns.StencilLinearOperator.poisson((side, side), 1.0)
    b = jnp.ones((side, side))
    best = 2 / (1 + np.sin(np.pi / (side + 1)))
    few = lx.linear_solve(a, b, SOR(rtol=1e-6, omega=best)).stats["num_steps"]
    many = lx.linear_solve(a, b, SOR(rtol=1e-6)).stats["num_steps"]
    assert few < 4 * side and many > 8 * few


def test_divergence_and_zero_diagonal_fail():
    hostile = np.array([[1.0, 3.0], [3.0, 1.0]])
    solver = SOR(rtol=1e-8)
    solution = lx.linear_solve(sparse(hostile), jnp.ones(2), solver, throw=False)
    assert solution.result != lx.RESULTS.successful
    a = sparse(hermitian(8), PSD)
    values = a.values.at[a.pattern.diagonal_positions[5]].set(0.0)
    with pytest.raises(ValueError, match="entry 5"):
        SSOR()(a.with_values(values))
    solve = jax.jit(lambda v: lx.linear_solve(a.with_values(v), jnp.ones(8), solver, throw=False))
    assert solve(values).result != lx.RESULTS.successful


def test_bad_input_is_named():
    for omega in (0.0, 2.0, -1, float("nan")):
        with pytest.raises(ValueError, match="omega"):
            SSOR(omega)
        with pytest.raises(ValueError, match="omega"):
            SOR(rtol=1e-8, omega=omega)
    with pytest.raises(ValueError, match="ordering"):
        SSOR(ordering="red-black")  # pyright: ignore
    with pytest.raises(ValueError, match="sweep"):
        SOR(rtol=1e-8, sweep="sideways")
    with pytest.raises(ValueError, match="omega.*scalar"):
        SSOR(jnp.ones(3))(sparse(hermitian(5), PSD))
    with pytest.raises(ValueError, match="row 1 of the pattern has none"):
        SSOR()(sparse(np.array([[1.0, 1], [1, 0]])))
    with pytest.raises(ValueError, match="no preconditioner"):
        lx.linear_solve(sparse(hermitian(5), PSD), jnp.ones(5), SOR(rtol=1e-8, preconditioner=SSOR()))
