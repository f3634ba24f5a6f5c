"""What must be true of every solver: each `law_…` takes a row of `tests/cases.py`.

References are dense: `jnp.linalg.solve` on `operator.as_matrix()`, its derivatives, or finite differences.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nsolve as ns

from .cases import Case, precond


def flat(x) -> jax.Array:
    return ravel_pytree(x)[0]


def close(actual, expected, tol=1e-9):
    actual, expected = flat(actual), flat(expected)
    scale = jnp.linalg.norm(expected)
    error = jnp.linalg.norm(actual - expected)
    assert error <= tol * scale + 1e-14, f"relative error {error / scale:.2e} exceeds {tol:.0e}"


def dense_solve(matrix, b):
    vector, unravel = ravel_pytree(b)
    return unravel(jnp.linalg.solve(matrix, vector))


def solve(case: Case, theta, b, **fields):
    return lx.linear_solve(case.kind.operator(theta), b, case(**fields)).value


def relative_residual(operator, x, b):
    return jnp.linalg.norm(flat(operator.mv(x)) - flat(b)) / jnp.linalg.norm(flat(b))


def law_primal(case: Case):
    """Solves, counts, and reports the true residual."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    solution = lx.linear_solve(operator, b, case())
    assert solution.result == lx.RESULTS.successful
    close(solution.value, dense_solve(operator.as_matrix(), b))
    stats = solution.stats
    residual = jnp.linalg.norm(flat(operator.mv(solution.value)) - flat(b))
    # Residuals at rounding level agree to rounding of A x only.
    floor = 1e-15 * jnp.linalg.norm(flat(b)) * jnp.linalg.cond(operator.as_matrix())
    assert abs(stats["residual_norm"] - residual) <= 1e-3 * residual + floor
    assert residual <= 1e-12 * jnp.linalg.norm(flat(b)) + floor
    assert 0 < stats["num_steps"] < stats["max_steps"]
    assert stats["num_matvecs"] >= stats["num_steps"]
    has_preconditioner = case().preconditioner is not None
    assert (stats["num_preconditioner_applications"] > 0) == has_preconditioner


def law_transpose_and_conj(case: Case):
    """`transpose(init(A))` and `conj(init(A))` solve with the transposed and conjugated matrix."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    solver, matrix = case(), operator.as_matrix()
    state = eqx.filter_jit(solver.init)(operator, {})
    for change, expected in ((solver.transpose, matrix.T), (solver.conj, matrix.conj())):
        changed, options = change(state, {})
        value, result, _ = eqx.filter_jit(solver.compute)(changed, b, options)
        assert result == lx.RESULTS.successful
        close(value, dense_solve(expected, b))


def law_derivatives(case: Case):
    """jvp, vjp and hvp in operator and vector are those of the dense solve, and the limit of differences."""
    theta = case.kind.theta
    b, db, c = case.kind.vectors(3)
    rng = np.random.default_rng(11)
    dtheta = jnp.asarray(0.1 * rng.standard_normal(theta.shape)).astype(theta.dtype)

    def everything(solve_):
        def objective(theta, b):
            x = flat(solve_(theta, b))
            return (jnp.vdot(flat(c), x) + jnp.sum(x**3)).real

        def function(theta, b):
            primals, tangents = (theta, b), (dtheta, db)
            value, slope = jax.jvp(objective, primals, tangents)
            gradients, curvature = jax.jvp(jax.grad(objective, argnums=(0, 1)), primals, tangents)
            return value, slope, gradients, curvature

        return jax.jit(function)

    ours = everything(lambda theta, b: solve(case, theta, b))
    dense = everything(lambda theta, b: dense_solve(case.kind.matrix(theta), b))
    actual = ours(theta, b)
    for ours_, expected in zip(actual, dense(theta, b), strict=True):
        close(ours_, expected, 1e-8)
    h = 1e-5
    ahead, behind = (
        ours(theta + step * dtheta, jax.tree.map(lambda x, d, step=step: x + step * d, b, db))[0]
        for step in (h, -h)
    )
    difference = (ahead - behind) / (2 * h)
    assert abs(actual[1] - difference) <= 1e-5 * (abs(difference) + 1)


def law_vmap(case: Case):
    """A batch of systems gives what a loop gives, each with its own count."""
    theta = case.kind.theta
    thetas = jnp.stack([theta, 1.1 * theta, 1.2 * theta])
    bs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *case.kind.vectors(3))

    def one(theta, b):
        solution = lx.linear_solve(case.kind.operator(theta), b, case(), throw=False)
        return solution.value, solution.stats["num_steps"]

    values, steps = jax.jit(jax.vmap(one))(thetas, bs)
    single = jax.jit(one)
    for k in range(3):
        value, count = single(thetas[k], jax.tree.map(lambda leaf, k=k: leaf[k], bs))
        close(jax.tree.map(lambda leaf, k=k: leaf[k], values), value)
        assert abs(int(steps[k]) - int(count)) <= 1


def law_one_trace(case: Case):
    """New values of one shape do not trace or compile again."""
    traces = 0

    @jax.jit
    def function(theta, b):
        nonlocal traces
        traces += 1
        return solve(case, theta, b)

    (b,) = case.kind.vectors(1)
    function(case.kind.theta, b)
    function(1.5 * case.kind.theta, jax.tree.map(lambda leaf: 2 * leaf, b))
    assert traces == 1


def law_single_precision(case: Case):
    """float32 and complex64 stay what they are and reach their tolerance."""
    theta = case.kind.theta
    if case.kind.name == "pytree":
        pytest.skip("the pytree operator has float64 structure")
    small = jnp.complex64 if jnp.issubdtype(theta.dtype, jnp.complexfloating) else jnp.float32
    operator = case.kind.operator(theta.astype(small))
    (b,) = case.kind.vectors(1)
    b = b.astype(small)
    solution = lx.linear_solve(operator, b, case(rtol=1e-5))
    assert solution.value.dtype == small
    assert solution.stats["residual_norm"].dtype == jnp.float32
    assert relative_residual(operator, solution.value, b) <= 1.5e-5
    close(solution.value, dense_solve(operator.as_matrix(), b), 1e-3)


def law_zero_vector(case: Case):
    """`b = 0` gives zero in no steps, whatever the start."""
    operator = case.kind.operator(case.kind.theta)
    (y0,) = case.kind.vectors(1)
    zero = jax.tree.map(jnp.zeros_like, y0)
    for options in ({}, {"y0": y0}):
        solution = lx.linear_solve(operator, zero, case(), options=options)
        assert solution.stats["num_steps"] == 0
        assert not flat(solution.value).any()


def law_sparse_vector(case: Case):
    """`b = e_1` with `atol=0`, where element-wise rules divide zero by zero."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    vector, unravel = ravel_pytree(b)
    b = unravel(jnp.zeros_like(vector).at[0].set(1))
    solution = lx.linear_solve(operator, b, case(rtol=1e-8))
    assert relative_residual(operator, solution.value, b) <= 1.01e-8


def law_scale_invariance(case: Case):
    """Tiny and huge right-hand sides take the same path."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    reference = lx.linear_solve(operator, b, case())
    for factor in (2.0**-800, 2.0**800):
        scaled = jax.tree.map(lambda leaf, factor=factor: factor * leaf, b)
        solution = lx.linear_solve(operator, scaled, case())
        assert solution.stats["num_steps"] == reference.stats["num_steps"]
        close(jax.tree.map(lambda leaf, factor=factor: leaf / factor, solution.value), reference.value)


def law_exact_start(case: Case):
    """Started at the solution there is nothing to do; started nearby, less than from zero."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    exact = dense_solve(operator.as_matrix(), b)
    solution = lx.linear_solve(operator, b, case(rtol=1e-9), options={"y0": exact})
    assert solution.stats["num_steps"] == 0
    close(solution.value, exact)


def law_out_of_steps(case: Case):
    """Too few steps are `max_steps_reached`, with the iterate and its residual; `throw` raises."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    solution = lx.linear_solve(operator, b, case(max_steps=1), throw=False)
    if isinstance(case().preconditioner, precond.Multigrid):
        assert solution.result == lx.RESULTS.successful  # on so small a grid it is a direct solver
        return
    assert solution.result == lx.RESULTS.max_steps_reached
    assert solution.stats["num_steps"] == 1
    residual = relative_residual(operator, solution.value, b) * jnp.linalg.norm(flat(b))
    assert abs(solution.stats["residual_norm"] - residual) <= 1e-10 * residual
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        lx.linear_solve(operator, b, case(max_steps=1))


def law_history(case: Case):
    """Residual norms: the first is the start's, the last the true one, NaN after it."""
    operator = case.kind.operator(case.kind.theta)
    (b,) = case.kind.vectors(1)
    stats = lx.linear_solve(operator, b, case(history=True, max_steps=1000, rtol=1e-8)).stats
    norms, steps = stats["residual_norms"], int(stats["num_steps"])
    assert norms.shape == (1001,)
    assert abs(norms[0] - jnp.linalg.norm(flat(b))) <= 1e-12 * norms[0]
    assert norms[steps] == stats["residual_norm"]
    assert jnp.isfinite(norms[: steps + 1]).all() and jnp.isnan(norms[steps + 1 :]).all()


def law_nonfinite(case: Case):
    """NaN or Inf anywhere in vector or operator is `nonfinite_input`: never a success, never a hang."""
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    vector, unravel = ravel_pytree(b)
    spoiled_theta = theta.reshape(-1).at[1].set(jnp.nan).reshape(theta.shape)

    @jax.jit
    def result(theta, vector):
        return lx.linear_solve(case.kind.operator(theta), unravel(vector), case(), throw=False).result

    for bad in (jnp.nan, jnp.inf):
        assert result(theta, vector.at[2].set(bad)) == lx.RESULTS.nonfinite_input
    assert result(spoiled_theta, vector) == lx.RESULTS.nonfinite_input


def law_singular(case: Case):
    """Consistent singular systems are solved or refused, inconsistent ones refused; none is mis-solved."""
    if case.kind.singular is None:
        pytest.skip("this kind has no singular member")
    operator, null = case.kind.singular()
    b = jnp.arange(9.0) ** 2
    for consistent, vector in ((True, b - null * (b @ null) / (null @ null)), (False, b)):
        solution = lx.linear_solve(operator, vector, case(rtol=1e-8), throw=False)
        if solution.result == lx.RESULTS.successful:
            assert relative_residual(operator, solution.value, vector) <= 1.01e-8
            assert consistent
        else:
            assert not consistent or case().preconditioner is not None or case.stationary


def law_indefinite(case: Case):
    """An indefinite matrix that claims to be definite is found out, or solved after all."""
    if not case.definite or case.kind.indefinite is None:
        pytest.skip("no definiteness asked for")
    operator = case.kind.indefinite()
    b = jnp.arange(1.0, 17.0)
    solution = lx.linear_solve(operator, b, case(rtol=1e-8), throw=False)
    assert solution.result != lx.RESULTS.successful or (
        relative_residual(operator, solution.value, b) <= 1.01e-8
    )
    if type(case()) is ns.CG and case().preconditioner is None:
        assert solution.result == lx.RESULTS.breakdown


def law_state_reuse(case: Case):
    """A state from `init` serves many vectors."""
    operator = case.kind.operator(case.kind.theta)
    solver = case()
    state = eqx.filter_jit(solver.init)(operator, {})
    for b in case.kind.vectors(2):
        solution = lx.linear_solve(operator, b, solver, state=state)
        close(solution.value, dense_solve(operator.as_matrix(), b))


def law_unroll(case: Case):
    """`unroll` takes the solver's steps, and its gradient is the limit of differences."""
    theta = case.kind.theta
    b, c = case.kind.vectors(2)
    steps = 3
    solver = case()

    @jax.jit
    def objective(theta, b):
        value = ns.unroll(solver, case.kind.operator(theta), b, steps).value
        return (jnp.vdot(flat(c), flat(value)) + jnp.sum(flat(value) ** 2)).real

    operator = case.kind.operator(theta)
    unrolled = ns.unroll(solver, operator, b, steps)
    solved = lx.linear_solve(operator, b, case(max_steps=steps), throw=False)
    close(unrolled.value, solved.value, 1e-10)
    assert unrolled.stats["residual_norms"].shape == (steps + 1,)
    gradient = jax.grad(objective, argnums=(0, 1))(theta, b)
    rng = np.random.default_rng(13)

    def random_like(leaf):
        noise = jnp.asarray(rng.standard_normal(leaf.shape))
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            noise = noise + 1j * jnp.asarray(rng.standard_normal(leaf.shape))
        return noise.astype(leaf.dtype)

    direction = jax.tree.map(random_like, (theta, b))
    if isinstance(
        case().preconditioner, ns.preconditioners.IncompleteCholesky | ns.preconditioners.IncompleteLU
    ):
        direction = (jnp.zeros_like(theta), direction[1])  # factors are constants by contract
    h = 1e-6
    ahead = jax.tree.map(lambda x, d: x + h * d, (theta, b), direction)
    behind = jax.tree.map(lambda x, d: x - h * d, (theta, b), direction)
    difference = (objective(*ahead) - objective(*behind)) / (2 * h)
    # JAX's gradient of a real function of complex z is the conjugate of the steepest ascent.
    slope = sum(
        jnp.sum(g * d).real
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert abs(slope - difference) <= 1e-5 * (abs(difference) + jnp.linalg.norm(flat(gradient)))


LAWS = [value for name, value in sorted(globals().items()) if name.startswith("law_")]
