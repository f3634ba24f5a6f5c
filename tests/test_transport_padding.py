"""What must not act: sites without weight, what costs have in common, and the side of a kink."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from nsolve.transport import (
    CostMatrix,
    Grid,
    PointCloud,
    Sinkhorn,
    SinkhornNewton,
    sinkhorn_divergence,
    solve,
)

from . import transport_reference as reference

NEWTON = SinkhornNewton(rtol=jnp.asarray(1e-11))
SOLVERS = {"newton": NEWTON, "plain": Sinkhorn(rtol=jnp.asarray(1e-11), max_steps=3000)}
N, M, PADS = 6, 5, 3
RNG = np.random.default_rng(0)
X, Y = RNG.random((N, 2)) + 0.2, RNG.random((M, 2)) + 0.2
A, B = RNG.dirichlet(np.ones(N)), RNG.dirichlet(np.ones(M))
FILLED_A, FILLED_B = np.concatenate([np.zeros(PADS), A]), np.concatenate([B, np.zeros(PADS)])


def filled(value):
    """Both clouds with massless points, at the front of one and the end of the other."""
    pads = np.full((PADS, 2), value)
    return np.concatenate([pads, X]), np.concatenate([Y, pads])


@functools.cache  # one program for every padding
def value_and_slopes(cost, solver, tau):
    def outputs(x, y, a, b):
        geometry = PointCloud(x, y, cost, epsilon=0.05)
        solution = solve(geometry, a, b, SOLVERS[solver], tau=tau, certificate=False, throw=False)
        spread = jnp.sum(solution.f * a * jnp.arange(1.0, a.size + 1)[::-1])
        return solution.cost + spread, (solution, solution.plan.as_matrix(), solution.transport_cost)

    both = jax.jit(jax.value_and_grad(outputs, argnums=(0, 1), has_aux=True))
    return lambda *args: jax.device_get(both(*args))


@pytest.mark.parametrize("value", [1e6, 1e200, np.nan, np.inf], ids=str)
@pytest.mark.parametrize(
    "cost, solver, tau",
    [
        ("squared_euclidean", "newton", None),
        ("squared_euclidean", "plain", None),
        ("euclidean", "newton", 0.5),
        ("cosine", "newton", None),
    ],
)
def test_massless_points_have_no_say(cost, solver, tau, value):
    both = value_and_slopes(cost, solver, tau)
    (plain, (alone, exact, paid)), (dx, dy) = both(X, Y, A, B)
    (cost_, (padded, P, padded_paid)), (px, py) = both(*filled(value), FILLED_A, FILLED_B)
    assert padded.result == alone.result == lx.RESULTS.successful
    np.testing.assert_allclose(cost_, plain, rtol=1e-9)
    np.testing.assert_allclose(padded.f[PADS:], alone.f, atol=1e-9)
    np.testing.assert_allclose(padded.g[:M], alone.g, atol=1e-9)
    assert np.all(np.isfinite(padded.f)) and np.all(np.isfinite(padded.g))
    np.testing.assert_allclose(P[PADS:, :M], exact, atol=1e-10)
    assert not np.any(P[:PADS]) and not np.any(P[:, M:])
    np.testing.assert_allclose(padded_paid, paid, rtol=1e-9)
    # the same path, so the same certificate
    assert padded.stats["num_steps"] == alone.stats["num_steps"]
    np.testing.assert_array_equal(px[:PADS], 0)
    np.testing.assert_array_equal(py[M:], 0)
    np.testing.assert_allclose(px[PADS:], dx, atol=1e-8)
    np.testing.assert_allclose(py[:M], dy, atol=1e-8)


def test_many_coordinates_keep_their_digits_beside_massless_points():
    rng = np.random.default_rng(1)
    x, y = rng.random((N, 9)), rng.random((M, 9))
    far = np.full((PADS, 9), 1e7)
    alone = solve(PointCloud(x, y, epsilon=0.1), A, B, NEWTON, certificate=False)
    padded = solve(
        PointCloud(np.concatenate([far, x]), np.concatenate([y, far]), epsilon=0.1),
        FILLED_A,
        FILLED_B,
        NEWTON,
        certificate=False,
    )
    np.testing.assert_allclose(padded.cost, alone.cost, rtol=1e-11)


@functools.cache
def cost_and_slopes(tau):
    def cost(C, a, b):
        solution = solve(CostMatrix(C, 0.05), a, b, NEWTON, tau=tau, certificate=False, throw=False)
        return solution.cost, solution.result

    both = jax.jit(jax.value_and_grad(cost, argnums=(0, 1), has_aux=True))
    return lambda *args: jax.device_get(both(*args))


@pytest.mark.parametrize("value", [1e9, np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("tau", [None, 0.5])
def test_massless_rows_and_columns_have_no_say(value, tau):
    C = np.full((N + PADS, M + PADS), value)
    C[PADS:, :M] = np.random.default_rng(6).random((N, M))

    both = cost_and_slopes(tau)
    (alone, _), (exact, _) = both(C[PADS:, :M], A, B)
    (padded, result), (slope, slope_a) = both(C, FILLED_A, FILLED_B)
    assert result == lx.RESULTS.successful
    np.testing.assert_allclose(padded, alone, rtol=1e-10)
    np.testing.assert_allclose(slope[PADS:, :M], exact, atol=1e-9)
    assert not np.any(slope[:PADS]) and not np.any(slope[:, M:])
    assert np.all(np.isfinite(slope_a))


def exact_distance(x, a):
    """The divergence from `(Y, B)`, and its slope in `x`: plans are the slopes of costs."""

    def exact(x, y, a, b):
        return reference.solve(np.sum((x[:, None] - y) ** 2, -1), 0.05, a, b)

    across, within, other = exact(x, Y, a, B), exact(x, x, a, a), exact(Y, Y, B, B)
    forces = 2 * (a[:, None] * x - across.plan @ Y) - 2 * (a[:, None] * x - within.plan @ x)
    return across.cost - within.cost / 2 - other.cost / 2, forces


def test_a_batch_of_clouds_filled_up_to_one_size():
    """Any number of points, the rest NaN."""

    def distance(x, a):
        divergence = sinkhorn_divergence(x, Y, a, B, NEWTON, epsilon=0.05, throw=False)
        return divergence.value, divergence.result

    counts = (2, N, 4)
    x = np.stack([np.where(np.arange(N)[:, None] < count, X, np.nan) for count in counts])
    a = np.stack([np.where(np.arange(N) < count, 1 / count, 0) for count in counts])
    both = jax.jit(jax.vmap(jax.value_and_grad(distance, has_aux=True)))
    (values, results), slopes = jax.device_get(both(x, a))
    assert np.all(results == lx.RESULTS.successful)
    for k, count in enumerate(counts):
        expected, slope = exact_distance(X[:count], np.full(count, 1 / count))
        np.testing.assert_allclose(values[k], expected, rtol=1e-8)
        np.testing.assert_allclose(slopes[k, :count], slope, atol=1e-8)
        np.testing.assert_array_equal(slopes[k, count:], 0)


@pytest.mark.compiles("two shapes of a grid under Newton's method")
def test_massless_lines_of_a_grid_have_no_say():
    near, far = np.linspace(0, 1, 4), np.concatenate([np.linspace(0, 1, 4), [1e6, 2e6]])
    a, b = np.random.default_rng(7).dirichlet(np.ones(16), 2).reshape(2, 4, 4)
    wide = [np.pad(w, ((0, 2), (0, 2))) for w in (a, b)]
    alone, padded = (
        solve(Grid([s, s], epsilon=0.05), *weights, NEWTON, certificate=False)
        for s, weights in ((near, (a, b)), (far, wide))
    )
    np.testing.assert_allclose(padded.cost, alone.cost, rtol=1e-10)
    assert padded.stats["num_steps"] == alone.stats["num_steps"]


# ---- offsets: costs that are exact in float64 with and without them, so that answers must agree


def _coarse(values):
    return np.round(values * 2**20) / 2**20


COSTS = _coarse(RNG.random((N, M)))
ROWS, COLUMNS = np.round(1e7 * RNG.normal(size=N)), np.round(1e7 * RNG.normal(size=M))
OFFSETS = {
    "constant": (np.full(N, 1e6), np.zeros(M)),
    "negative": (np.full(N, -1e9), np.zeros(M)),
    "rows": (ROWS, np.zeros(M)),
    "columns": (np.zeros(N), COLUMNS),
    "both": (ROWS, COLUMNS),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_of_costs_move_potentials_and_cost(name, solver):
    u, v = OFFSETS[name]
    C = COSTS + u[:, None] + v
    np.testing.assert_array_equal(C - u[:, None] - v, COSTS)
    exact = reference.solve(COSTS, 0.01, A, B)
    solution = solve(CostMatrix(C, 0.01), A, B, SOLVERS[solver], certificate=False)
    np.testing.assert_allclose(solution.plan.as_matrix(), exact.plan, atol=1e-10)
    np.testing.assert_allclose(solution.marginal_error, 0, atol=1e-11)
    rounding = 4 * np.finfo(float).eps * np.max(np.abs(C))
    moved = A @ u + B @ v
    np.testing.assert_allclose(solution.cost - moved, exact.cost, rtol=0, atol=1e-9 + rounding)
    # sum P C is sum P COSTS + (P 1) u + (P^T 1) v, and `moved` is a u + b v: by Hoelder's inequality they
    # differ by no more than the marginals' L1 error times the largest offset
    missed = float(solution.marginal_error) * max(np.max(np.abs(u)), np.max(np.abs(v)))
    paid = np.sum(exact.plan * COSTS)
    np.testing.assert_allclose(solution.transport_cost - moved, paid, rtol=0, atol=1e-9 + rounding + missed)
    sums = np.asarray(solution.f)[:, None] + np.asarray(solution.g) - u[:, None] - v
    np.testing.assert_allclose(sums, exact.f[:, None] + exact.g, rtol=0, atol=1e-8 + rounding)


@pytest.mark.parametrize("tau", [(None, 0.5), (0.5, None)], ids=str)
def test_offsets_of_the_exact_side_of_a_relaxed_problem(tau):
    u = np.zeros(N) if tau[0] else ROWS
    v = np.zeros(M) if tau[1] else COLUMNS
    exact = reference.solve(COSTS, 0.05, A, B, tau)
    costs = CostMatrix(COSTS + u[:, None] + v, 0.05)
    solution = solve(costs, A, B, NEWTON, tau=tau, certificate=False)
    np.testing.assert_allclose(solution.plan.as_matrix(), exact.plan, atol=1e-9)
    np.testing.assert_allclose(solution.cost - A @ u - B @ v, exact.cost, atol=1e-8)


def test_offsets_of_a_cost_function():
    geometry = PointCloud(X, Y, lambda s, t: jnp.sum((s - t) ** 2) + 1e4, epsilon=0.05)
    plain = solve(PointCloud(X, Y, epsilon=0.05), A, B, NEWTON, certificate=False)
    shifted = solve(geometry, A, B, SinkhornNewton(rtol=jnp.asarray(1e-9)), certificate=False)
    np.testing.assert_allclose(shifted.plan.as_matrix(), plain.plan.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(shifted.cost - 1e4, plain.cost, atol=1e-9)


# ---- kinks: coinciding points and coordinates

PIXELS = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), -1).reshape(-1, 2) + 1


@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean", "manhattan", "cosine"])
def test_derivatives_at_coinciding_pixels_are_symmetric(cost):
    """Between the slopes of either side, forward and reverse; and second derivatives are finite."""
    direction = np.random.default_rng(2).normal(size=PIXELS.shape)

    def costs(x):
        return PointCloud(x, PIXELS, cost, epsilon=0.1).cost_matrix()

    h = 1e-5
    symmetric = (costs(PIXELS + h * direction) - costs(PIXELS - h * direction)) / (2 * h)
    _, tangent = jax.jvp(costs, (PIXELS,), (direction,))
    np.testing.assert_allclose(tangent, symmetric, atol=1e-8)
    weights = np.random.default_rng(3).normal(size=symmetric.shape)
    slope, second = jax.jvp(jax.grad(lambda x: jnp.sum(weights * costs(x))), (PIXELS,), (direction,))
    np.testing.assert_allclose(np.vdot(slope, direction), np.vdot(weights, symmetric), atol=1e-7)
    assert np.all(np.isfinite(second))


def test_derivatives_of_grids_at_coinciding_coordinates_are_symmetric():
    s, direction = np.arange(4.0), np.random.default_rng(4).normal(size=4)

    def costs(s):
        return Grid([s], [np.arange(4.0)], "manhattan", epsilon=0.1).cost_matrix()

    h = 1e-5
    symmetric = (costs(s + h * direction) - costs(s - h * direction)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(costs, (s,), (direction,))[1], symmetric, atol=1e-9)


@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean", "manhattan", "cosine"])
def test_a_divergence_is_stationary_where_clouds_agree(cost):
    # The slope is a difference of two plans, each right to rtol, times slopes of at most 4.
    a, solver = np.random.default_rng(5).dirichlet(np.ones(9)), SinkhornNewton(rtol=jnp.asarray(1e-13))

    def value(x):
        return sinkhorn_divergence(x, PIXELS, a, a, solver, epsilon=0.5, cost=cost).value

    found, slope = jax.jit(jax.value_and_grad(value))(PIXELS)
    assert abs(found) <= 1e-12
    np.testing.assert_allclose(slope, 0, atol=1e-12)


@pytest.mark.parametrize("size, dtype", [(1e200, np.float64), (1e-200, np.float64), (1e25, np.float32)])
def test_distances_do_not_square_out_of_range(size, dtype):
    x, y = (size * X).astype(dtype), (size * Y).astype(dtype)
    C = PointCloud(x, y, "euclidean", epsilon=size).cost_matrix()
    expected = np.linalg.norm(X[:, None] - Y, axis=-1)
    np.testing.assert_allclose(np.asarray(C, np.float64) / size, expected, rtol=20 * np.finfo(dtype).eps)
