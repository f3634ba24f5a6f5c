"""`unroll`: a fixed number of steps of a solver, differentiable in everything."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from ._results import Stats
from ._stopping import power_of_two_scale, tolerance
from ._vectors import Vector, norm, scale, subtract, where, zeros_like
from .linear.base import AbstractIterativeSolver, as_vector
from .operators.base import require_operator


def unroll(
    solver: AbstractIterativeSolver,
    operator: lx.AbstractLinearOperator,
    vector: Vector,
    num_steps: int,
    options: dict[str, Any] | None = None,
) -> lx.Solution:
    """Runs a fixed number of a solver's steps, differentiable in *everything*.

    `lx.linear_solve` differentiates the solution of the system, which does not depend on how it was found;
    the derivative of *this* function is that of the iterate after `num_steps` steps: with respect to the
    operator's values, the vector, the start, and the parameters of the solver and its preconditioner.  That
    is how learned preconditioners are trained and relaxation parameters tuned by gradient.

    **Arguments:** a solver of this package; the operator and the vector as for `lx.linear_solve`; the number
    of steps, static; `options` as for the solver (`preconditioner`, `y0`).  A preconditioner *constructor* is
    called through its `build`, so that `M`'s dependence on the operator is differentiated, too (incomplete
    factorisations, whose factors are treated as constants, excepted).  Bounds that `Chebyshev` estimates are
    differentiated through their Lanczos steps, which loses digits (per cents were seen) where eigenvalues
    coincide, as on a square grid: give `bounds`.

    **Returns** an `lx.Solution`: `value`; `result`, `successful` where the final residual meets the solver's
    tolerance, else `max_steps_reached`; `stats` with `num_steps`, `residual_norm` (computed) and
    `residual_norms` (the recursion's, `(num_steps + 1,)`), which are differentiable as well.

    Cost: forward, as the solver's; reverse, about three times that, keeping one state of the method a step.
    Restarted methods restart as in a solve; once the residual is down to rounding, further steps change
    nothing.
    """
    if not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"`num_steps` must be an integer >= 0, but is {num_steps!r}.")
    if not isinstance(solver, AbstractIterativeSolver):
        raise TypeError(
            f"`solver` must be one of nsolve's iterative solvers, but is a {type(solver).__name__}."
        )
    require_operator(operator, "operator")
    return _run(solver, operator, vector, num_steps, {} if options is None else options)


@eqx.filter_jit
def _run(
    solver: AbstractIterativeSolver,
    operator: lx.AbstractLinearOperator,
    vector: Vector,
    num_steps: int,
    options: dict[str, Any],
) -> lx.Solution:
    if "recycled" in options:
        raise ValueError("`options['recycled']` is for solves: `unroll` starts without a subspace.")
    vector = as_vector(vector, operator.out_structure(), "vector")
    system = solver.prepare(solver.precondition(operator, options, differentiable=True))
    unit = jax.lax.stop_gradient(power_of_two_scale(vector))
    method = solver.method(system.in_units_of(unit) if solver.preconditions_residuals else system)
    vector = scale(1 / unit, vector)
    if options.get("y0") is None:
        x, r = zeros_like(vector), vector
    else:
        x = as_vector(options["y0"], operator.in_structure(), "options['y0']")
        x = x if system.unit is None else scale(system.unit, x)
        x = scale(1 / unit, x)
        r = subtract(vector, system.product(x))
    norms = [norm(r)[None]]
    # Past this the iterate no longer changes, but quotients of vanishing numbers would spoil derivatives.
    rounding = jnp.finfo(norms[0].dtype).eps * jax.lax.stop_gradient(norm(vector))

    @jax.checkpoint
    def step(state, _):
        advanced = method.step(state)
        # A broken method stays where it is: x is what it was, not NaN.
        frozen = state.broken | (state.residual_norm <= rounding)
        state = where(frozen, state, advanced)
        return state, state.residual_norm

    remaining, memory = num_steps, method.memory
    while remaining > 0:
        length = remaining if method.cycle_length is None else min(remaining, method.cycle_length)
        state, residual_norms = jax.lax.scan(step, method.open(x, r, memory), length=length)
        x, memory = method.finish(state), method.close(state)
        r = subtract(vector, system.product(x))
        norms.append(residual_norms)
        remaining -= length
    residual_norm = norm(r)
    result = lx.RESULTS.where(
        residual_norm <= tolerance(vector, solver.rtol, jnp.asarray(solver.atol, unit.dtype) / unit),
        lx.RESULTS.successful,
        lx.RESULTS.max_steps_reached,
    )
    stats = Stats(
        num_steps=num_steps,
        residual_norm=unit * residual_norm,
        residual_norms=unit * jnp.concatenate(norms),
    )
    value = scale(unit, x)
    if system.unit is not None:
        value = scale(1 / system.unit, value)
    return lx.Solution(value=value, result=result, stats=stats, state=system)
