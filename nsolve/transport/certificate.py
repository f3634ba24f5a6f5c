"""How far potentials are from the solution, to first order."""

import jax.numpy as jnp
from jaxtyping import Array

from ._implicit import hessian, solve_schur
from ._point import Kernel
from ._problem import EntropicProblem, middle


def certify(problem: EntropicProblem, f: Array, g: Array) -> dict[str, Array]:
    """The length of Newton's step from `(f, g)`, and what follows for cost and plan.

    With `(df, dg)` the step, a first-order estimate of the error: `potential_error = max |df|, |dg|`;
    `cost_error`, half of the step's product with the gradient; `gradient_error = sum_ij P_ij |df_i + dg_j| /
    epsilon`, the first-order change of the plan (where costs are streamed, its bound by the triangle
    inequality), or half of the marginal error, which it cannot be below, if that is larger.
    All are infinite where no step was found: the plan falls into pieces that do not see each other's mass.
    """
    epsilon = problem.geometry.epsilon
    rows, columns = problem.missing(f, g)
    operator = hessian(problem, f, g)
    inverse_rows = operator.inverse_rows
    right = columns - operator.plan.rmv(inverse_rows * rows)
    step, found = solve_schur(operator, right, throw=False, rtol=1e-4)
    dg = epsilon * step
    df = inverse_rows * (epsilon * rows - operator.plan.mv(dg))
    if problem.balanced:
        constant = middle(dg, problem.b)
        df, dg = df + constant, dg - constant
    df, dg = jnp.where(problem.a > 0, df, 0), jnp.where(problem.b > 0, dg, 0)
    plan = operator.plan
    if isinstance(plan, Kernel):
        change = jnp.sum(plan.scale[:, None] * plan.matrix * jnp.abs(df[:, None] + dg[None, :]))
    else:
        change = jnp.vdot(plan.mv(jnp.ones_like(g)), jnp.abs(df)) + jnp.vdot(
            plan.rmv(jnp.ones_like(f)), jnp.abs(dg)
        )
    least = 0.5 * (jnp.sum(jnp.abs(rows)) + jnp.sum(jnp.abs(columns)))
    estimates = {
        "potential_error": jnp.maximum(jnp.max(jnp.abs(df)), jnp.max(jnp.abs(dg))),
        "cost_error": 0.5 * jnp.abs(jnp.vdot(rows, df) + jnp.vdot(columns, dg)),
        "gradient_error": jnp.maximum(change / epsilon, least),
    }
    return {name: jnp.where(found, estimate, jnp.inf) for name, estimate in estimates.items()}
