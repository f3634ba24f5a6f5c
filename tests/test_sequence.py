"""Sequences: each system solved, derivatives exact, tuners fed, faults contained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.sequence import best_fixed

PSD = lx.positive_semidefinite_tag
GRID = 6
N, T = GRID**2, 7
_line = 2 * np.eye(GRID) - np.eye(GRID, k=1) - np.eye(GRID, k=-1)
_grid = np.kron(_line, np.eye(GRID)) + np.kron(np.eye(GRID), _line)
LAPLACIAN = ns.SparseLinearOperator.from_scipy(_grid, PSD)
GENERAL = ns.SparseLinearOperator.from_scipy(_grid)
ON_DIAGONAL = jnp.asarray(LAPLACIAN.pattern.rows == LAPLACIAN.pattern.indices, float)
_rng = np.random.default_rng(1)
SHIFTS = jnp.asarray(_rng.uniform(0, 0.5, T))
VECTORS = jnp.asarray(_rng.standard_normal((T, N)))
SKEW = jnp.asarray(np.where(LAPLACIAN.pattern.rows < LAPLACIAN.pattern.indices, 0.3, 0))


def shifted(shift):
    """`A + shift I`."""
    return LAPLACIAN.with_values(LAPLACIAN.values + shift * ON_DIAGONAL)


def convecting(shift):
    """Not symmetric, so that the adjoint differs."""
    return GENERAL.with_values(LAPLACIAN.values + shift * (ON_DIAGONAL + SKEW))


def references(make_operator=shifted, shifts=SHIFTS, vectors=VECTORS):
    dense = np.stack([make_operator(shift).as_matrix() for shift in shifts])
    return np.linalg.solve(dense, np.asarray(vectors)[..., None])[..., 0]


def omegas(**fields):
    return ns.TsallisINF(jnp.linspace(1, 1.9, 5), **fields)


KEY = jax.random.key(0)
WAYS = {
    "plain": (ns.CG(rtol=1e-12), {}),
    "extrapolated": (ns.CG(rtol=1e-12), {"y0": "extrapolate"}),
    "recycled": (ns.CG(rtol=1e-12, recycle=3), {"recycle": True, "y0": "previous"}),
    "gcro-dr": (ns.GCRODR(rtol=1e-12, restart=8, recycle=3), {"recycle": True}),
    "sorted": (ns.GCRODR(rtol=1e-12, restart=8, recycle=3), {"recycle": True, "order": np.argsort(SHIFTS)}),
    "tuned": (ns.SOR(rtol=1e-12), {"tuner": omegas(), "key": KEY}),
    "tuned by context": (
        ns.CG(rtol=1e-12, preconditioner=ns.preconditioners.SSOR(omega=1.0)),
        {
            "tuner": ns.ChebCB(jnp.linspace(1, 1.9, 5), bounds=(0.0, 0.6)),
            "tuned": "preconditioner.omega",
            "context": SHIFTS,
            "cost": "products",
            "key": KEY,
        },
    ),
    "chosen": (
        [ns.CG(rtol=1e-12), ns.MINRES(rtol=1e-12), ns.SOR(rtol=1e-12)],
        {"tuner": ns.EpsilonGreedy(jnp.arange(3)), "key": KEY},
    ),
}


#: What the others have too: a start, and a recycled subspace in another order.
SIMPLER = ("plain", "gcro-dr")
DIFFERENTIATED = [pytest.param(way, marks=[pytest.mark.full] * (way in SIMPLER)) for way in WAYS]


@pytest.mark.compiles("a scan of solves, forwards and backwards")
@pytest.mark.parametrize("way", DIFFERENTIATED)
def test_every_system_is_solved_and_differentiated(way):
    """Values against dense algebra; reverse and forward derivatives against finite differences, to 1e-6."""
    solver, fields = WAYS[way]
    make_operator = convecting if way in ("gcro-dr", "sorted") else shifted

    @jax.jit
    def solve(shifts, vectors):
        if "context" in fields:  # taken from what is differentiated
            return ns.solve_sequence(make_operator, shifts, vectors, solver, **{**fields, "context": shifts})
        return ns.solve_sequence(make_operator, shifts, vectors, solver, **fields)

    def loss(shifts, vectors):
        return jnp.sum(jnp.sin(solve(shifts, vectors).value))

    solution = solve(SHIFTS, VECTORS)
    assert (solution.result == lx.RESULTS.successful).all()
    np.testing.assert_allclose(solution.value, references(make_operator), rtol=1e-9, atol=1e-9)
    assert solution.stats["num_steps"].shape == (T,)
    value_and_gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    _, (by_shift, by_vector) = value_and_gradient(SHIFTS, VECTORS)
    rng = np.random.default_rng(11)
    direction = jnp.asarray(rng.standard_normal(T)), jnp.asarray(rng.standard_normal((T, N)))
    slope = by_shift @ direction[0] + jnp.vdot(by_vector, direction[1])
    h = 1e-4
    ahead, behind = (
        value_and_gradient(SHIFTS + s * direction[0], VECTORS + s * direction[1])[0] for s in (h, -h)
    )
    steepest = jnp.hypot(jnp.linalg.norm(by_shift), jnp.linalg.norm(by_vector))
    assert abs(slope - (ahead - behind) / (2 * h)) <= 1e-6 * steepest
    _, tangent = jax.jit(lambda d: jax.jvp(loss, (SHIFTS, VECTORS), d))(direction)
    assert abs(slope - tangent) <= 1e-9 * steepest


@pytest.mark.compiles("second derivatives of a scan of solves")
def test_second_derivatives_closures_and_vmap():
    weight = jnp.asarray(1.3)

    def total(weight, shifts):
        def make_operator(shift):
            return shifted(weight * shift)

        solver = ns.CG(rtol=1e-12, recycle=2)
        return jnp.sum(ns.solve_sequence(make_operator, shifts, VECTORS, solver, recycle=True).value ** 2)

    def dense(weight, shifts):
        matrices = (
            jnp.stack([LAPLACIAN.as_matrix()] * T) + (weight * shifts)[:, None, None] * jnp.eye(N)[None]
        )
        return jnp.sum(jnp.linalg.solve(matrices, VECTORS[..., None]) ** 2)

    for derivative in (jax.grad, lambda f: jax.jacfwd(jax.grad(f))):
        ours, theirs = (jax.jit(derivative(f))(weight, SHIFTS) for f in (total, dense))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    batch = jnp.stack([SHIFTS, 2 * SHIFTS])
    mapped = jax.jit(jax.vmap(total, in_axes=(None, 0)))(weight, batch)
    np.testing.assert_allclose(mapped, [dense(weight, shifts) for shifts in batch], rtol=1e-9)


def test_one_bad_system_is_reported_and_the_rest_are_solved():
    """NaN in one system of a thousand, with everything carried from system to system."""
    count, bad = 1000, 400
    rng = np.random.default_rng(12)
    shifts = jnp.asarray(rng.uniform(0, 0.5, count)).at[bad].set(jnp.nan)
    vectors = jnp.asarray(rng.standard_normal((count, N)))
    solution = jax.jit(
        lambda shifts, vectors: ns.solve_sequence(
            shifted,
            shifts,
            vectors,
            ns.GCRODR(rtol=1e-8, restart=8, recycle=3),
            recycle=True,
            y0="previous",
            throw=False,
        )
    )(shifts, vectors)
    failed = np.flatnonzero(solution.result != lx.RESULTS.successful)
    assert failed.tolist() == [bad]
    assert (solution.result == lx.RESULTS.nonfinite_input)[bad]
    products = jax.vmap(lambda shift, x: shifted(shift).mv(x))(shifts, solution.value)
    residuals = np.linalg.norm(np.delete(products - vectors, bad, 0), axis=1)
    assert (residuals <= 1.001e-8 * np.linalg.norm(np.delete(vectors, bad, 0), axis=1)).all()


def test_a_system_that_is_not_solved_raises():
    """By default, and where only a system of the derivative is not."""

    def total(scale, max_steps):
        solver = ns.CG(rtol=1e-8, max_steps=max_steps)
        return jnp.sum(ns.solve_sequence(shifted, scale * SHIFTS, VECTORS, solver).value)

    with pytest.raises(eqx.EquinoxRuntimeError, match="a system was not solved.*CG: All of `max_steps`"):
        total(1.0, 2)

    def start(shift):  # exact for the system itself, so that it takes no step
        exact = jnp.linalg.solve(shifted(shift).as_matrix(), VECTORS[0])
        solver = ns.SequenceSolver(ns.CG(rtol=1e-8, max_steps=2), y0="previous")
        state = solver.init(shifted(shift))._replace(previous=jax.lax.stop_gradient(exact))
        same = jnp.stack([shift, shift])
        found = ns.solve_sequence(
            shifted, same, VECTORS[:1].repeat(2, 0), solver.solvers[0], y0="previous", state=state
        )
        return jnp.sum(found.value)

    assert jnp.isfinite(start(SHIFTS[0]))
    with pytest.raises(RuntimeError, match="a system was not solved"):
        jax.grad(start)(SHIFTS[0])


def test_an_arm_that_diverges_is_capped_and_shunned():
    """Chebyshev bounds below the spectrum diverge: reported for those systems, and rarely chosen again."""
    count = 200
    rng = np.random.default_rng(14)
    shifts, vectors = jnp.zeros(count), jnp.asarray(rng.standard_normal((count, N)))
    tuner = ns.TsallisINF(jnp.asarray([[0.1, 8.0], [0.1, 2.0], [3.0, 3.5]]))
    solution = jax.jit(
        lambda vectors: ns.solve_sequence(
            shifted,
            shifts,
            vectors,
            ns.Chebyshev(rtol=1e-8),
            tuner=tuner,
            tuned="bounds",
            key=KEY,
            throw=False,
        )
    )(vectors)
    good = np.asarray(solution.result == lx.RESULTS.successful)
    arms = np.asarray(solution.arms)
    assert (good == (arms == 0)).all()
    assert (arms[:20] != 0).any() and (arms[-100:] == 0).mean() > 0.9


def test_a_tuner_learns_from_real_solves():
    """Over-relaxation on 36 unknowns: the last systems cost nearly what the best fixed parameter costs."""
    count, grid = 1500, jnp.linspace(1, 1.95, 8)
    rng = np.random.default_rng(0)
    shifts, vectors = jnp.asarray(rng.uniform(0, 0.1, count)), jnp.asarray(rng.standard_normal((count, N)))
    solver = ns.SOR(rtol=1e-8)

    @jax.jit
    def fixed(omega):
        tuned = eqx.tree_at(lambda s: s.omega, solver, omega)
        return ns.solve_sequence(shifted, shifts, vectors, tuned).stats["num_steps"]

    costs = np.stack([fixed(omega) for omega in grid], axis=1)
    _, best = best_fixed(costs)
    solution = jax.jit(
        lambda key: ns.solve_sequence(shifted, shifts, vectors, solver, tuner=ns.TsallisINF(grid), key=key)
    )(KEY)
    steps = np.asarray(solution.stats["num_steps"])
    np.testing.assert_array_equal(steps, costs[np.arange(count), solution.arms])
    assert steps[-500:].mean() <= 1.06 * np.mean(best[-500:])


def test_a_sequence_goes_on_where_another_stopped():
    solver = ns.CG(rtol=1e-10, recycle=3)

    def solve(part, state):
        return ns.solve_sequence(
            shifted, SHIFTS[part], VECTORS[part], solver, recycle=True, y0="previous", state=state
        )

    whole = solve(slice(None), None)
    first = solve(slice(0, 3), None)
    second = solve(slice(3, None), first.state)
    steps = [*first.stats["num_steps"], *second.stats["num_steps"]]
    np.testing.assert_array_equal(steps, whole.stats["num_steps"])


def test_systems_that_arrive_one_by_one():
    """The host-driven form takes the same steps as the compiled loop, and its time can be the cost."""
    solver, fields = ns.GCRODR(rtol=1e-10, restart=8, recycle=3), {"recycle": True, "y0": "previous"}
    together = ns.solve_sequence(shifted, SHIFTS, VECTORS, solver, **fields)
    sequence = ns.SequenceSolver(solver, **fields)
    state = sequence.init(shifted(SHIFTS[0]))
    for t in range(T):
        solution, state = sequence.step(state, shifted(SHIFTS[t]), VECTORS[t])
        assert solution.result == lx.RESULTS.successful
        assert solution.stats["num_steps"] == together.stats["num_steps"][t]
        np.testing.assert_allclose(solution.value, together.value[t], rtol=1e-9, atol=1e-12)

    slow = ns.CG(rtol=1e-10, preconditioner=ns.preconditioners.Jacobi())
    direct = ns.CG(rtol=1e-10, preconditioner=ns.preconditioners.IncompleteCholesky())
    timed = ns.SequenceSolver([slow, direct], tuner=ns.EpsilonGreedy(jnp.arange(2)), cost="seconds")
    state = timed.init(shifted(SHIFTS[0]), KEY)
    for t in range(T):
        solution, state = timed.step(state, shifted(SHIFTS[t]), VECTORS[t])
        assert solution.result == lx.RESULTS.successful and solution.stats["seconds"] > 0
        assert solution.stats["arm"] in (0, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"solver": lx.AutoLinearSolver(well_posed=True)}, "`solver` must be one of nsolve's"),
        ({"recycle": True}, "recycle=True.*CG as given"),
        ({"tuner": "tsallis"}, "`tuner` must be"),
        ({"tuner": omegas(), "key": KEY}, "'omega'.*names no field"),
        ({"solver": ns.SOR(rtol=1e-8), "tuner": omegas()}, "`key` is None"),
        ({"y0": "last"}, "`y0` must be one of"),
        ({"cost": "time"}, "`cost` must be one of"),
        ({"cost": "seconds"}, "SequenceSolver.step"),
        ({"order": [0, 1, 1, 2, 3, 4, 5]}, "`order` must be a permutation"),
        ({"parameters": SHIFTS[:3]}, r"one leading axis.*\[3\] and \[7\]"),
        ({"vectors": VECTORS[:, :-1]}, "`vectors` must have"),
        (
            {
                "solver": ns.SOR(rtol=1e-8),
                "tuner": ns.ChebCB(jnp.linspace(1, 1.9, 3), bounds=(0.0, 0.1)),
                "context": SHIFTS,
                "key": KEY,
            },
            "`context` is .* outside of `bounds`",
        ),
        (
            {
                "solver": ns.SOR(rtol=1e-8),
                "tuner": ns.ChebCB(jnp.linspace(1, 1.9, 3), bounds=(0.0, 1.0)),
                "key": KEY,
            },
            "`context` is None",
        ),
        (
            {
                "solver": ns.SOR(rtol=1e-8),
                "tuner": ns.ChebCB(jnp.linspace(1, 1.9, 3), bounds=(0.0, 1.0)),
                "context": SHIFTS[:2],
                "key": KEY,
            },
            "`context` must have one entry for each of the 7",
        ),
        ({"solver": [ns.CG(rtol=1e-8)] * 2}, "2 solvers need a `tuner`"),
        ({"solver": [ns.CG(rtol=1e-8)] * 2, "tuner": omegas(), "key": KEY}, "one with 5 arms"),
    ],
)
def test_bad_input_is_named(fields, message):
    given = {"parameters": SHIFTS, "vectors": VECTORS, "solver": ns.CG(rtol=1e-8), **fields}
    parameters, vectors, solver = (given.pop(name) for name in ("parameters", "vectors", "solver"))
    with pytest.raises((ValueError, TypeError), match=message):
        ns.solve_sequence(shifted, parameters, vectors, solver, **given)


def test_what_makes_no_operator_is_named():
    with pytest.raises(TypeError, match=r"`make_operator\(parameters\[0\]\)` must be a linear operator"):
        ns.solve_sequence(lambda shift: shift, SHIFTS, VECTORS, ns.CG(rtol=1e-8))
