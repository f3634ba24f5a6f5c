"""Laws of the transport solvers: right answers, honest results, derivatives, certificate, batches, effort."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from nsolve.transport import CostMatrix, Grid, PointCloud, Sinkhorn, SinkhornNewton, solve
from nsolve.transport import _point as points
from nsolve.transport import geometry as geometries
from nsolve.transport._point import stand_at
from nsolve.transport._problem import EntropicProblem
from nsolve.transport.base import AbstractTransportSolver

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
    "continued": Sinkhorn(rtol=RTOL, max_steps=STEPS, decay=3.0),
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


def check(solution, C, epsilon, a, b, tau=(None, None), tol=1e-10, accuracy=1e-7):
    """Everything that a successful solution claims, against NumPy."""
    shape = C.shape
    P, v, u = None, np.linspace(-1, 2, shape[1]), np.linspace(2, -1, 2 * shape[0]).reshape(-1, 2)
    f, g = (np.asarray(z).reshape(-1) for z in (solution.f, solution.g))
    scale = np.max(np.abs(C)) + epsilon
    mass = max(a.sum(), b.sum())
    rounding = 1e-14 * mass * scale / epsilon

    assert solution.result == lx.RESULTS.successful
    error = reference.marginal_error(C, epsilon, a, b, f, g, tau)
    assert error <= tol * mass + rounding
    np.testing.assert_allclose(solution.marginal_error, error, rtol=1e-6, atol=rounding)

    exact = reference.solve(C, epsilon, a, b, tau)
    np.testing.assert_allclose(f, exact.f, rtol=0, atol=accuracy * scale)
    np.testing.assert_allclose(g, exact.g, rtol=0, atol=accuracy * scale)
    np.testing.assert_allclose(solution.cost, exact.cost, rtol=0, atol=10 * tol * mass * scale)

    P = reference.plan_of(C, epsilon, a, b, f, g)
    np.testing.assert_allclose(
        solution.cost, reference.primal(C, epsilon, a, b, P, tau), rtol=0, atol=10 * tol * mass * scale
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
    solution = solve(CostMatrix(C, epsilon), *weights, SOLVERS[solver], certificate=False)
    check(solution, C, epsilon, a, b)


RELAXED = {
    "both": (0.7, 0.7),
    "weakly": (0.02, 0.01),
    "strongly": (300.0, 300.0),  # plain sweeps would take thousands to find the total mass
    "hardly": (1e4, 1e4),
    "source": (0.5, None),
    "target": (None, 0.05),
}
RELAXED_ROWS = [(solver, name) for solver in ("newton", "plain") for name in RELAXED]
RELAXED_ROWS += [(solver, name) for solver in ("relaxed", "anderson") for name in ("both", "strongly")]
for row in (("newton", "source"), ("plain", "target"), ("plain", "hardly")):
    RELAXED_ROWS.remove(row)


@pytest.mark.parametrize("solver, relaxed", RELAXED_ROWS)
def test_relaxed_marginals(solver, relaxed):
    tau = RELAXED[relaxed]
    C, epsilon, a, b = BALANCED["zeros"]
    a, b = 1.3 * a, 0.8 * b
    given = tau[0] if tau[0] == tau[1] else tau
    solution = solve(CostMatrix(C, epsilon), a, b, SOLVERS[solver], tau=given, certificate=False)
    check(solution, C, epsilon, a, b, tau)


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
    solution = solve(PointCloud(x, y, cost, epsilon=0.05), a, b, SOLVERS["plain"], certificate=False)
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


@pytest.mark.compiles("costs along axes, with all that a solution claims")
def test_grids():
    rng = np.random.default_rng(7)
    axes, targets = [rng.random(3), rng.random(3)], [rng.random(2), rng.random(4)]
    a, b = rng.random((3, 3)), rng.random((2, 4))
    a[0, 1] = b[1, 2] = 0
    a, b = a / a.sum(), b / b.sum()
    C = (axes[0][:, None, None, None] - targets[0][:, None]) ** 2 + np.abs(
        axes[1][:, None, None] - targets[1]
    )
    geometry = Grid(axes, targets, ["squared_euclidean", "manhattan"], epsilon=0.05)
    solution = solve(geometry, a, b, SOLVERS["newton"], certificate=False)
    assert solution.f.shape == (3, 3) and solution.g.shape == (2, 4)
    check(solution, C.reshape(9, 8), 0.05, a.reshape(-1), b.reshape(-1))


@pytest.mark.parametrize(
    "shape, tau, solver",
    [((1, 4), None, "newton"), ((4, 1), None, "newton"), ((1, 1), 0.3, "plain")],
    ids=str,
)
def test_single_sites(shape, tau, solver):
    C, a, b = draw(8, *shape)
    solution = solve(CostMatrix(C, 0.05), a, b, SOLVERS[solver], tau=tau, certificate=False)
    check(solution, C, 0.05, a, b, (tau, tau))


# ---- honesty: successful is what it says


@pytest.mark.parametrize("rtol", [1e-4, 1e-12, 1e-19])
@pytest.mark.parametrize("solver", SOLVERS)
def test_successful_means_within_tolerance(solver, rtol):
    C, a, b = draw(9)
    outcomes = set()
    for epsilon in (0.3, 1e-2, 1e-5, 1e-9):
        precise = with_rtol(SOLVERS[solver], rtol)
        solution = solve(CostMatrix(C, epsilon), a, b, precise, certificate=False, throw=False)
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
    with pytest.raises(eqx.EquinoxRuntimeError, match="transport.solve: all of `max_steps` were taken"):
        solve(geometry, a, b, solver, certificate=False)


@eqx.filter_jit
def solve_traced(C, epsilon, a, b):
    return solve(CostMatrix(C, epsilon), a, b, SOLVERS["newton"], certificate=False, throw=False)


def _spoilt(**changes):
    def problem():
        C, a, b = draw(11)
        epsilon = np.float64(0.05)
        for name, change in changes.items():
            {"C": C, "a": a, "b": b}[name][0] = change
        return C, epsilon, a, b

    return problem


def _with_epsilon(epsilon):
    def problem():
        C, a, b = draw(11)
        return C, np.float64(epsilon), a, b

    return problem


def _without_mass():
    C, a, b = draw(11)
    return C, np.float64(0.05), 0 * a, 0 * b


TRACED = {
    "unequal_masses": (_spoilt(a=3.0), lx.RESULTS.stagnation),
    "nan_costs": (_spoilt(C=np.nan), lx.RESULTS.nonfinite_input),
    "infinite_costs": (_spoilt(C=np.inf), lx.RESULTS.nonfinite_input),
    "nan_weights": (_spoilt(b=np.nan), lx.RESULTS.nonfinite_input),
    "infinite_weights": (_spoilt(b=np.inf), lx.RESULTS.nonfinite_input),
    "negative_weights": (_spoilt(b=-0.01), lx.RESULTS.breakdown),
    "negative_mass": (_spoilt(a=-30.0, b=-30.0), lx.RESULTS.breakdown),
    "no_mass": (_without_mass, None),
    "zero_epsilon": (_with_epsilon(0.0), None),
    "negative_epsilon": (_with_epsilon(-0.05), None),
    "nan_epsilon": (_with_epsilon(np.nan), None),
}


@pytest.mark.parametrize("problem, result", TRACED.values(), ids=TRACED)
def test_bad_values_that_only_show_inside_jit(problem, result):
    solution = solve_traced(*problem())
    assert solution.result != lx.RESULTS.successful
    assert result is None or solution.result == result


def test_jit_changes_nothing():
    C, a, b = draw(11)
    inside = solve_traced(C, np.float64(0.05), a, b)
    outside = solve(CostMatrix(C, 0.05), a, b, SOLVERS["newton"], certificate=False)
    assert inside.result == lx.RESULTS.successful
    for left, right in zip(jax.tree.leaves(inside), jax.tree.leaves(outside), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [SinkhornNewton(), Sinkhorn(max_steps=STEPS)], ids=["newton", "plain"])
def test_single_precision(solver):
    C, a, b = (z.astype(np.float32) for z in draw(12))
    exact_weights = [np.float64(z) / np.sum(np.float64(z)) for z in (a, b)]
    for epsilon in (1.0, 0.05, 1e-3, 1e-5, 1e-6):
        geometry = CostMatrix(C, np.float32(epsilon))
        solution = solve(geometry, a, b, solver, certificate=False, throw=False)
        assert solution.f.dtype == solution.cost.dtype == np.float32
        assert np.all(np.isfinite(solution.f)) and np.all(np.isfinite(solution.g))
        problem = (np.float64(C), np.float64(geometry.epsilon), *exact_weights)
        if solution.result == lx.RESULTS.successful:
            # potentials of size one, rounded, say no more of the plan than this
            error = reference.marginal_error(*problem, np.float64(solution.f), np.float64(solution.g))
            assert error <= 1e-3 + 4e-7 / epsilon
            np.testing.assert_allclose(
                solution.cost, reference.solve(*problem).cost, atol=1e-3 * epsilon + 1e-6
            )
        else:
            assert epsilon < 1e-3 or isinstance(solver, Sinkhorn)


# ---- derivatives


def _matrix_problem():
    C, _, a, b = BALANCED["zeros"]
    return {"C": np.minimum(C, 1), "epsilon": np.array(0.2), "a": a, "b": b}


def _cloud_problem():
    x, y = cloud(2)
    _, _, a, b = BALANCED["zeros"]
    return {"x": x, "y": y, "epsilon": np.array(0.2), "a": a, "b": b}


def _grid_problem():
    rng = np.random.default_rng(13)
    a, b = rng.random((2, 3)), rng.random((2, 3))
    a[0, 1] = 0
    axes = {"s0": rng.random(2), "s1": rng.random(3)}
    return {**axes, "epsilon": np.array(0.2), "a": a / a.sum(), "b": b / b.sum()}


def _matrix(p):
    return CostMatrix(p["C"], p["epsilon"])


NEWTON = SinkhornNewton(rtol=jnp.asarray(1e-13))
PLAIN = Sinkhorn(rtol=jnp.asarray(1e-13))
#: parameters, the geometry that they make, and a solver
DIFFERENTIATED = {
    "matrix": (_matrix_problem, _matrix, NEWTON),
    "relaxed": (
        lambda: {**_matrix_problem(), "tau_a": np.array(0.5), "tau_b": np.array(2.0)},
        _matrix,
        PLAIN,
    ),
    "half_relaxed": (lambda: {**_matrix_problem(), "tau_b": np.array(0.4)}, _matrix, PLAIN),
    "streamed": (_cloud_problem, lambda p: PointCloud(p["x"], p["y"], epsilon=p["epsilon"]), PLAIN),
    "grid": (_grid_problem, lambda p: Grid([p["s0"], p["s1"]], epsilon=p["epsilon"]), PLAIN),
}


def outputs(build, solver, p):
    """Costs, potentials, sums over the plan: all that has derivatives, and the marginal error."""
    tau = (p.get("tau_a"), p.get("tau_b"))
    solution = solve(build(p), p["a"], p["b"], solver, tau=tau, certificate=False, throw=False)
    v, u = (jnp.linspace(-1, 2, z.size).reshape(z.shape) for z in (p["b"], p["a"]))
    parts = (
        solution.cost, solution.transport_cost, solution.f, solution.g,
        solution.plan.apply(v), solution.plan.T.apply(u), solution.marginal_error,
    )  # fmt: skip
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def direction_for(p, seed=3):
    """A random change that leaves masses, and weights of zero, alone."""
    rng = np.random.default_rng(seed)
    change = {name: rng.normal(size=z.shape) * 0.3 for name, z in p.items()}
    for name in ("a", "b"):
        change[name] *= p[name]
        change[name] -= p[name] * change[name].sum() / p[name].sum()
    return change


def on_tangents(gradient, p):
    """Where masses must agree, gradients in the weights are free by a constant: a sum of zero."""
    if "tau_a" in p or "tau_b" in p:
        return gradient
    a, b = gradient["a"], gradient["b"]
    constant = (jnp.sum(a) - jnp.sum(b)) / (a.size + b.size)
    return {**gradient, "a": a - constant, "b": b + constant}


def program(build, solver):
    """Values and the gradient of a functional of them, each with its tangent: one compiled program."""

    def first_order(p):
        values, pull_back = jax.vjp(lambda p: outputs(build, solver, p), p)
        (gradient,) = pull_back(jnp.sin(jnp.arange(1.0, values.size + 1)))
        return values, on_tangents(gradient, p)

    return jax.jit(lambda p, change: jax.jvp(first_order, (p,), (change,)))


@pytest.fixture(scope="module")
def matrix_program():
    return program(_matrix, NEWTON)


@pytest.mark.compiles("second derivatives of a solve")
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_derivatives_are_those_of_finite_differences(name, monkeypatch, request):
    problem, build, solver = DIFFERENTIATED[name]
    if name == "streamed":
        monkeypatch.setattr(geometries, "TILE", 20)
    run = request.getfixturevalue("matrix_program") if name == "matrix" else program(build, solver)
    p = problem()
    change = direction_for(p)

    def moved(t):
        return run({k: p[k] + t * change[k] for k in p}, change)[0]

    (values, gradient), tangents = run(p, change)
    assert values[-1] <= 1e-12
    h = 2e-3
    near, far = (
        jax.tree.map(lambda forward, backward, t=t: (forward - backward) / (2 * t), moved(t), moved(-t))
        for t in (h, 2 * h)
    )
    numeric = jax.tree.map(lambda near, far: (4 * near - far) / 3, near, far)
    for exact, difference in zip(jax.tree.leaves(tangents), jax.tree.leaves(numeric), strict=True):
        atol = 1e-6 * max(1, np.max(np.abs(exact)))
        np.testing.assert_allclose(exact, difference, rtol=1e-6, atol=atol)
    # reverse mode says what forward mode says
    along = sum(np.vdot(gradient[k], change[k]) for k in p)
    np.testing.assert_allclose(along, np.sin(np.arange(values.size) + 1) @ tangents[0], rtol=1e-9)


def test_derivatives_at_small_epsilon(matrix_program):
    """Against the implicit function theorem, written densely."""
    C, a, b = draw(14)
    p = {"C": C, "epsilon": np.array(1e-3), "a": a, "b": b}
    change = direction_for(p)
    _, (tangent, _) = matrix_program(p, change)
    exact = reference.solve(C, 1e-3, a, b)
    f, g, P = exact.f, exact.g, exact.plan
    exponents = (f[:, None] + g - C) / 1e-3
    dP = P * (
        (change["a"] / a)[:, None] + change["b"] / b - (change["C"] + exponents * change["epsilon"]) / 1e-3
    )
    right = np.concatenate([change["a"] - dP.sum(1), change["b"] - dP.sum(0)])
    moved = 1e-3 * np.linalg.lstsq(reference.hessian(C, 1e-3, a, b, f, g), right, rcond=1e-14)[0]
    df, dg = moved[:N], moved[N:]
    constant = (change["a"] @ f + a @ df - change["b"] @ g - b @ dg) / 2
    expected = np.concatenate([df - constant, dg + constant])
    np.testing.assert_allclose(tangent[2 : 2 + N + M], expected, atol=1e-8 * np.max(np.abs(expected)))


def test_the_gradient_of_the_cost_is_the_plan():
    """The envelope theorem, without any linear solve; also where weights vanish."""
    p = {**_matrix_problem(), "tau": np.array(0.5)}
    a, b = p["a"], p["b"]

    @jax.jit
    def gradient(p):
        def cost(p):
            solution = solve(_matrix(p), p["a"], p["b"], PLAIN, tau=(None, p["tau"]), certificate=False)
            return solution.cost, solution

        return jax.grad(cost, has_aux=True)(p)

    slope, solution = gradient(p)
    P = reference.solve(p["C"], 0.2, a, b, (None, 0.5)).plan
    f, g = np.asarray(solution.f), np.asarray(solution.g)
    expected = {
        "C": P,
        "epsilon": reference.primal(0 * P, 1.0, a, b, P),
        "tau": reference.primal(0 * P, 0.0, a, b, P, (None, 1.0)),
        "a": f + 0.2 * (b.sum() - 1),
        "b": 0.5 * -np.expm1(-g / 0.5) + 0.2 * (a.sum() - np.exp(-g / 0.5)),
    }
    for name, exact in expected.items():
        np.testing.assert_allclose(slope[name], exact, rtol=1e-9, atol=1e-12, err_msg=name)


# ---- the certificate: how far an unfinished solve is from the solution


@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("problem", ["uneven", "zeros", "ties", "negative", "relaxed"])
def test_the_certificate_tells_the_error(problem, rtol):
    C, epsilon, a, b = BALANCED["uneven" if problem == "relaxed" else problem]
    tau = (0.3, 0.7) if problem == "relaxed" else (None, None)
    solution = solve(CostMatrix(C, epsilon), a, b, with_rtol(SOLVERS["plain"], rtol), tau=tau)
    exact = reference.solve(C, epsilon, a, b, tau)
    df, dg = (solution.f - exact.f)[a > 0], (solution.g - exact.g)[b > 0]
    middle = 0 if problem == "relaxed" else np.median(dg)
    P = reference.plan_of(C, epsilon, a, b, np.asarray(solution.f), np.asarray(solution.g))
    errors = {
        "potential_error": max(np.max(np.abs(df + middle)), np.max(np.abs(dg - middle))),
        "cost_error": exact.cost - solution.cost,
        # the gradient of the cost in C is the plan
        "gradient_error": np.sum(np.abs(P - exact.plan)),
    }
    rounding = {"cost_error": 1e-14 * np.max(np.abs(C))}
    for name, error in errors.items():
        np.testing.assert_allclose(
            solution.stats[name], error, rtol=0.3, atol=rounding.get(name, 0), err_msg=name
        )


# ---- batches, warm starts, effort


@pytest.mark.parametrize("name", ["newton", "relaxed"])
def test_a_batch_stops_instance_by_instance(name):
    problems = [draw(seed) for seed in range(4)]
    C, a, b = (np.stack(z) for z in zip(*problems, strict=True))
    epsilons = np.array([1.0, 0.2, 0.05, 0.02])

    def one(C, epsilon, a, b):
        return solve(CostMatrix(C, epsilon), a, b, SOLVERS[name], certificate=False, throw=False)

    batch = eqx.filter_jit(eqx.filter_vmap(one))(C, epsilons, a, b)
    steps = np.asarray(batch.stats["num_steps"])
    assert len(set(steps.tolist())) > 2
    for k, epsilon in enumerate(epsilons):
        single = one(C[k], epsilon, a[k], b[k])
        assert single.result == lx.RESULTS.successful
        member = jax.tree.map(lambda leaf, k=k: leaf[k], batch)
        assert member.result == lx.RESULTS.successful
        # a batch rounds differently: a step near the tolerance more or less
        assert abs(int(member.stats["num_steps"]) - int(single.stats["num_steps"])) <= 2
        np.testing.assert_allclose(member.f, single.f, atol=1e-8)
        np.testing.assert_allclose(member.cost, single.cost, rtol=1e-9)


@pytest.mark.parametrize("name", ["newton", "plain"])
def test_warm_starts_save_steps(name):
    C, a, b = draw(15)
    solver = SOLVERS[name]
    cold = solve(CostMatrix(C, 0.03), a, b, solver, certificate=False)
    nearby, again = (
        solve(CostMatrix(costs, 0.03), a, b, solver, y0=(cold.f, cold.g), certificate=False)
        for costs in (C + 1e-4 * draw(16)[0], C)
    )
    assert again.stats["num_steps"] <= 2
    assert again.stats["num_steps"] <= nearby.stats["num_steps"] < cold.stats["num_steps"]
    check(nearby, C + 1e-4 * draw(16)[0], 0.03, a, b)


class Counted(AbstractTransportSolver):
    """A solver that counts how often it is traced."""

    rtol: float | None = 1e-6
    max_steps: int = 100
    traces: list = eqx.field(static=True, default_factory=list)

    def run(self, problem, start):
        self.traces.append(problem)
        return Sinkhorn(rtol=self.rtol, max_steps=self.max_steps).run(problem, start)

    def __hash__(self):
        return id(self)


def test_one_trace_for_problems_of_one_shape():
    counted = Counted()
    for seed, epsilon in ((17, 0.5), (18, 0.3), (19, 0.2)):
        C, a, b = draw(seed)
        solve(CostMatrix(C, epsilon), a, b, counted, certificate=False)
        assert len(counted.traces) == 1


def test_effort_at_small_epsilon():
    """A few dozen steps where sweeps take tens of thousands; a loose alarm, not a benchmark."""
    n = 100
    solver = SinkhornNewton(rtol=RTOL)
    weights = np.full(n, 1 / n)
    random = np.random.default_rng(20).random((n, n))
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2) / 18
    ties = np.abs(grid[:, None] - grid).sum(-1)
    rng = np.random.default_rng(21)
    image, other = rng.random(n) ** 4 + 1e-6, rng.random(n) ** 4 + 1e-6
    rows = [(random, weights, weights, 60), (ties, image / image.sum(), other / other.sum(), 300)]
    for C, a, b, most in rows:
        solution = solve(CostMatrix(C, 1e-3), a, b, solver, certificate=False)
        assert reference.marginal_error(C, 1e-3, a, b, solution.f, solution.g) <= 2e-10
        assert solution.stats["num_steps"] <= most


@pytest.mark.parametrize("relaxed", [False, True])
def test_a_pass_in_blocks_is_the_pass_at_once(monkeypatch, relaxed):
    C, a, b = draw(3)
    a[2] = b[4] = 0
    problem = EntropicProblem(CostMatrix(C, 0.05), jnp.asarray(a), jnp.asarray(b), jnp.asarray(0.7), None)
    f, g = jnp.asarray(C[:, 0] / 9), jnp.asarray(C[1] / 7)
    relax = (f, jnp.asarray(1.3)) if relaxed else None
    whole = stand_at(problem, g, relax, keep=True)
    monkeypatch.setattr(points, "_BLOCK", 4 * M)  # nine rows by four: the last block overlaps
    blocks = stand_at(problem, g, relax, keep=True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-16), blocks, whole)
    columns = blocks.plan.scale @ blocks.plan.matrix
    np.testing.assert_allclose(blocks.columns, columns, rtol=1e-13)
