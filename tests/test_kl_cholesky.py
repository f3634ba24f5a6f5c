"""Factors of inverse kernel matrices: against dense formulas, point by point, and inside CG."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import nsolve as ns
from nsolve.preconditioners import KLCholesky
from nsolve.preconditioners.kl_cholesky import Points, coarse_to_fine, nearest_before
from tests.helpers import assert_refresh_is_set_up
from tests.test_incomplete import DTYPES, PSD, matrices, relative_error


def positions(n=60, d=2, seed=0):
    return np.random.default_rng(seed).random((n, d))


def matern(points, nugget=1e-6, length=0.3):
    """In NumPy."""
    s = np.sqrt(3) * cdist(points, points) / length
    return (1 + s) * np.exp(-s) + nugget * np.eye(len(points))


def operator(points, nugget=1e-6, length: object = 0.3):
    return ns.KernelLinearOperator(points, ns.operators.RadialKernel("matern32", length), nugget)


def dense_order(points):
    """Coarse to fine, by looking at all distances in each step."""
    distances = cdist(points, points)
    order = [int(np.argmin(np.sum((points - points.mean(0)) ** 2, axis=1)))]
    left = distances[order[0]].copy()
    for _ in range(len(points) - 1):
        left[order] = -1
        order.append(int(np.argmax(left)))
        left = np.minimum(left, distances[order[-1]])
    return np.array(order)


def dense_factor(matrix, points, neighbours):
    """`G`, each row in closed form: `A_ss^-1 e / sqrt(e^T A_ss^-1 e)`, `e` the row's own place."""
    order, g = dense_order(points), np.zeros_like(matrix)
    for k, i in enumerate(order):
        distances = np.linalg.norm(points[order[:k]] - points[i], axis=1)
        s = np.append(order[:k][np.argsort(distances, kind="stable")[:neighbours]], i)
        unit = np.zeros(len(s))
        unit[-1] = 1
        x = np.linalg.solve(matrix[np.ix_(s, s)], unit)
        g[i, s] = x / np.sqrt(x[-1])
    return g


def divergence(inverse, matrix):
    """Kullback and Leibler's, of N(0, A) from N(0, M^-1)."""
    product = inverse @ matrix
    return (np.trace(product) - len(matrix) - np.linalg.slogdet(product)[1]) / 2


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_order_goes_from_coarse_to_fine(d):
    points = positions(300, d)
    order = coarse_to_fine(Points(points))
    np.testing.assert_array_equal(order, dense_order(points))
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), -1).reshape(-1, 2)  # many are as far
    np.testing.assert_array_equal(coarse_to_fine(Points(grid)), dense_order(grid))
    twice = np.concatenate([points[:5], points[:5]])
    assert sorted(coarse_to_fine(Points(twice))) == list(range(10))


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_neighbours_come_before(count):
    at = positions(200, 2)[coarse_to_fine(Points(positions(200, 2)))]
    at[150:] = 0.01 * at[150:]  # far more wanted than found at first
    found = nearest_before(at, count)
    distances = cdist(at, at)
    for i, row in enumerate(found):
        row = row[row >= 0]
        assert row[-1] == i and len(row) == min(i + 1, count)
        assert set(row[:-1]) == set(np.argsort(distances[i, :i])[: count - 1])


@pytest.mark.parametrize("neighbours", [0, 5, 29, 40])
def test_it_is_its_formula(neighbours):
    points = positions()
    dense = matern(points)
    expected = dense_factor(dense, points, neighbours)
    for matrix in (operator(points), lx.MatrixLinearOperator(jnp.asarray(dense), PSD)):
        inverse = KLCholesky(points, neighbours)(matrix)
        assert lx.is_positive_semidefinite(inverse)
        assert relative_error(inverse.factor.as_matrix(), expected) < 1e-8
        for mine in matrices(inverse):
            assert relative_error(mine, expected.T @ expected) < 1e-8
    np.testing.assert_allclose(np.diag(expected @ dense @ expected.T), 1, rtol=1e-8)  # as it must be


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_neighbours_give_the_inverse(dtype):
    points, rng = positions(30), np.random.default_rng(1)
    phases = np.exp(1j * rng.uniform(0, 6, 30)) if np.issubdtype(dtype, np.complexfloating) else np.ones(30)
    dense = (phases[:, None] * matern(points, 0.1) * phases.conj()).astype(dtype)
    inverse = KLCholesky(points, 100)(lx.MatrixLinearOperator(jnp.asarray(dense), PSD))
    single = np.finfo(dtype).bits == 32
    for mine, theirs in zip(matrices(inverse), (dense, dense.T, dense.conj()), strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine @ theirs, np.eye(30)) < (1e-3 if single else 1e-11)


def test_it_is_nearest_in_the_measure_of_kullback_and_leibler():
    points, rng = positions(40), np.random.default_rng(0)
    dense = matern(points, 1e-3)
    g = np.asarray(KLCholesky(points, 6)(operator(points, 1e-3)).factor.as_matrix())
    least = divergence(g.T @ g, dense)
    for _ in range(5):
        other = g * (1 + 1e-2 * rng.standard_normal(g.shape))
        assert divergence(other.T @ other, dense) > least
    more = np.asarray(KLCholesky(points, 12)(operator(points, 1e-3)).as_matrix())
    assert divergence(more, dense) < least / 2


@pytest.mark.parametrize(("d", "neighbours"), [(2, 30), (3, 50)])
def test_few_steps(d, neighbours):
    points = positions(800, d)
    matrix, b = operator(points), jnp.asarray(np.random.default_rng(2).standard_normal(800))
    solver = ns.CG(rtol=1e-8, max_steps=60, preconditioner=KLCholesky(points, neighbours))
    solution = lx.linear_solve(matrix, b, solver)
    assert solution.stats["num_steps"] <= 20
    residual = b - matern(points) @ solution.value
    assert np.linalg.norm(residual) <= 1e-8 * np.linalg.norm(b)
    plain = lx.linear_solve(matrix, b, ns.CG(rtol=1e-8, max_steps=60), throw=False)
    assert plain.result != lx.RESULTS.successful


def test_two_at_one_place():
    points = positions(20)
    points[7] = points[3]
    for nugget in (1e-4, 0.0):  # without one the matrix is singular, and M is definite all the same
        inverse = KLCholesky(points, 5)(operator(points, nugget))
        assert np.linalg.eigvalsh(inverse.as_matrix()).min() > 0


def test_who_is_not_definite_is_named():
    points = positions(20)
    wrong = ns.KernelLinearOperator(points, lambda x, y: 1 - 3 * (x - y) @ (x - y))
    with pytest.raises(ValueError, match=r"not positive definite among point \d+ and its neighbours"):
        KLCholesky(points, 5)(wrong)


def test_refresh_is_set_up():
    points = positions(25)
    matrix = ns.SparseLinearOperator.from_scipy(matern(points, 1e-2), PSD)
    assert_refresh_is_set_up(lambda matrix: KLCholesky(points, 6)(matrix), matrix)


def test_lengths_points_and_nuggets_may_be_traced():
    points, x = positions(25), jnp.arange(25.0)

    def act(moved, length, nugget):
        return KLCholesky(points, 6)(operator(moved, nugget, length)).mv(x)

    lengths, nuggets = jnp.array([0.2, 0.4]), jnp.array([1e-2, 1e-1])
    batched = jax.jit(jax.vmap(act, (None, 0, 0)))(jnp.asarray(points), lengths, nuggets)
    for mine, length, nugget in zip(batched, (0.2, 0.4), (1e-2, 1e-1), strict=True):
        g = dense_factor(matern(points, nugget, length), points, 6)
        np.testing.assert_allclose(mine, g.T @ g @ np.asarray(x), rtol=1e-8)


def test_unknowns_on_a_grid():
    points, x = positions(30), jnp.arange(30.0).reshape(5, 6)
    matrix = ns.StencilLinearOperator.poisson((5, 6))
    np.testing.assert_allclose(matrix.mv(KLCholesky(points, 29)(matrix).mv(x)), x, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_it_scales_with_the_matrix(scale):
    points = positions(20)
    dense = matern(points, 1e-2)
    inverse, scaled = (
        KLCholesky(points, 5)(lx.MatrixLinearOperator(jnp.asarray(s * dense), PSD)).as_matrix()
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled * scale, inverse, rtol=1e-10, atol=1e-10)


def test_single_precision_stays_definite():
    points = positions(200).astype(np.float32)
    inverse = KLCholesky(points, 30)(operator(jnp.asarray(points), 1e-6))
    whole = inverse.as_matrix()
    assert whole.dtype == jnp.float32 and jnp.isfinite(whole).all()
    steps = lx.linear_solve(
        operator(jnp.asarray(points), 1e-3),
        jnp.ones(200, jnp.float32),
        ns.CG(rtol=1e-4, preconditioner=KLCholesky(points)),
    ).stats["num_steps"]
    assert steps <= 15


def test_derivatives_of_a_solve_are_exact():
    points, b = positions(15), jnp.arange(15.0)
    solver = ns.CG(rtol=1e-13, preconditioner=KLCholesky(points, 4))

    def entry(length, nugget):
        return lx.linear_solve(operator(points, nugget, length), b, solver).value[7]

    slopes = jax.jit(jax.grad(entry, (0, 1)))(0.3, 1e-2)

    def reference(length, nugget):
        return np.linalg.solve(matern(points, nugget, length), np.arange(15.0))[7]

    h = 1e-5
    assert slopes[0] == pytest.approx(
        (reference(0.3 + h, 1e-2) - reference(0.3 - h, 1e-2)) / (2 * h), rel=1e-6
    )
    assert slopes[1] == pytest.approx(
        (reference(0.3, 1e-2 + h) - reference(0.3, 1e-2 - h)) / (2 * h), rel=1e-4
    )


def test_its_length_is_constant():
    points = positions(15)
    slope = jax.grad(
        lambda length: jnp.sum(KLCholesky(points, 4)(operator(points, 1e-2, length)).as_matrix())
    )
    assert slope(0.3) == 0


def test_traced_bad_entries_fail_closed():
    points = positions(20)
    solver = ns.CG(rtol=1e-8, preconditioner=KLCholesky(points, 5))
    solve = eqx.filter_jit(
        lambda dense: (
            lx.linear_solve(lx.MatrixLinearOperator(dense, PSD), jnp.ones(20), solver, throw=False).result
        )
    )
    dense = jnp.asarray(matern(points))
    assert solve(dense) == lx.RESULTS.successful
    for bad in (jnp.nan, -1.0):
        assert solve(dense.at[3, 3].set(bad)) != lx.RESULTS.successful


def test_it_tells_its_cost():
    points = positions(50)
    shown = repr(KLCholesky(points, 7)(operator(points)))
    assert shown == (
        "KLCholesky preconditioner (50 unknowns, each given its 7 nearest before it; 2 sparse products with "
        f"{50 * 8 - 28} entries)"
    )


def test_bad_input_is_named():
    points = positions(20)
    for bad in (-1, 2.0, True, "3"):
        with pytest.raises(ValueError, match=r"`KLCholesky\(neighbours=...\)` must be an integer >= 0"):
            KLCholesky(points, bad)  # pyright: ignore
    with pytest.raises(
        ValueError, match=r"must have shape \(n, d\).* shape \(20,\); write `points\[:, None\]`"
    ):
        KLCholesky(points[:, 0])
    with pytest.raises(ValueError, match="must be finite, but point 4 is"):
        KLCholesky(np.where(np.arange(20)[:, None] == 4, np.nan, points))
    with pytest.raises(TypeError, match="must be concrete"):
        jax.jit(lambda p: KLCholesky(p)(operator(points)).mv(jnp.ones(20)))(points)
    with pytest.raises(ValueError, match="was given 19 points, but the operator has 20 unknowns"):
        KLCholesky(points[:19])(operator(points))
    with pytest.raises(ValueError, match=r"`preconditioners.KLCholesky` solves positive definite"):
        KLCholesky(points)(lx.MatrixLinearOperator(jnp.eye(20)))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((20,), float), PSD)
    with pytest.raises(ValueError, match="`KLCholesky` needs the entries of the matrix"):
        KLCholesky(points)(function)
    with pytest.raises(ValueError, match="20 x 21"):
        KLCholesky(points)(lx.MatrixLinearOperator(jnp.ones((20, 21))))
