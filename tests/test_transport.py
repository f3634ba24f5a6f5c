"""Laws of the transport solvers: right answers, honest results, derivatives, certificate, batches, effort."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from nsolve.transport import CostMatrix, Grid, PointCloud, Sinkhorn, SinkhornNewton, solve
from nsolve.transport import geometry as geometries

from . import transport_reference as reference

# Tolerances are arrays and problems have one shape: a solver is compiled once for all of them.
RTOL = jnp.asarray(1e-10)
STEPS = 3000
SOLVERS = {
    "newton": SinkhornNewton(rtol=RTOL),
    "plain": Sinkhorn(rtol=RTOL, max_steps=STEPS),
    "relaxed": Sinkhorn(rtol=RTOL, max_steps=STEPS, relaxation=1.5),
    "adaptive": Sinkhorn(rtol=RTOL, max_steps=STEPS, relaxation="adaptive"),
    "anderson": Sinkhorn(rtol=RTOL, max_steps=STEPS, anderson=5),
    "continued": Sinkhorn(rtol=RTOL, max_steps=STEPS, decay=4.0),
}
N, M = 9, 7


def with_rtol(solver, rtol):
    return eqx.tree_at(lambda s: s.rtol, solver, jnp.asarray(rtol))


def draw(seed=0, n=N, m=M):
    """Costs up to one and weights of mass one."""
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    return rng.random((n, m)), a / a.sum(), b / b.sum()


def _uniform():
    C, _, _ = draw()
    return C, 0.05, np.full(N, 1 / N), np.full(M, 1 / M)


def _uneven():
    C, a, b = draw(1)
    return C, 0.03, a**3 / np.sum(a**3), b**3 / np.sum(b**3)


def _zeros():
    C, a, b = draw(2)
    a[[0, 4]] = 0
    b[3] = 0
    C[4] = 40  # what has no weight has no say
    return C, 0.05, a / a.sum(), b / b.sum()


def _ties():
    x = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), -1).reshape(-1, 2) / 4
    return np.abs(x[:, None] - x[:M]).sum(-1), 0.05, np.full(N, 1 / N), np.full(M, 1 / M)


def _duplicates():
    C, a, b = draw(3)
    C[5:] = C[5]
    C[:, 1] = C[:, 0]
    return C, 0.05, a, b


def _masses():
    C, a, b = draw(4)
    return C, 0.05, 37 * a, 37 * b


def _negative():
    C, a, b = draw(5)
    return 1e4 * (C - 0.7), 500.0, a, b


def _constant():
    _, a, b = draw(6)
    return np.full((N, M), 0.3), 0.01, a, b


BALANCED = {
    "uniform": _uniform(),
    "uneven": _uneven(),
    "zeros": _zeros(),
    "ties": _ties(),
    "duplicates": _duplicates(),
    "masses": _masses(),
    "negative": _negative(),
    "constant": _constant(),
}


def check(solution, C, epsilon, a, b, rho=(None, None), tol=1e-10, accuracy=1e-7):
    """Everything that a successful solution claims, against NumPy."""
    shape = C.shape
    P, v, u = None, np.linspace(-1, 2, shape[1]), np.linspace(2, -1, 2 * shape[0]).reshape(-1, 2)
    f, g = (np.asarray(z).reshape(-1) for z in (solution.f, solution.g))
    scale = np.max(np.abs(C)) + epsilon
    mass = max(a.sum(), b.sum())
    rounding = 1e-14 * mass * scale / epsilon

    assert solution.result == lx.RESULTS.successful
    error = reference.marginal_error(C, epsilon, a, b, f, g, rho)
    assert error <= tol * mass + rounding
    np.testing.assert_allclose(solution.marginal_error, error, rtol=1e-6, atol=rounding)

    exact = reference.solve(C, epsilon, a, b, rho)
    np.testing.assert_allclose(f, exact.f, rtol=0, atol=accuracy * scale)
    np.testing.assert_allclose(g, exact.g, rtol=0, atol=accuracy * scale)
    np.testing.assert_allclose(solution.cost, exact.cost, rtol=0, atol=10 * tol * mass * scale)

    P = reference.plan_of(C, epsilon, a, b, f, g)
    np.testing.assert_allclose(
        solution.cost, reference.primal(C, epsilon, a, b, P, rho), rtol=0, atol=10 * tol * mass * scale
    )
    np.testing.assert_allclose(solution.transport_cost, np.sum(P * C), rtol=1e-11)
    np.testing.assert_allclose(solution.plan.as_matrix(), P, rtol=0, atol=rounding)
    source, target = solution.f.shape, solution.g.shape
    there = solution.plan.apply(v.reshape(target))
    back = solution.plan.T.apply(u.reshape(*source, 2))
    assert there.shape == source and back.shape == (*target, 2)
    np.testing.assert_allclose(np.reshape(there, -1), P @ v, rtol=0, atol=10 * rounding)
    np.testing.assert_allclose(np.reshape(back, (-1, 2)), P.T @ u, rtol=0, atol=10 * rounding)


@pytest.mark.parametrize("problem", BALANCED)
@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_marginals(solver, problem):
    C, epsilon, a, b = BALANCED[problem]
    weights = (None, None) if problem == "uniform" else (a, b)
    check(solve(CostMatrix(C, epsilon), *weights, SOLVERS[solver]), C, epsilon, a, b)


RELAXED = {
    "both": (0.7, 0.7),
    "strongly": (5.0, 5.0),
    "weakly": (0.02, 0.01),
    "source": (0.5, None),
    "target": (None, 0.05),
    "hardly": (1e4, 1e4),  # sweeps would need a million steps to find the total mass
}
RELAXED_ROWS = [("newton", name) for name in RELAXED]
RELAXED_ROWS += [(solver, name) for solver in ("plain", "relaxed", "anderson") for name in list(RELAXED)[:3]]


@pytest.mark.parametrize("solver, relaxed", RELAXED_ROWS)
def test_relaxed_marginals(solver, relaxed):
    rho = RELAXED[relaxed]
    C, epsilon, a, b = BALANCED["zeros"]
    a, b = 1.3 * a, 0.8 * b
    given = rho[0] if rho[0] == rho[1] else rho
    solution = solve(CostMatrix(C, epsilon), a, b, SOLVERS[solver], rho=given, certificate=False)
    check(solution, C, epsilon, a, b, rho)


# ---- geometries: clouds and grids against the matrix that they stand for


class Stretched(eqx.Module):
    """A cost with a parameter, in which source and target are not alike."""

    scale: jax.Array

    def __call__(self, x, y):
        return jnp.sum((x - self.scale * y) ** 2)


CLOUDS = {
    "squared_euclidean": lambda x, y: np.sum((x[:, None] - y) ** 2, -1),
    "euclidean": lambda x, y: np.linalg.norm(x[:, None] - y, axis=-1),
    "manhattan": lambda x, y: np.sum(np.abs(x[:, None] - y), -1),
    "cosine": lambda x, y: 1 - x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1),
    "function": lambda x, y: np.sum((x[:, None] - 0.7 * y) ** 2, -1),
}


def cloud(seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.random((N, 2)) + 0.2, rng.random((M, 2)) + 0.2
    y[1] = x[2] = y[0]  # points may coincide
    return x, y


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds(name):
    x, y = cloud()
    _, _, a, b = BALANCED["zeros"]
    cost = Stretched(jnp.array(0.7)) if name == "function" else name
    solver = SOLVERS["newton" if name == "squared_euclidean" else "plain"]
    solution = solve(PointCloud(x, y, cost, epsilon=0.05), a, b, solver, certificate=False)
    check(solution, CLOUDS[name](x, y), 0.05, a, b)


@pytest.mark.parametrize("solver", ["newton", "plain"])
def test_streamed_clouds(solver, monkeypatch):
    monkeypatch.setattr(geometries, "TILE", 20)
    x, y = cloud(1)
    _, _, a, b = BALANCED["zeros"]
    # one coordinate: a program of its own, since the tile is not part of what programs are known by
    geometry = PointCloud(x[:, :1], y[:, :1], "manhattan", epsilon=0.05)
    assert not geometry.fits
    solution = solve(geometry, a, b, SOLVERS[solver], certificate=True)
    check(solution, np.abs(x[:, :1] - y[:, 0]), 0.05, a, b)


@pytest.mark.parametrize("solver", ["newton", "plain"])
def test_grids(solver):
    rng = np.random.default_rng(7)
    axes, targets = [rng.random(3), rng.random(3)], [rng.random(2), rng.random(4)]
    a, b = rng.random((3, 3)), rng.random((2, 4))
    a[0, 1] = b[1, 2] = 0
    a, b = a / a.sum(), b / b.sum()
    C = (axes[0][:, None, None, None] - targets[0][:, None]) ** 2 + np.abs(
        axes[1][:, None, None] - targets[1]
    )
    geometry = Grid(axes, targets, ["squared_euclidean", "manhattan"], epsilon=0.05)
    solution = solve(geometry, a, b, SOLVERS[solver], certificate=False)
    assert solution.f.shape == (3, 3) and solution.g.shape == (2, 4)
    check(solution, C.reshape(9, 8), 0.05, a.reshape(-1), b.reshape(-1))


@pytest.mark.parametrize(
    "shape, rho, solver",
    [((1, 4), None, "newton"), ((4, 1), 0.3, "newton"), ((1, 1), None, "newton"), ((1, 1), 0.3, "plain")],
    ids=str,
)
def test_single_sites(shape, rho, solver):
    C, a, b = draw(8, *shape)
    solution = solve(CostMatrix(C, 0.05), a, b, SOLVERS[solver], rho=rho, certificate=False)
    check(solution, C, 0.05, a, b, (rho, rho))


# ---- honesty: successful is what it says


@pytest.mark.parametrize("rtol", [1e-4, 1e-12, 1e-19])
@pytest.mark.parametrize("solver", SOLVERS)
def test_successful_means_within_tolerance(solver, rtol):
    C, a, b = draw(9)
    outcomes = set()
    for epsilon in (0.3, 1e-2, 1e-5, 1e-9):
        solution = solve(CostMatrix(C, epsilon), a, b, with_rtol(SOLVERS[solver], rtol), throw=False)
        error = reference.marginal_error(C, epsilon, a, b, solution.f, solution.g)
        rounding = 1e-14 / epsilon
        assert np.isfinite(error)
        np.testing.assert_allclose(solution.marginal_error, error, rtol=1e-6, atol=rounding)
        successful = bool(solution.result == lx.RESULTS.successful)
        assert successful == bool(solution.marginal_error <= rtol)
        assert not successful or error <= rtol + rounding
        stopped = (lx.RESULTS.successful, lx.RESULTS.max_steps_reached, lx.RESULTS.stagnation)
        assert any(bool(solution.result == outcome) for outcome in stopped)
        outcomes.add(successful)
    assert outcomes == {1e-4: {True}, 1e-19: {False}}.get(rtol, outcomes) or solver != "newton"
    assert True in outcomes or rtol < 1e-15


@pytest.mark.parametrize("kind", [SinkhornNewton, Sinkhorn])
def test_out_of_steps(kind):
    C, a, b = draw(10)
    geometry = CostMatrix(C, 1e-4)
    solver = kind(max_steps=1)
    solution = solve(geometry, a, b, solver, certificate=False, throw=False)
    assert solution.result == lx.RESULTS.max_steps_reached
    assert np.all(np.isfinite(solution.f)) and np.all(np.isfinite(solution.g))
    error = reference.marginal_error(C, 1e-4, a, b, solution.f, solution.g)
    np.testing.assert_allclose(solution.marginal_error, error, rtol=1e-9)
    assert solution.stats["num_steps"] <= 2
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        solve(geometry, a, b, solver, certificate=False)
