"""What must be true of every solver: each `law_…` takes a row of `tests/subjects/linear.py`.

References are dense: NumPy's solve with `operator.as_matrix()`, its derivatives, or finite differences.

Compiling is what these laws cost.  So those that differ in values only share the programs of the row
(`Case.solve`), singular and indefinite systems included, and what is compared is compared in NumPy.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nsolve as ns

from .subjects.linear import Case, Kind, normal, precond


def flat(x) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])


def unflat(vector: np.ndarray, like):
    """The entries of a flat vector in the structure of another."""
    leaves, structure = jax.tree.flatten(like)
    parts = np.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])


def norm(x) -> float:
    return float(np.linalg.norm(flat(x)))


def close(actual, expected, tol=1e-9):
    error, scale = norm(flat(actual) - flat(expected)), norm(expected)
    assert error <= tol * scale + 1e-14, f"relative error {error / scale:.2e} exceeds {tol:.0e}"


def solved(case: Case, theta, b, *args, **kwargs) -> lx.Solution:
    """The solution, which must be one."""
    solution = case.solve(theta, b, *args, **kwargs)
    assert solution.result == lx.RESULTS.successful
    return solution


def residual(case: Case, theta, solution: lx.Solution, b) -> float:
    return norm(case.kind.matrix(theta) @ flat(solution.value) - flat(b))


def law_primal(case: Case):
    """Solves, counts, and reports the true residual."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    matrix = case.kind.matrix(theta)
    solution = solved(case, theta, b)
    close(solution.value, np.linalg.solve(matrix, flat(b)))
    stats, true = solution.stats, residual(case, theta, solution, b)
    # Residuals at rounding level agree to rounding of A x only.
    floor = 1e-15 * norm(b) * np.linalg.cond(matrix)
    assert abs(stats["residual_norm"] - true) <= 1e-3 * true + floor
    assert true <= 1e-12 * norm(b) + floor
    assert 0 < stats["num_steps"] < stats["max_steps"]
    assert stats["num_matvecs"] >= stats["num_steps"]
    has_preconditioner = not {"preconditioner", "inner"}.isdisjoint(case.options)
    assert (stats["num_preconditioner_applications"] > 0) == has_preconditioner


def law_transpose_and_conj(case: Case):
    """`transpose(init(A))` and `conj(init(A))` solve with the transposed and conjugated matrix."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    solver, matrix, state = case(), case.kind.matrix(theta), case.init(theta)
    compute, dense = eqx.filter_jit(solver.compute), eqx.filter_jit(lambda operator: operator.as_matrix())
    if np.iscomplexobj(matrix):
        changes = [(solver.transpose(state, {}), np.transpose), (solver.conj(state, {}), np.conj)]
    else:  # `conj` has nothing to change, so one solve shows both
        changes = [(solver.conj(*solver.transpose(state, {})), np.transpose)]
    for (changed, options), change in changes:
        value, result, _ = compute(changed, b, options)
        assert result == lx.RESULTS.successful
        close(value, np.linalg.solve(change(matrix), flat(b)))
        if state.preconditioner is not None:  # a wrong one would only cost steps
            close(dense(changed.preconditioner), change(np.asarray(dense(state.preconditioner))))


def law_derivatives(case: Case):
    """jvp, vjp and hvp in operator and vector are those of the dense solve, and the limit of differences."""

    def solve(theta, b):
        return lx.linear_solve(case.kind.operator(theta), b, case()).value

    b, db, c = case.kind.vectors(3)
    theta, dtheta = case.kind.theta, direction(case.kind)
    actual, expected = derivatives(case.kind, solve), dense_derivatives(case.kind)
    for ours, dense in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        close(ours, dense, 1e-8)

    def objective(h):
        moved = jax.tree.map(lambda x, d: x + h * d, b, db)
        x = flat(solved(case, theta + h * dtheta, moved).value)
        return (np.vdot(flat(c), x) + np.sum(x**3)).real

    h = 1e-5
    difference, (_, (slope, _)) = (objective(h) - objective(-h)) / (2 * h), actual
    assert abs(slope - difference) <= 1e-5 * (abs(difference) + 1)


def direction(kind: Kind):
    return 0.1 * normal(np.random.default_rng(11), kind.theta.shape, kind.theta.dtype)


def derivatives(kind: Kind, solve):
    """`((value, gradients), (slope, curvatures))` of a function of the solution, in one program."""
    b, db, c = kind.vectors(3)

    def objective(theta, b):
        x, _ = ravel_pytree(solve(theta, b))
        return (jnp.vdot(ravel_pytree(c)[0], x) + jnp.sum(x**3)).real

    @jax.jit
    def function(*args):
        return jax.jvp(jax.value_and_grad(objective, argnums=(0, 1)), args, (direction(kind), db))

    return jax.device_get(function(kind.theta, b))


@functools.cache
def dense_derivatives(kind: Kind):
    def solve(theta, b):
        return jnp.linalg.solve(kind.operator(theta).as_matrix(), ravel_pytree(b)[0])

    return derivatives(kind, solve)


def law_vmap(case: Case):
    """A batch of systems gives what a loop gives, each with its own count."""
    thetas = np.stack([case.kind.theta * factor for factor in (1.0, 1.1, 1.2)])
    bs = case.kind.vectors(3)

    @jax.jit
    @jax.vmap
    def batch(theta, b):
        solution = lx.linear_solve(case.kind.operator(theta), b, case(), throw=False)
        return solution.value, solution.stats["num_steps"]

    values, steps = jax.device_get(batch(thetas, jax.tree.map(lambda *leaves: np.stack(leaves), *bs)))
    for k in range(3):
        single = solved(case, thetas[k], bs[k])
        close(jax.tree.map(lambda leaf, k=k: leaf[k], values), single.value)
        assert abs(int(steps[k]) - int(single.stats["num_steps"])) <= 1


def law_one_trace(case: Case):
    """New values of one shape do not trace or compile again."""
    (b,) = case.kind.vectors(1)
    case.solve(case.kind.theta, b)
    traces = len(case.traces)
    assert traces
    case.solve(1.5 * case.kind.theta, jax.tree.map(lambda leaf: 2 * leaf, b), rtol=1e-3)
    assert len(case.traces) == traces


def law_single_precision(case: Case):
    """float32 and complex64 stay what they are and reach their tolerance."""
    if case.kind.name == "pytree":
        pytest.skip("the pytree operator has float64 structure")
    small = jnp.complex64 if jnp.iscomplexobj(case.kind.theta) else jnp.float32
    theta = case.kind.theta.astype(small)
    b = case.kind.vectors(1)[0].astype(small)
    solution = solved(case, theta, b, rtol=1e-5)
    assert solution.value.dtype == small
    assert solution.stats["residual_norm"].dtype == jnp.float32
    assert residual(case, theta, solution, b) <= 1.5e-5 * norm(b)
    close(solution.value, np.linalg.solve(case.kind.matrix(theta), flat(b)), 1e-3)
    # More than the precision attains is no breakdown of the method.
    solution = case.solve(theta, b, rtol=1e-14)
    assert solution.result == lx.RESULTS.stagnation
    assert residual(case, theta, solution, b) <= 1e-4 * norm(b)


def law_zero_vector(case: Case):
    """`b = 0` gives zero in no steps, whatever the start."""
    theta, (y0,) = case.kind.theta, case.kind.vectors(1)
    zero = jax.tree.map(np.zeros_like, y0)
    for start in ({}, {"state": case.init(theta), "y0": y0}):
        solution = solved(case, theta, zero, **start)
        assert solution.stats["num_steps"] == 0
        assert not flat(solution.value).any()


def law_sparse_vector(case: Case):
    """`b = e_1` with `atol=0`, where element-wise rules divide zero by zero."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    vector = np.zeros_like(flat(b))
    vector[0] = 1
    solution = solved(case, theta, unflat(vector, b), rtol=1e-8)
    assert residual(case, theta, solution, vector) <= 1.01e-8


def law_scale_invariance(case: Case):
    """Tiny and huge right-hand sides take the same path."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    reference = solved(case, theta, b)
    for factor in (2.0**-800, 2.0**800):
        solution = solved(case, theta, jax.tree.map(lambda leaf, factor=factor: factor * leaf, b))
        assert solution.stats["num_steps"] == reference.stats["num_steps"]
        close(flat(solution.value) / factor, reference.value)


def law_operator_scale(case: Case):
    """Tiny and huge operators take the same path."""
    if case.kind.name in ("pytree", "step"):
        pytest.skip("its parameters do not scale the operator")
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    reference = solved(case, theta, b)
    for factor in (2.0**-565, 2.0**515):
        solution = solved(case, factor * theta, b)
        assert abs(int(solution.stats["num_steps"]) - int(reference.stats["num_steps"])) <= 1
        close(factor * flat(solution.value), reference.value)


def law_distant_start(case: Case):
    """A start that is larger than the solution by all digits does not stop a solve."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    small = jax.tree.map(lambda leaf: 1e-20 * leaf, b)
    for start in (1.0, 1e-12):
        y0 = jax.tree.map(lambda leaf, start=start: np.full_like(leaf, start), b)
        solution = solved(case, theta, small, 1e-9, case.init(theta), y0)
        assert residual(case, theta, solution, small) <= 1.01e-9 * norm(small)


def law_exact_start(case: Case):
    """Started at the solution there is nothing to do; started nearby, no more than from zero."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    exact, state = np.linalg.solve(case.kind.matrix(theta), flat(b)), case.init(theta)
    solution = solved(case, theta, b, 1e-9, state, unflat(exact, b))
    assert solution.stats["num_steps"] == 0
    close(solution.value, exact)
    nearby = unflat((1 + 1e-6) * exact, b)
    solution = solved(case, theta, b, 1e-9, state, nearby)
    assert 0 < solution.stats["num_steps"] <= solved(case, theta, b, 1e-9).stats["num_steps"]


def law_out_of_steps(case: Case):
    """Too few steps are `max_steps_reached`, with the best iterate and its residual."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    stats = solved(case, theta, b, 1e-8).stats
    # On so small a grid multigrid is a direct solver, and takes one step.
    norms, limit = stats["residual_norms"], min(3, int(stats["num_steps"]) - 1)
    assert limit == (0 if isinstance(case().preconditioner, precond.Multigrid) else 3)
    solution = case.solve(theta, b, max_steps=limit)
    assert solution.result == lx.RESULTS.max_steps_reached
    assert solution.stats["num_steps"] == limit
    true = residual(case, theta, solution, b)
    assert abs(solution.stats["residual_norm"] - true) <= 1e-10 * true
    assert true <= 1.02 * norms[: limit + 1].min()


def law_history(case: Case):
    """Residual norms: the first is the start's, the last the true one, NaN after it."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    stats = solved(case, theta, b, rtol=1e-8).stats
    norms, steps = stats["residual_norms"], int(stats["num_steps"])
    assert norms.shape == (stats["max_steps"] + 1,)
    assert abs(norms[0] - norm(b)) <= 1e-12 * norms[0]
    assert norms[steps] == stats["residual_norm"]
    assert np.isfinite(norms[: steps + 1]).all() and np.isnan(norms[steps + 1 :]).all()


def law_nonfinite(case: Case):
    """NaN or Inf anywhere in vector or operator is `nonfinite_input`: never a success, never a hang."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    for bad in (np.nan, np.inf):
        vector = flat(b)
        vector[2] = bad
        assert case.solve(theta, unflat(vector, b)).result == lx.RESULTS.nonfinite_input
    spoiled = np.array(theta)
    spoiled.reshape(-1)[1] = np.nan
    assert case.solve(spoiled, b).result == lx.RESULTS.nonfinite_input


def law_singular(case: Case):
    """Consistent singular systems are solved, but by methods whose iteration need not end on one;
    inconsistent ones are refused."""
    theta = case.kind.singular
    if theta is None:
        pytest.skip("this kind has no singular member")
    matrix = case.kind.matrix(theta)
    in_range = matrix @ np.arange(len(matrix)) ** 2
    outside = in_range + np.linalg.norm(in_range) * np.linalg.svd(matrix.T)[2][-1]  # null vector of A^T
    for consistent, b in ((True, in_range), (False, outside)):
        solution = case.solve(theta, b, rtol=1e-8)
        true = residual(case, theta, solution, b)
        if solution.result == lx.RESULTS.successful:
            assert true <= 1.01e-8 * norm(b)
            assert consistent
        else:
            assert 1e-8 * norm(b) < true <= norm(b)
            assert not consistent or case.stationary


def law_best_iterate(case: Case):
    """Of an inconsistent system the best iterate met is returned, not what the method makes of it later."""
    theta = case.kind.singular
    if theta is None:
        pytest.skip("this kind has no singular member")
    matrix = case.kind.matrix(theta)
    in_range = matrix @ np.arange(len(matrix)) ** 2
    b = in_range + 1e-7 * np.linalg.norm(in_range) * np.linalg.svd(matrix.T)[2][-1]
    solution = case.solve(theta, b, rtol=1e-9)
    assert solution.result != lx.RESULTS.successful
    true = residual(case, theta, solution, b)
    rounding = 1e-15 * np.linalg.norm(matrix, 2) * norm(solution.value)  # null vectors may have grown
    assert abs(solution.stats["residual_norm"] - true) <= 1e-3 * true + rounding
    assert true <= max(1e-6 * norm(b), 1.02 * np.nanmin(solution.stats["residual_norms"]))


def law_indefinite(case: Case):
    """An indefinite matrix that claims to be definite is found out, or solved after all."""
    theta, (b,) = case.kind.indefinite, case.kind.vectors(1)
    if not case.definite or theta is None:
        pytest.skip("no definiteness asked for")
    solution = case.solve(theta, b, rtol=1e-8)
    if solution.result == lx.RESULTS.successful:
        assert residual(case, theta, solution, b) <= 1.01e-8 * norm(b)
    if type(case()) is ns.CG and case().preconditioner is None:
        assert solution.result == lx.RESULTS.breakdown


def law_state_reuse(case: Case):
    """A state from `init` serves many vectors."""
    theta, bs = case.kind.theta, case.kind.vectors(2)
    state, zero = case.init(theta), jax.tree.map(np.zeros_like, bs[0])
    for b in bs:
        solution = solved(case, theta, b, state=state, y0=zero)
        close(solution.value, np.linalg.solve(case.kind.matrix(theta), flat(b)))


def law_unroll(case: Case):
    """`unroll` takes the solver's steps, and its gradient is the limit of differences."""
    b, c = case.kind.vectors(2)
    args, steps, solver = (case.kind.theta, b), 3, case()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def differentiate(theta, b):
        unrolled = ns.unroll(solver, case.kind.operator(theta), b, steps)
        x, _ = ravel_pytree(unrolled.value)
        objective = (jnp.vdot(ravel_pytree(c)[0], x) + jnp.sum(x**2)).real
        return objective, (unrolled.value, unrolled.stats["residual_norms"])

    (_, (value, norms)), gradient = jax.device_get(differentiate(*args))
    close(value, case.solve(*args, rtol=0.0, max_steps=steps).value, 1e-10)  # the last iterate
    assert norms.shape == (steps + 1,)
    rng = np.random.default_rng(13)
    towards = jax.tree.map(lambda leaf: normal(rng, leaf.shape, leaf.dtype), args)
    if isinstance(solver.preconditioner, precond.IncompleteCholesky | precond.IncompleteLU):
        towards = (np.zeros_like(args[0]), towards[1])  # factors are constants by contract

    def objective(h):
        return differentiate(*jax.tree.map(lambda x, d: x + h * d, args, towards))[0][0]

    h = 1e-6
    difference = (objective(h) - objective(-h)) / (2 * h)
    # JAX's gradient of a real function of complex z is the conjugate of the steepest ascent.
    slope = np.sum(flat(gradient) * flat(towards)).real
    assert abs(slope - difference) <= 1e-5 * (abs(difference) + norm(gradient))


LAWS = [value for name, value in sorted(globals().items()) if name.startswith("law_")]
#: What `make test-all` asks of every solver with every preconditioner.
DERIVATIVE_LAWS = [law_derivatives, law_unroll]
